package port

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"icvpn/admission"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/overlay"
)

// DHT sends the overlay's datagrams under a ring's newest epoch: an
// overlay.Transport.
type DHT struct {
	Port *Port
	Ring *seal.Ring
}

var _ overlay.Transport = DHT{}

// WriteTo implements overlay.Transport.
func (d DHT) WriteTo(pkt []byte, to netip.AddrPort) error {
	return d.Port.SendControl(d.Ring, seal.TypeDHT, seal.Newest, pkt, overlay.PaddedLen(pkt), to)
}

// answer sends the answers to one query: under its epoch, and never larger than
// it was.
type answer struct {
	DHT
	epoch uint32
	room  int
}

// WriteTo implements overlay.Transport.
func (a answer) WriteTo(pkt []byte, to netip.AddrPort) error {
	if len(pkt) > a.room {
		return errNoRoom
	}
	return a.Port.SendControl(a.Ring, seal.TypeDHT, a.epoch, pkt, 0, to)
}

var errNoRoom = errors.New("port: answer is larger than its query")

// Deliver hands an opened datagram to the overlay of d.
func (d DHT) Deliver(o *overlay.Overlay, in seal.Opened, from netip.AddrPort) {
	if overlay.IsAnswer(in.Payload) {
		o.Deliver(in.Payload, from)
		return
	}
	o.DeliverVia(in.Payload, from, answer{d, in.Epoch, in.Room})
}

// IsAnswer says which authentic datagrams may pass a full nonce set: those that
// answer something of ours, so that playing them again gains nothing. The
// overlay, reflection, renewals and relays' askers match answers to their queries; M2 to M4 of a
// key exchange, told by their first byte, are matched to its transcript and cookie.
func IsAnswer(typ seal.Type, payload []byte) bool {
	switch typ {
	case seal.TypeDHT:
		return overlay.IsAnswer(payload)
	case seal.TypeKE:
		return len(payload) > 0 && payload[0] >= 2
	case seal.TypeReflect:
		_, _, ok := ParseReflected(payload)
		return ok
	case seal.TypeRelay:
		return relay.IsAnswer(payload)
	case seal.TypeRenewal:
		return admission.IsRenewalAnswer(payload)
	}
	return false
}

// Resolver turns host:port into addresses, in the background, so that Addrs is
// quick. Numbers need no lookup and are there at once.
type Resolver struct {
	mu      sync.Mutex
	hosts   []string
	addrs   []netip.AddrPort
	looked  time.Time
	looking bool
}

// resolveEvery is how often names are looked up again while Addrs is asked for.
const resolveEvery = time.Minute

// NewResolver returns a Resolver of endpoints in the form host:port.
func NewResolver(endpoints []string) *Resolver {
	r := &Resolver{}
	for _, e := range endpoints {
		if ap, err := netip.ParseAddrPort(e); err == nil {
			r.addrs = append(r.addrs, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
		} else {
			r.hosts = append(r.hosts, e)
		}
	}
	return r
}

// Set puts other endpoints in the place of those there were.
func (r *Resolver) Set(endpoints []string) {
	next := NewResolver(endpoints)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts, r.addrs, r.looked = next.hosts, next.addrs, time.Time{}
}

// Addrs returns what is known now.
func (r *Resolver) Addrs() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.hosts) > 0 && !r.looking && time.Since(r.looked) > resolveEvery {
		r.looking = true
		go r.lookUp()
	}
	return append([]netip.AddrPort(nil), r.addrs...)
}

// lookUp resolves every host once, within a few seconds.
func (r *Resolver) lookUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r.mu.Lock()
	hosts := r.hosts
	r.mu.Unlock()
	var found []netip.AddrPort
	for _, h := range hosts {
		found = append(found, Resolve(ctx, h)...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looking, r.looked = false, time.Now()
	for _, a := range found {
		if !contains(r.addrs, a) {
			r.addrs = append(r.addrs, a)
		}
	}
}

func contains(all []netip.AddrPort, a netip.AddrPort) bool {
	for _, b := range all {
		if a == b {
			return true
		}
	}
	return false
}

// Resolve returns the addresses of host:port, none when it has none.
func Resolve(ctx context.Context, endpoint string) (out []netip.AddrPort) {
	host, p, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(n)))
	}
	return out
}
