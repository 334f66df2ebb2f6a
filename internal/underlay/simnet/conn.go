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

// maxTrain is the most datagrams the kernel coalesces.
const maxTrain = 64

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
	// set at start
	addr   netip.AddrPort
	ready  chan packet
	done   chan struct{}
	stats  *underlay.Stats
	trains bool

	// owned by the reader
	held []packet // at most one: taken from ready, but not part of the last message
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
		c.boxes = append(c.boxes, &inbox{addr: ap, ready: make(chan packet, inboxSize), done: c.done, stats: &c.stats, trains: n.cfg.Trains})
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

// SetDontFragment changes nothing: no datagram is fragmented here.
func (c *Conn) SetDontFragment(bool) error { return nil }

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
	if m.N <= 0 || m.N > len(m.Buf) || m.Segment > 0 && m.Segment < m.N || !m.Addr.IsValid() || m.Addr.Port() == 0 {
		return underlay.ErrBadMessage
	}
	b := c.box(m.Addr)
	if b == nil {
		return underlay.ErrNoFamily
	}
	to := netip.AddrPortFrom(m.Addr.Addr().Unmap(), m.Addr.Port())
	return c.net.send(packet{from: b.addr, to: to, tos: m.TOS, data: m.Bytes()})
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
	p, err := b.wait()
	if err != nil {
		return 0, err
	}
	for n := range min(len(ms), underlay.BatchSize) {
		b.fill(&ms[n], p)
		b.couple(&ms[n])
		next, ok := b.next()
		if !ok {
			return n + 1, nil
		}
		p = next
	}
	b.held = append(b.held, p)
	return min(len(ms), underlay.BatchSize), nil
}

// wait returns the next datagram.
func (b *inbox) wait() (packet, error) {
	select {
	case <-b.done:
		return packet{}, net.ErrClosed
	default:
	}
	if p, ok := b.next(); ok {
		return p, nil
	}
	select {
	case p := <-b.ready:
		return p, nil
	case <-b.done:
		return packet{}, net.ErrClosed
	}
}

// next returns the next datagram if it is there.
func (b *inbox) next() (p packet, ok bool) {
	if len(b.held) > 0 {
		p, b.held = b.held[0], b.held[:0]
		return p, true
	}
	select {
	case p = <-b.ready:
		return p, true
	default:
		return p, false
	}
}

// fill hands p to the caller.
func (b *inbox) fill(m *underlay.Message, p packet) {
	m.Addr, m.TOS, m.N, m.Segment = p.from, p.tos, 0, 0
	if len(p.data) > len(m.Buf) {
		b.stats.ReadTooLong.Add(1)
		return
	}
	m.N = copy(m.Buf, p.data)
	b.count(m.N)
}

func (b *inbox) count(size int) {
	b.stats.ReadPackets.Add(1)
	b.stats.ReadBytes.Add(uint64(size))
}

// couple appends what waits behind m as long as it makes a train, by the rules
// of the kernel: one sender, one TOS, one length, only the last shorter.
func (b *inbox) couple(m *underlay.Message) {
	if !b.trains || m.N == 0 || len(m.Buf) < underlay.TrainBuffer {
		return
	}
	head := m.N
	for n := 1; n < maxTrain; n++ {
		p, ok := b.next()
		if !ok {
			break
		}
		size := len(p.data)
		if p.from != m.Addr || p.tos != m.TOS || size == 0 || size > head || m.N+size > len(m.Buf) {
			b.held = append(b.held, p)
			break
		}
		m.N += copy(m.Buf[m.N:], p.data)
		m.Segment = head
		b.count(size)
		if size < head {
			break
		}
	}
	if m.Segment > 0 {
		b.stats.ReadTrains.Add(1)
	}
}
