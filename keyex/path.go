package keyex

import (
	"fmt"
	"net/netip"
	"time"
)

// Path is one way to a peer. It is comparable.
type Path struct {
	Addr  netip.AddrPort // the peer's address, or the relay's
	Relay string         // the allocation at the relay, opaque; empty means direct
}

// String returns the address, and the allocation of a relayed path.
func (p Path) String() string {
	if p.Relay == "" {
		return p.Addr.String()
	}
	return fmt.Sprintf("%v via relay %q", p.Addr, p.Relay)
}

// clean gives equal paths equal values: an IPv4-mapped IPv6 address is an IPv4
// address, and zones stay at home.
func (p Path) clean() Path {
	p.Addr = netip.AddrPortFrom(p.Addr.Addr().Unmap().WithZone(""), p.Addr.Port())
	return p
}

func (p Path) valid() bool { return p.Addr.IsValid() && len(p.Relay) <= maxRelayName }

// source is what quotas count: an IPv4 address, an IPv6 /64, or one allocation
// at one relay.
type source struct {
	prefix netip.Prefix
	relay  string
}

func (p Path) source() source {
	a := p.Addr.Addr()
	bits := 32
	if a.Is6() {
		bits = 64
	}
	return source{prefix: netip.PrefixFrom(a, bits).Masked(), relay: p.Relay}
}

// requestQuota limits how many M3s of a source may get as far as a signature
// check, in windows that begin with the first one.
type requestQuota struct {
	seen *bounded[source, *int]
}

func newRequestQuota() requestQuota {
	return requestQuota{newBounded[source, *int](maxSources, sourceWindow, nil)}
}

func (q requestQuota) allow(now time.Time, s source) bool {
	limit := requestsPerSource
	if s.relay != "" {
		limit = requestsPerRelay
	}
	n, ok := q.seen.get(now, s)
	if !ok {
		n = new(int)
		if !q.seen.put(now, s, n) {
			return false
		}
	}
	*n++
	return *n <= limit
}
