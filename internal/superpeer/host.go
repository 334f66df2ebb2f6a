package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/id"
	"icvpn/internal/port"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/internal/underlay"
)

// Host is what the super peers of several services on one machine share: one
// UDP and one TCP port, the door and the workers.
//
//	UDP ─ port ─ the ring that opens it ─────────> tier of one service
//	        └ relayed ─ the allocations it names ─> UDP
//	TCP ─ door ─ server name in the ClientHello ─> super peer with that key
//
// Nothing else is shared. A service's keys, members, leases, overlay nodes and
// attribute keys belong to its SuperPeer, and no method of one leads to
// another's: a token, a ticket or a credential means something to one of them.
type Host struct {
	// set at start
	udp   port.Conn
	tcp   net.Listener
	log   *slog.Logger
	port  *port.Port
	rings *seal.Rings
	door  *door
	desks *desks
	relay *relay.Table // allocations of all services, each apart
	all   []*SuperPeer // in the order they were added
	tiers map[id.ID]place
	views []*View

	mu     sync.Mutex
	stop   context.CancelFunc // ends Run; nil before it
	guests []*port.Guest      // memberships in universal overlays
}

// place is where the datagrams of one overlay go.
type place struct {
	super *SuperPeer
	tier  *tier
}

// NewHost returns a host without a service. It takes both sockets.
func NewHost(udp port.Conn, tcp net.Listener, log *slog.Logger) *Host {
	h := &Host{udp: udp, tcp: tcp, log: log, rings: new(seal.Rings), door: newDoor(), tiers: map[id.ID]place{}}
	h.port = port.New(udp, h.rings)
	var key [32]byte
	rand.Read(key[:])
	h.relay = relay.NewTable(key, relay.Limits{})
	h.desks = &desks{workers: h.door.workers, renewals: h.door.renewals}
	return h
}

// Add makes the super peer of one more service, before Run. cfg names no
// sockets. The first one answers peers that do not say which they want.
func (h *Host) Add(cfg Config) (*SuperPeer, error) {
	cfg.UDP, cfg.TCP = h.udp, h.tcp
	if err := cfg.HandOver.Validate(); err != nil {
		return nil, err
	}
	key := ed25519.NewKeyFromSeed(cfg.HandOver.Seed)
	for _, other := range h.all {
		switch {
		case other.service.trust().Service == cfg.HandOver.Service.ID:
			return nil, fmt.Errorf("superpeer: two hand-overs are of service %s; leave one of them out", other.service.trust().Descriptor.Name)
		case other.authority.key.Equal(key):
			return nil, fmt.Errorf("superpeer: the hand-overs of two services have one super peer key; ask the owner of one for another")
		}
	}
	s, err := newSuperPeer(cfg, h, key)
	if err != nil {
		return nil, err
	}
	h.all = append(h.all, s)
	for _, t := range []*tier{s.service, s.universe} {
		h.tiers[t.trust().Service] = place{s, t}
	}
	s.desk = h.desks.add()
	if len(h.all) > 1 {
		h.door.several()
	}
	return s, nil
}

// Run serves until ctx ends. It closes both sockets.
func (h *Host) Run(ctx context.Context) error {
	if len(h.all) == 0 {
		return errors.New("superpeer: no service to serve")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	h.mu.Lock()
	h.stop = stop
	h.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return h.port.Run(ctx, port.Handlers{Control: h.onControl, Relayed: h.onRelayed, Unclaimed: h.unclaimed()})
	})
	g.Go(func() error { return h.all[0].acceptLoop(ctx) })
	for _, s := range h.all {
		g.Go(func() error { return s.run(ctx) })
	}
	return g.Wait()
}

// Guest returns a Conn on this host's UDP port for a membership in a universal
// overlay.
func (h *Host) Guest() *port.Guest {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := port.NewGuest(h.udp)
	h.guests = append(slices.DeleteFunc(slices.Clone(h.guests), (*port.Guest).Closed), g)
	return g
}

// unclaimed is the handler of datagrams for guests.
func (h *Host) unclaimed() func([]byte, netip.AddrPort) {
	if len(h.views) == 0 {
		return nil
	}
	return func(d []byte, from netip.AddrPort) {
		h.mu.Lock()
		guests := h.guests // never changed in place
		h.mu.Unlock()
		for _, g := range guests {
			g.Deliver(d, from)
		}
	}
}

// onControl hands a datagram to the super peer whose ring opened it. Called by
// the port's readers.
func (h *Host) onControl(o seal.Opened, from netip.AddrPort) {
	if p, ok := h.tiers[o.Service]; ok {
		p.super.onControl(p.tier, o, from)
	}
}

// onRelayed forwards between allocations. Called by the port's readers.
func (h *Host) onRelayed(ms []underlay.Message) {
	h.relay.Forward(time.Now(), ms, h.port.WriteESP)
}

// down ends Run, and says whether it had begun.
func (h *Host) down() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop != nil {
		h.stop()
	}
	return h.stop != nil
}

// named returns the super peer that a server name asks for: the first one if it
// is empty, nil if nobody here has it.
func (h *Host) named(name string) *SuperPeer {
	if name == "" {
		return h.all[0]
	}
	for _, s := range h.all {
		if service.ServerName(s.authority.self().Key) == name {
			return s
		}
	}
	return nil
}

// Members returns how many machines are members of its services by its own word.
func (h *Host) Members() (n int) {
	for _, s := range h.all {
		n += s.authority.ledger.Len()
	}
	return n
}
