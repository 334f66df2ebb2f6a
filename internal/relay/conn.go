package relay

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"icvpn/internal/underlay"
)

// Sockets are what a Conn stands before: underlay.Conn, simnet.Conn or port.Guest.
type Sockets interface {
	Readers() []underlay.Reader
	WriteBatch([]underlay.Message) (int, error)
	Port() uint16
	Close() error
}

// ConnStats count what goes through relays, content only.
type ConnStats struct {
	TxPackets, TxBytes, RxPackets, RxBytes atomic.Uint64
	NoRoute                                atomic.Uint64 // not sent: our allocation is gone
}

// Conn gives peers behind relays virtual addresses. Whoever has no allocation pays one
// atomic load for each batch.
type Conn struct {
	sockets Sockets
	routes  atomic.Pointer[routes] // nil: none
	scratch sync.Pool              // of *scratch
	stats   ConnStats
}

// route is one of our allocations.
type route struct {
	n     uint16
	relay netip.AddrPort
	own   ID
}

// routes are replaced as a whole.
type routes struct {
	byNumber map[uint16]route
	byRelay  map[netip.AddrPort]route
}

// scratch is where relayed datagrams get their headers.
type scratch struct {
	buf []byte
	ms  []underlay.Message
}

// NewConn returns a Conn before sockets, which it takes.
func NewConn(sockets Sockets) *Conn {
	c := &Conn{sockets: sockets}
	c.scratch.New = func() any { return new(scratch) }
	return c
}

// Stats returns the live counters.
func (c *Conn) Stats() *ConnStats { return &c.stats }

// Port returns the port number of the sockets.
func (c *Conn) Port() uint16 { return c.sockets.Port() }

// Close closes the sockets.
func (c *Conn) Close() error { return c.sockets.Close() }

func (c *Conn) setRoutes(all []route) {
	if len(all) == 0 {
		c.routes.Store(nil)
		return
	}
	rs := &routes{byNumber: map[uint16]route{}, byRelay: map[netip.AddrPort]route{}}
	for _, r := range all {
		rs.byNumber[r.n], rs.byRelay[r.relay] = r, r
	}
	c.routes.Store(rs)
}

// Virtual returns the address that stands for a peer's allocation at a relay, false if
// we have none there.
func (c *Conn) Virtual(relay netip.AddrPort, peer ID) (netip.AddrPort, bool) {
	if rs := c.routes.Load(); rs != nil {
		if r, ok := rs.byRelay[unmap(relay)]; ok {
			return virtual(peer, r.n), true
		}
	}
	return netip.AddrPort{}, false
}

// Resolve reverses Virtual.
func (c *Conn) Resolve(v netip.AddrPort) (relay netip.AddrPort, peer ID, ok bool) {
	rs := c.routes.Load()
	if rs == nil || !IsVirtual(v) {
		return relay, peer, false
	}
	r, ok := rs.byNumber[v.Port()]
	return r.relay, peerOf(v), ok
}

// WriteBatch sends as the sockets do; what goes to virtual addresses gets a header and
// goes to the relay. It borrows ms.
func (c *Conn) WriteBatch(ms []underlay.Message) (sent int, err error) {
	rs := c.routes.Load()
	if rs == nil && !anyVirtual(ms) {
		return c.sockets.WriteBatch(ms)
	}
	for len(ms) > 0 && err == nil {
		n, relayed := 1, IsVirtual(ms[0].Addr)
		for n < len(ms) && IsVirtual(ms[n].Addr) == relayed {
			n++
		}
		var m int
		if relayed {
			m, err = c.writeRelayed(rs, ms[:n])
		} else {
			m, err = c.sockets.WriteBatch(ms[:n])
		}
		sent += m
		ms = ms[n:]
	}
	return sent, err
}

// anyVirtual is asked by who holds nothing any more: a tunnel may still have such a path.
func anyVirtual(ms []underlay.Message) bool {
	for i := range ms {
		if IsVirtual(ms[i].Addr) {
			return true
		}
	}
	return false
}

