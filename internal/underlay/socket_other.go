//go:build !linux

package underlay

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// socket is one bound UDP socket. Systems without recvmmsg move one datagram
// a system call behind the same interface, and leave the TOS alone.
type socket struct {
	conn  *net.UDPConn
	v6    bool
	port  uint16
	stats *Stats
}

func newSocket(conn *net.UDPConn, v6 bool, stats *Stats) (*socket, error) {
	_ = conn.SetReadBuffer(socketBuffer) // best effort, less is only slower
	_ = conn.SetWriteBuffer(socketBuffer)
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	return &socket{conn: conn, v6: v6, port: port, stats: stats}, nil
}

// reader implements Reader.
type reader struct{ s *socket }

func (s *socket) newReader() *reader { return &reader{s} }

// setDontFragment has no portable form.
func (s *socket) setDontFragment(bool) error { return errors.ErrUnsupported }

// ReadBatch implements Reader. A datagram that fills its buffer to the last
// byte may have been cut and counts as too long.
func (r *reader) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	for {
		n, from, err := r.s.conn.ReadFromUDPAddrPort(ms[0].Buf)
		if errors.Is(err, net.ErrClosed) {
			return 0, net.ErrClosed
		}
		if err != nil {
			r.s.stats.ReadErrors.Add(1)
			continue
		}
		ms[0].Addr = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if n == len(ms[0].Buf) {
			r.s.stats.ReadTooLong.Add(1)
			n = 0
		}
		ms[0].settle(n, 0)
		ms[0].TOS = 0
		r.s.stats.ReadPackets.Add(1)
		r.s.stats.ReadBytes.Add(uint64(n))
		return 1, nil
	}
}

// write sends ms one by one.
func (s *socket) write(ms []Message) (int, error) {
	sent := 0
	for i := range ms {
		m := &ms[i]
		if m.Err = ErrBadMessage; m.valid() {
			to := m.Addr
			if !s.v6 {
				to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
			}
			_, m.Err = s.conn.WriteToUDPAddrPort(m.Buf[:m.N], to)
			if errors.Is(m.Err, syscall.EMSGSIZE) {
				m.Err = ErrTooLong
			}
		}
		if errors.Is(m.Err, net.ErrClosed) {
			return sent, net.ErrClosed
		}
		if m.Err != nil {
			s.stats.WriteErrors.Add(1)
			continue
		}
		sent++
		s.stats.WritePackets.Add(1)
		s.stats.WriteBytes.Add(uint64(m.N))
	}
	return sent, nil
}
