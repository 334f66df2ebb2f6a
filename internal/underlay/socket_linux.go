package underlay

import (
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2); Go pads it as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// socket is one bound UDP socket.
type socket struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	v6      bool
	port    uint16
	stats   *Stats
	writers sync.Pool // of *writer

	trains  bool // the kernel knows UDP_SEGMENT
	refused refusals
	send    func(fd uintptr, ms []mmsghdr) (int, unix.Errno) // sendmmsg; tests put another one here
}

func newSocket(conn *net.UDPConn, v6 bool, stats *Stats) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, raw: raw, v6: v6, stats: stats, send: sendmmsg}
	s.port = conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	s.writers.New = func() any { return newWriter(s) }
	return s, raw.Control(func(fd uintptr) {
		setSocketBuffers(int(fd))
		setReceiveTOS(int(fd), v6)
		s.trains = knowsTrains(int(fd))
	})
}

// setSocketBuffers asks for large buffers: beyond the sysctl limit where we
// may (CAP_NET_ADMIN), up to it otherwise. Less is slower, not wrong.
func setSocketBuffers(fd int) {
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer)
		}
	}
}

// setReceiveTOS asks for the TOS of each datagram. Every kernel knows these
// options; one that refuses makes every TOS read as 0.
func setReceiveTOS(fd int, v6 bool) {
	if v6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
}

// knowsTrains reports whether the kernel cuts trains (since Linux 4.18). It is
// asked before the first one: an older kernel would ignore the control message
// and send the train as one datagram.
func knowsTrains(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	return err == nil
}

// setCoalesce turns UDP_GRO on or off and reports whether it is on. Kernels
// before 5.0 do not have it.
func (s *socket) setCoalesce(on bool) bool {
	value, ok := 0, false
	if on {
		value = 1
	}
	_ = s.raw.Control(func(fd uintptr) {
		ok = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, value) == nil
	})
	return on && ok
}

// setDontFragment chooses between the kernel's own path MTU discovery and ours.
// With IP_PMTUDISC_PROBE each datagram carries DF, the kernel's path MTU cache,
// which ICMP from anybody may change, plays no part, and only the MTU of the
// interface limits a datagram.
func (s *socket) setDontFragment(on bool) (err error) {
	level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_WANT
	if on {
		value = unix.IP_PMTUDISC_PROBE
	}
	if s.v6 { // the values are the same
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	if e := s.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) }); e != nil {
		return net.ErrClosed
	}
	return err
}

// sendmmsg and recvmmsg are one non-blocking system call each.
func sendmmsg(fd uintptr, ms []mmsghdr) (int, unix.Errno) { return mmsg(unix.SYS_SENDMMSG, fd, ms) }
func recvmmsg(fd uintptr, ms []mmsghdr) (int, unix.Errno) { return mmsg(unix.SYS_RECVMMSG, fd, ms) }

func mmsg(trap, fd uintptr, ms []mmsghdr) (int, unix.Errno) {
	for {
		// Raw: the call does not wait, but moves much. Told of it, the scheduler
		// would take the processor away every 20 us, and a tenth of all CPU time
		// go into that (docs/performance.md).
		n, _, errno := unix.RawSyscall6(trap, fd,
			uintptr(unsafe.Pointer(unsafe.SliceData(ms))), uintptr(len(ms)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
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
