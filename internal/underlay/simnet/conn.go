package simnet

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"icvpn/internal/underlay"
)

// inboxSize is how many datagrams wait for a reader; more are dropped, as a
// socket buffer would. 4 MiB of 1400 bytes are about 3000.
const inboxSize = 4096

// Conn stands for an underlay.Conn.
type Conn struct {
	// set at start
	net   *Network
	boxes []*inbox
	port  uint16

	stats     underlay.Stats
	closeOnce sync.Once
	done      chan struct{}
}

// inbox is the receiving side of one address. It implements underlay.Reader.
type inbox struct {
	addr  netip.AddrPort
	ready chan packet
	done  chan struct{}
	stats *underlay.Stats
}

var _ underlay.Reader = (*inbox)(nil)

// Listen attaches a host with the given addresses, one per family at most, to
// the network. Port 0 takes a free one. Readers come in the order of addrs.
func (n *Network) Listen(port uint16, addrs ...netip.Addr) (*Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == 0 {
		n.ports++
		port = n.ports
	}
	c := &Conn{net: n, port: port, done: make(chan struct{})}
	for _, a := range addrs {
		ap := netip.AddrPortFrom(a.Unmap(), port)
		if n.conns[ap] != nil {
			return nil, &underlay.PortInUseError{Port: port, Network: network(a)}
		}
		if c.box(ap) != nil {
			return nil, fmt.Errorf("simnet: two addresses of one family: %v", addrs)
		}
		c.boxes = append(c.boxes, &inbox{addr: ap, ready: make(chan packet, inboxSize), done: c.done, stats: &c.stats})
	}
	for _, b := range c.boxes {
		n.conns[b.addr] = b
	}
	return c, nil
}

func network(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "udp4"
	}
	return "udp6"
}

// box returns the inbox of the family of to.
func (c *Conn) box(to netip.AddrPort) *inbox {
	for _, b := range c.boxes {
		if b.addr.Addr().Is4() == to.Addr().Unmap().Is4() {
			return b
		}
	}
	return nil
}

// Port returns the port of all addresses.
func (c *Conn) Port() uint16 { return c.port }

// IPv6Err returns nil if the Conn has an IPv6 address.
func (c *Conn) IPv6Err() error {
	if c.box(netip.AddrPortFrom(netip.IPv6Unspecified(), 0)) == nil {
		return underlay.ErrNoFamily
	}
	return nil
}

// Stats returns the live counters.
func (c *Conn) Stats() *underlay.Stats { return &c.stats }

// Readers returns one Reader per address.
func (c *Conn) Readers() []underlay.Reader {
	rs := make([]underlay.Reader, len(c.boxes))
	for i, b := range c.boxes {
		rs[i] = b
	}
	return rs
}

// WriteBatch sends ms as underlay.Conn does. It borrows ms.
func (c *Conn) WriteBatch(ms []underlay.Message) (int, error) {
	select {
	case <-c.done:
		return 0, net.ErrClosed
	default:
	}
	sent := 0
	for i := range ms {
		if ms[i].Err = c.writeOne(&ms[i]); ms[i].Err != nil {
			c.stats.WriteErrors.Add(1)
			continue
		}
		sent++
		c.stats.WritePackets.Add(1)
		c.stats.WriteBytes.Add(uint64(ms[i].N))
	}
	return sent, nil
}

func (c *Conn) writeOne(m *underlay.Message) error {
	if m.N <= 0 || m.N > len(m.Buf) || !m.Addr.IsValid() || m.Addr.Port() == 0 {
		return underlay.ErrBadMessage
	}
	b := c.box(m.Addr)
	if b == nil {
		return underlay.ErrNoFamily
	}
	c.net.send(b.addr, netip.AddrPortFrom(m.Addr.Addr().Unmap(), m.Addr.Port()), m.Bytes())
	return nil
}

// Close detaches the host. Datagrams under way to it are lost.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		for _, b := range c.boxes {
			delete(c.net.conns, b.addr)
		}
		close(c.done)
	})
	return nil
}

// put queues p, or drops it if nobody has read for long.
func (b *inbox) put(p packet) {
	select {
	case b.ready <- p:
	default:
		b.stats.ReadErrors.Add(1)
	}
}

// ReadBatch implements underlay.Reader.
func (b *inbox) ReadBatch(ms []underlay.Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	select {
	case <-b.done:
		return 0, net.ErrClosed
	default:
	}
	select {
	case p := <-b.ready:
		b.fill(&ms[0], p)
	case <-b.done:
		return 0, net.ErrClosed
	}
	n := 1
	for ; n < min(len(ms), underlay.BatchSize); n++ {
		select {
		case p := <-b.ready:
			b.fill(&ms[n], p)
		default:
			return n, nil
		}
	}
	return n, nil
}

// fill hands p to the caller.
func (b *inbox) fill(m *underlay.Message, p packet) {
	m.Addr, m.N = p.from, 0
	if len(p.data) > len(m.Buf) {
		b.stats.ReadTooLong.Add(1)
		return
	}
	m.N = copy(m.Buf, p.data)
	b.stats.ReadPackets.Add(1)
	b.stats.ReadBytes.Add(uint64(m.N))
}