// writeRelayed sends messages to virtual addresses.
func (c *Conn) writeRelayed(rs *routes, ms []underlay.Message) (sent int, err error) {
	s := c.scratch.Get().(*scratch)
	defer c.scratch.Put(s)
	need := 0
	for i := range ms {
		need += HeaderLen + max(0, ms[i].N)
	}
	if cap(s.buf) < need {
		s.buf = make([]byte, 0, 2*need)
	}
	b := s.buf[:0]
	s.ms = s.ms[:0]
	for i := range ms {
		m := &ms[i]
		out := underlay.Message{TOS: m.TOS} // without address: refused below
		if r, ok := rs.route(m.Addr.Port()); ok && m.N > 0 && m.N <= len(m.Buf) {
			start := len(b)
			b = append(appendHeader(b, peerOf(m.Addr), r.own), m.Buf[:m.N]...)
			out.Buf, out.N, out.Addr, out.Segment = b[start:], len(b)-start, r.relay, m.Segment
		}
		s.ms = append(s.ms, out)
	}
	kept := s.ms[:0]
	for i := range ms { // what has no route stays behind
		if ms[i].Err = nil; !s.ms[i].Addr.IsValid() {
			ms[i].Err = ErrNoAllocation
			c.stats.NoRoute.Add(1)
			continue
		}
		c.stats.TxBytes.Add(uint64(ms[i].N))
		kept = append(kept, s.ms[i])
	}
	if len(kept) > 0 {
		sent, err = c.sockets.WriteBatch(kept)
		c.stats.TxPackets.Add(uint64(sent))
	}
	at := 0
	for i := range ms {
		if ms[i].Err == nil {
			ms[i].Err = kept[at].Err
			at++
		}
	}
	clear(s.ms)
	return sent, err
}

func (rs *routes) route(n uint16) (r route, ok bool) {
	if rs == nil {
		return r, false
	}
	r, ok = rs.byNumber[n]
	return r, ok
}

// Readers returns the sockets' readers, each with ours before it.
func (c *Conn) Readers() []underlay.Reader {
	all := c.sockets.Readers()
	for i, r := range all {
		all[i] = &reader{conn: c, from: r}
	}
	return all
}

// reader takes the headers off. It serves one goroutine at a time.
type reader struct {
	conn *Conn
	from underlay.Reader
	kept []underlay.Message // further parts of trains of several kinds, to be read next
}

var _ underlay.Reader = (*reader)(nil)

// ReadBatch implements underlay.Reader.
func (r *reader) ReadBatch(ms []underlay.Message) (int, error) {
	if len(r.kept) > 0 && len(ms) > 0 {
		return r.release(ms), nil
	}
	n, err := r.from.ReadBatch(ms)
	rs := r.conn.routes.Load()
	if rs == nil {
		return n, err
	}
	for i := range ms[:n] {
		m := &ms[i]
		switch {
		case IsVirtual(m.Addr):
			m.N, m.Segment = 0, 0 // nobody has such an address
		case m.N > 0 && marked(m.Buf[:m.N]):
			if route, ok := rs.byRelay[unmap(m.Addr)]; ok {
				r.open(route, m)
			}
		}
	}
	return n, err
}

// release hands out what was kept.
func (r *reader) release(ms []underlay.Message) int {
	n := min(len(ms), len(r.kept))
	for i, k := range r.kept[:n] {
		m := &ms[i]
		m.N, m.Segment, m.Addr, m.TOS = copy(m.Buf, k.Buf[:k.N]), k.Segment, k.Addr, k.TOS
	}
	r.kept = append(r.kept[:0], r.kept[n:]...)
	return n
}

// open takes the headers off what is for us. A train from a relay may hold datagrams of
// several peers, and such that we are to relay ourselves: the kernel goes by address and
// length alone. Each run of one kind becomes a message; all but the first are kept.
func (r *reader) open(route route, m *underlay.Message) {
	whole, first := *m, true
	var run underlay.Message
	end := func() {
		switch {
		case run.N == 0:
		case first:
			m.N, m.Segment, m.Addr = run.N, run.Segment, run.Addr
			first = false
		default:
			run.Buf = append([]byte(nil), run.Buf[:run.N]...)
			r.kept = append(r.kept, run)
		}
	}
	for off, d := range whole.Datagrams() {
		addr := whole.Addr
		if to, from, ok := parseHeader(d); ok && to == route.own {
			addr, d, off = virtual(from, route.n), d[HeaderLen:], off+HeaderLen
			r.conn.stats.RxPackets.Add(1)
			r.conn.stats.RxBytes.Add(uint64(len(d)))
		}
		if run.N == 0 || addr != run.Addr {
			end()
			// In place: content never moves back beyond what was read.
			run = underlay.Message{Buf: whole.Buf[off:], Addr: addr, TOS: whole.TOS}
			if first {
				run.Buf = whole.Buf
			}
		}
		if run.N > 0 && run.Segment == 0 {
			run.Segment = run.N // the first one's length; only the last may be shorter
		}
		run.N += copy(run.Buf[run.N:], d)
	}
	end()
}
