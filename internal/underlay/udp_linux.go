package underlay

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The flow of this file, receiving: reader.ReadBatch -> reader.arm ->
// recvmmsg -> reader.unpack. Sending: socket.write -> writer.pack ->
// sendmmsg -> writer.settle.
//
// golang.org/x/net's ReadBatch makes the same calls but allocates an address
// for each datagram received; hence the system calls are made here.

// mmsghdr is struct mmsghdr of recvmmsg(2); Go pads it as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// vector is what one recvmmsg or sendmmsg needs. The kernel reads and writes
// it through pointers into itself, so it lives on the heap and is never copied.
type vector struct {
	msgs  [BatchSize]mmsghdr
	iovs  [BatchSize]unix.Iovec
	names [BatchSize]unix.RawSockaddrInet6 // also holds a RawSockaddrInet4
}

// init links the three arrays.
func (v *vector) init() {
	for i := range v.msgs {
		h := &v.msgs[i].hdr
		h.Iov = &v.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&v.names[i]))
	}
}

// socket is one bound UDP socket.
type socket struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	v6      bool
	port    uint16
	stats   *Stats
	writers sync.Pool // of *writer
}

func newSocket(conn *net.UDPConn, v6 bool, stats *Stats) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	setSocketBuffers(raw)
	s := &socket{conn: conn, raw: raw, v6: v6, stats: stats}
	s.port = conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	s.writers.New = func() any { return newWriter() }
	return s, nil
}

// reader implements Reader. It is owned by one goroutine.
type reader struct {
	s     *socket
	vec   vector
	n     int // messages armed
	got   int
	errno unix.Errno
	recv  func(fd uintptr) bool // bound once, a method value would allocate
}

func (s *socket) newReader() *reader {
	r := &reader{s: s}
	r.vec.init()
	r.recv = r.recvmmsg
	return r
}

// ReadBatch implements Reader.
func (r *reader) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	r.arm(ms)
	for {
		if err := r.s.raw.Read(r.recv); err != nil {
			return 0, net.ErrClosed
		}
		if r.errno == 0 {
			return r.unpack(ms), nil
		}
		// Whatever it is, it belongs to a datagram sent earlier (ICMP) or to a
		// shortage that passes. The call consumed it, so this cannot spin on one.
		r.s.stats.ReadErrors.Add(1)
		if isBroken(r.errno) {
			return 0, &net.OpError{Op: "read", Net: "udp", Err: r.errno}
		}
	}
}

// arm points the vector at the buffers of ms.
func (r *reader) arm(ms []Message) {
	r.n = min(len(ms), BatchSize)
	for i := range r.n {
		setIovec(&r.vec.iovs[i], ms[i].Buf)
		r.vec.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
}

// recvmmsg is one non-blocking call; false asks the runtime to wait for data.
func (r *reader) recvmmsg(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd,
			uintptr(unsafe.Pointer(&r.vec.msgs[0])), uintptr(r.n), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		r.got, r.errno = int(n), errno
		return true
	}
}

// unpack copies lengths and addresses into ms.
func (r *reader) unpack(ms []Message) int {
	bytes, kept := 0, 0
	for i := range r.got {
		m, v := &ms[i], &r.vec.msgs[i]
		m.N = int(v.n)
		m.Addr = decodeName(&r.vec.names[i])
		if v.hdr.Flags&unix.MSG_TRUNC != 0 {
			m.N = 0
			r.s.stats.ReadTooLong.Add(1)
			continue
		}
		bytes += m.N
		kept++
	}
	r.s.stats.ReadPackets.Add(uint64(kept))
	r.s.stats.ReadBytes.Add(uint64(bytes))
	return r.got
}

// writer is the scratch space of one write call.
type writer struct {
	vec   vector
	from  int // first message not yet sent
	n     int // messages packed
	got   int
	errno unix.Errno
	send  func(fd uintptr) bool
}

func newWriter() *writer {
	w := &writer{}
	w.vec.init()
	w.send = w.sendmmsg
	return w
}

