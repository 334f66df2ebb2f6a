package port

import (
	"net"
	"net/netip"
	"sync"

	"icvpn/internal/underlay"
)

// guestQueue is how many datagrams wait for a guest; the rest are dropped.
const guestQueue = 256

// Guest is a Conn for a second Port on the same sockets: it sends through the
// first one's, and gets the control datagrams that no ring of the first claims.
// So a process that is a super peer and a member of another service needs one
// port number. Give Deliver to Handlers.Unclaimed.
type Guest struct {
	conn Conn

	in     chan underlay.Message
	closed chan struct{}
	once   sync.Once
}

var (
	_ Conn            = (*Guest)(nil)
	_ underlay.Reader = (*Guest)(nil)
)

// NewGuest returns a guest on conn, which it borrows.
func NewGuest(conn Conn) *Guest {
	return &Guest{conn: conn, in: make(chan underlay.Message, guestQueue), closed: make(chan struct{})}
}

// Deliver borrows a datagram until it returns.
func (g *Guest) Deliver(d []byte, from netip.AddrPort) {
	if g.Closed() || len(g.in) == cap(g.in) {
		return // before the copy
	}
	select {
	case g.in <- underlay.Message{Buf: append([]byte(nil), d...), N: len(d), Addr: from}:
	default:
	}
}

// Readers implements Conn.
func (g *Guest) Readers() []underlay.Reader { return []underlay.Reader{g} }

// ReadBatch implements underlay.Reader.
func (g *Guest) ReadBatch(ms []underlay.Message) (int, error) {
	select {
	case m := <-g.in:
		ms[0].N, ms[0].Segment, ms[0].Addr = copy(ms[0].Buf, m.Buf[:m.N]), 0, m.Addr
		return 1, nil
	case <-g.closed:
		return 0, net.ErrClosed
	}
}

// WriteBatch implements Conn.
func (g *Guest) WriteBatch(ms []underlay.Message) (int, error) {
	if g.Closed() {
		return 0, net.ErrClosed
	}
	return g.conn.WriteBatch(ms)
}

// Port implements Conn.
func (g *Guest) Port() uint16 { return g.conn.Port() }

// Closed says whether the guest has ended.
func (g *Guest) Closed() bool {
	select {
	case <-g.closed:
		return true
	default:
		return false
	}
}

// Close ends the guest; the sockets stay open.
func (g *Guest) Close() error {
	g.once.Do(func() { close(g.closed) })
	return nil
}
