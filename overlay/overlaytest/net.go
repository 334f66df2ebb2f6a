// Package overlaytest runs overlays in memory: real nodes, real datagrams, no
// sockets. A Net is the network between them, with delay, loss, partitions and
// machines that are off. In a testing/synctest bubble an hour of it takes no time.
package overlaytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"icvpn/overlay"
)

// Net is a network in memory. Its fields may be changed through Change while it
// is in use.
type Net struct {
	mu    sync.Mutex
	rand  *rand.Rand
	hosts map[netip.AddrPort]Host
	link  Link
	sent  uint64
	large int
}

// Link is what happens to datagrams.
type Link struct {
	Delay  time.Duration // one way
	Jitter time.Duration // added at random, so datagrams overtake each other
	Loss   float64       // 0 to 1
	// Blocked says whether nothing passes from one address to the other. Nil: all
	// passes.
	Blocked func(from, to netip.AddrPort) bool
	// Tamper may change or replace a datagram on its way. Nil: none.
	Tamper func(pkt []byte, from, to netip.AddrPort) []byte
}

// New returns a network whose randomness is seeded.
func New(seed uint64) *Net {
	return &Net{
		rand:  rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // a test wants it repeatable
		hosts: make(map[netip.AddrPort]Host),
	}
}

// Addr returns the i-th address: 10.0.0.0/8, port 4500, each in a /24 of its own.
func Addr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 4500)
}

// Addr6 returns the i-th IPv6 address, port 4500, each in a /56 of its own.
func Addr6(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(i >> 8), byte(i), 15: 1}), 4500)
}

// Change changes the link.
func (n *Net) Change(f func(*Link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.link)
}

// Host takes datagrams: an Overlay, or a test's own idea of a node. Deliver
// borrows pkt.
type Host interface {
	Deliver(pkt []byte, from netip.AddrPort)
}

var _ Host = (*overlay.Overlay)(nil)

// Attach puts a host at an address; nil switches the machine there off.
func (n *Net) Attach(addr netip.AddrPort, h Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = h
}

// Sent returns the number of datagrams sent and the size of the largest.
func (n *Net) Sent() (datagrams uint64, largest int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent, n.large
}

// Transport returns the transport of the machine at addr.
func (n *Net) Transport(addr netip.AddrPort) overlay.Transport { return port{n, addr} }

type port struct {
	net  *Net
	addr netip.AddrPort
}

var errTooLong = errors.New("overlaytest: datagram too long")

// WriteTo implements overlay.Transport.
func (p port) WriteTo(pkt []byte, to netip.AddrPort) error {
	if len(pkt) > overlay.MaxPayload {
		return fmt.Errorf("%w: %d bytes", errTooLong, len(pkt))
	}
	p.net.Inject(pkt, p.addr, to)
	return nil
}

// Inject sends a datagram under any source address. It borrows pkt.
func (n *Net) Inject(pkt []byte, from, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	n.large = max(n.large, len(pkt))
	if n.rand.Float64() < n.link.Loss || n.link.Blocked != nil && n.link.Blocked(from, to) {
		return
	}
	pkt = append([]byte(nil), pkt...)
	if n.link.Tamper != nil {
		pkt = n.link.Tamper(pkt, from, to)
	}
	delay := n.link.Delay + time.Duration(n.rand.Float64()*float64(n.link.Jitter))
	time.AfterFunc(delay, func() { n.deliver(pkt, from, to) })
}

// Pass delivers a datagram at once, whatever the link is like: for a Tamper that
// has some overtake others. It borrows pkt.
func (n *Net) Pass(pkt []byte, from, to netip.AddrPort) {
	pkt = append([]byte(nil), pkt...)
	time.AfterFunc(0, func() { n.deliver(pkt, from, to) })
}

func (n *Net) deliver(pkt []byte, from, to netip.AddrPort) {
	n.mu.Lock()
	h := n.hosts[to]
	n.mu.Unlock()
	if h != nil {
		h.Deliver(pkt, from)
	}
}

// Node is a running overlay node and the way to stop it.
type Node struct {
	*overlay.Overlay
	Addr netip.AddrPort

	net    *Net
	cancel context.CancelFunc
	done   chan struct{}
}

// Start makes a node of cfg, whose Transport and Local it sets, attaches it at
// addr and runs it.
func (n *Net) Start(addr netip.AddrPort, cfg overlay.Config) (*Node, error) {
	cfg.Transport, cfg.Local = n.Transport(addr), addr
	o, err := overlay.New(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	node := &Node{Overlay: o, Addr: addr, net: n, cancel: cancel, done: make(chan struct{})}
	n.Attach(addr, o)
	go node.run(ctx)
	return node, nil
}

func (n *Node) run(ctx context.Context) {
	defer close(n.done)
	if err := n.Run(ctx); err != nil {
		panic("overlaytest: " + err.Error())
	}
}

// Stop switches the machine off and waits for the node's end.
func (n *Node) Stop() {
	n.net.Attach(n.Addr, nil)
	n.cancel()
	<-n.done
}