// write sends ms, at most BatchSize messages of the socket's family. The
// kernel stops at the first message it refuses; write notes why and goes on
// after it.
func (s *socket) write(ms []Message) (int, error) {
	w := s.writers.Get().(*writer)
	defer s.release(w)
	w.pack(ms, s.v6)
	sent, retried := 0, false
	for w.from < w.n {
		if w.vec.iovs[w.from].Base == nil {
			s.refuse(&ms[w.from], ErrBadMessage)
			w.from++
			continue
		}
		if err := s.raw.Write(w.send); err != nil {
			return sent, net.ErrClosed
		}
		switch {
		case w.errno == 0:
			s.settle(ms[w.from:w.from+w.got], &sent)
			w.from += w.got
			retried = false
		case isPending(w.errno) && !retried:
			// Maybe the echo of an earlier datagram to somebody else.
			retried = true
		default:
			s.refuse(&ms[w.from], w.errno)
			w.from++
			retried = false
		}
	}
	return sent, nil
}

// pack points the vector at the messages. A message that cannot be sent gets
// no buffer, and sendmmsg is never called across it.
func (w *writer) pack(ms []Message, v6 bool) {
	w.from, w.n = 0, len(ms)
	for i := range ms {
		m := &ms[i]
		m.Err = nil
		if !m.valid() {
			w.vec.iovs[i].Base = nil
			continue
		}
		setIovec(&w.vec.iovs[i], m.Buf[:m.N])
		w.vec.msgs[i].hdr.Namelen = encodeName(&w.vec.names[i], m.Addr, v6)
	}
}

// sendmmsg is one non-blocking call; false asks the runtime to wait for room.
func (w *writer) sendmmsg(fd uintptr) bool {
	end := w.from + 1
	for end < w.n && w.vec.iovs[end].Base != nil {
		end++
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd,
			uintptr(unsafe.Pointer(&w.vec.msgs[w.from])), uintptr(end-w.from), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		w.got, w.errno = int(n), errno
		return true
	}
}

// settle counts messages the kernel took.
func (s *socket) settle(ms []Message, sent *int) {
	bytes := 0
	for i := range ms {
		bytes += ms[i].N
	}
	*sent += len(ms)
	s.stats.WritePackets.Add(uint64(len(ms)))
	s.stats.WriteBytes.Add(uint64(bytes))
}

// refuse notes why m was not sent.
func (s *socket) refuse(m *Message, why error) {
	m.Err = why
	s.stats.WriteErrors.Add(1)
}

// release forgets the caller's buffers and gives w back.
func (s *socket) release(w *writer) {
	for i := range w.n {
		w.vec.iovs[i].Base = nil
	}
	s.writers.Put(w)
}

// isPending reports errors that an ICMP message about an earlier datagram can
// leave on the socket.
func isPending(e unix.Errno) bool {
	switch e {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENOPROTOOPT, unix.EPROTO:
		return true
	}
	return false
}

// isBroken reports errors that mean a bug of ours: going on would spin.
func isBroken(e unix.Errno) bool {
	switch e {
	case unix.EBADF, unix.EFAULT, unix.EINVAL, unix.ENOTSOCK:
		return true
	}
	return false
}

func setIovec(v *unix.Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}

// decodeName reads the address the kernel wrote. An IPv4-mapped one is
// unmapped: an endpoint has one spelling.
func decodeName(name *unix.RawSockaddrInet6) netip.AddrPort {
	if name.Family == unix.AF_INET {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), ntohs(sa.Port))
	}
	a := netip.AddrFrom16(name.Addr).Unmap()
	if name.Scope_id != 0 && a.IsLinkLocalUnicast() {
		a = a.WithZone(strconv.FormatUint(uint64(name.Scope_id), 10))
	}
	return netip.AddrPortFrom(a, ntohs(name.Port))
}

// encodeName writes a in the form of the socket's family and returns its length.
func encodeName(name *unix.RawSockaddrInet6, a netip.AddrPort, v6 bool) uint32 {
	if !v6 {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: htons(a.Port()), Addr: a.Addr().Unmap().As4()}
		return unix.SizeofSockaddrInet4
	}
	*name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: htons(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		name.Scope_id = scopeID(zone)
	}
	return unix.SizeofSockaddrInet6
}

// scopeID resolves a zone, which is a number where decodeName made it.
func scopeID(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index)
	}
	return 0
}

// htons and ntohs turn a port between host and network order in memory.
func htons(p uint16) (n uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&n))[:], p)
	return n
}

func ntohs(n uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&n))[:])
}

// setSocketBuffers asks for large buffers: beyond the sysctl limit where we
// may (CAP_NET_ADMIN), up to it otherwise. Less is slower, not wrong.
func setSocketBuffers(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[0], socketBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[1], socketBuffer)
			}
		}
	})
}
