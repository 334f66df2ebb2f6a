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
	seen     *bounded[source, *int]
	perRelay map[netip.Prefix]int // M3s of all allocations at one relay that are in seen
}

func newRequestQuota() requestQuota {
	q := requestQuota{perRelay: make(map[netip.Prefix]int)}
	q.seen = newBounded(maxSources, sourceWindow, func(s source, n *int) {
		if s.relay != "" {
			add(q.perRelay, s.prefix, -*n)
		}
	})
	return q
}

func (q requestQuota) allow(now time.Time, s source) bool {
	n, ok := q.seen.get(now, s)
	limit := requestsPerSource
	if s.relay != "" {
		limit = requestsPerRelay
		// Before it takes a place: what a relay makes up must not fill the table.
		if q.perRelay[s.prefix] >= requestsPerRelayHost {
			return false
		}
	}
	if !ok {
		n = new(int)
		if !q.seen.put(now, s, n) {
			return false
		}
	}
	if *n >= limit {
		return false
	}
	*n++
	if s.relay != "" {
		add(q.perRelay, s.prefix, 1)
	}
	return true
}
