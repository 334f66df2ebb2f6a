package lab

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// captureBuffer bounds what waits for the callback; more is dropped and
	// counted.
	captureBuffer = 4 << 20
	// captureLen is the longest packet: links offload segmentation, so TCP may
	// pass the router in pieces of 64 KiB.
	captureLen = 1 << 16
)

// Packet is one IP packet that entered the router.
type Packet struct {
	Time time.Time
	// Data begins with the IP header. It is borrowed: valid until the callback
	// returns.
	Data []byte
}

// Capture watches the router. Make one with Lab.Capture.
type Capture struct {
	lab   *Lab
	file  *os.File
	raw   syscall.RawConn
	fn    func(Packet)
	done  chan struct{}
	seen  atomic.Uint64
	drops atomic.Uint64

	closeOnce sync.Once
	closeErr  error
}

// Capture calls fn for every IPv4 and IPv6 packet that enters the router from
// any host, in order, on one goroutine, until Close. Neighbour discovery is
// among them.
func (l *Lab) Capture(fn func(Packet)) (*Capture, error) {
	c := &Capture{lab: l, fn: fn, done: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	if err := l.router.do(c.open); err != nil {
		return nil, err
	}
	l.captures[c] = struct{}{}
	go c.captureLoop()
	return c, nil
}

// open makes the packet socket. SOCK_DGRAM: the kernel removes link headers.
func (c *Capture) open() error {
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		return os.NewSyscallError("lab: packet socket", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer)
	}
	c.file = os.NewFile(uintptr(fd), "packet")
	c.raw, err = c.file.SyscallConn()
	return err
}

// captureLoop delivers packets until the socket is closed.
func (c *Capture) captureLoop() {
	defer close(c.done)
	buf := make([]byte, captureLen)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		closed := c.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return err != unix.EAGAIN
		})
		if closed != nil {
			return
		}
		if err == nil && isIncomingIP(from) {
			c.seen.Add(1)
			c.fn(Packet{Time: time.Now(), Data: buf[:n]})
		}
	}
}

// isIncomingIP keeps a forwarded packet from being seen twice: once coming in,
// once going out.
func isIncomingIP(from unix.Sockaddr) bool {
	ll, ok := from.(*unix.SockaddrLinklayer)
	if !ok || ll.Pkttype == unix.PACKET_OUTGOING {
		return false
	}
	proto := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, ll.Protocol))
	return proto == unix.ETH_P_IP || proto == unix.ETH_P_IPV6
}

// Seen returns how many packets were delivered.
func (c *Capture) Seen() uint64 { return c.seen.Load() }

// Dropped returns how many packets were lost because fn was too slow.
func (c *Capture) Dropped() uint64 {
	_ = c.raw.Control(func(fd uintptr) {
		// Reading the statistics resets them.
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			c.drops.Add(uint64(st.Drops))
		}
	})
	return c.drops.Load()
}

// Close ends the capture; after it fn is not called any more. fn itself must
// not call it.
func (c *Capture) Close() error {
	c.closeOnce.Do(func() {
		c.closeErr = c.file.Close()
		<-c.done
		c.lab.mu.Lock()
		delete(c.lab.captures, c)
		c.lab.mu.Unlock()
	})
	return c.closeErr
}

// UDP returns the ends and the content of an unfragmented UDP packet; ok is
// false for any other. payload shares memory with p.Data.
func (p Packet) UDP() (from, to netip.AddrPort, payload []byte, ok bool) {
	src, dst, proto, b := p.transport()
	if proto != unix.IPPROTO_UDP || len(b) < udpHeaderLen {
		return from, to, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < udpHeaderLen || n > len(b) {
		return from, to, nil, false
	}
	from = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b[0:]))
	to = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	return from, to, b[udpHeaderLen:n], true
}

const (
	udpHeaderLen  = 8
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// transport returns addresses, protocol and what follows the IP header. IPv6
// extension headers are not walked: their number is the protocol then.
func (p Packet) transport() (src, dst netip.Addr, proto int, b []byte) {
	d := p.Data
	switch {
	case len(d) >= ipv4HeaderLen && d[0]>>4 == 4:
		ihl := int(d[0]&0x0f) * 4
		fragmented := binary.BigEndian.Uint16(d[6:])&0x3fff != 0
		if ihl < ipv4HeaderLen || len(d) < ihl || fragmented {
			return src, dst, -1, nil
		}
		return netip.AddrFrom4([4]byte(d[12:])), netip.AddrFrom4([4]byte(d[16:])), int(d[9]), d[ihl:]
	case len(d) >= ipv6HeaderLen && d[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(d[8:])), netip.AddrFrom16([16]byte(d[24:])), int(d[6]), d[ipv6HeaderLen:]
	}
	return src, dst, -1, nil
}
