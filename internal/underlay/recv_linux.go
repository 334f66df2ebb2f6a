package underlay

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The flow of this file: reader.ReadBatch -> reader.arm -> recvmmsg ->
// reader.unpack -> reader.pace.
//
// golang.org/x/net's ReadBatch makes the same calls but allocates an address
// for each datagram received; hence the system calls are made here.

const (
	// readBudget is how many bytes one recvmmsg is to bring at most, if messages
	// are as long as those of the call before. It holds the messages offered to
	// trains down to minRead, so that few of the large buffers are ever filled.
	readBudget = 256 << 10
	// minRead messages are always offered.
	minRead = 8
)

// recvVector is what one recvmmsg needs. The kernel reads and writes it through
// pointers into itself, so it lives on the heap and is never copied.
type recvVector struct {
	msgs  [BatchSize]mmsghdr
	iovs  [BatchSize]unix.Iovec
	names [BatchSize]unix.RawSockaddrInet6 // also holds a RawSockaddrInet4
	ctls  [BatchSize]control
}

// init links the arrays.
func (v *recvVector) init() {
	for i := range v.msgs {
		h := &v.msgs[i].hdr
		h.Iov = &v.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&v.names[i]))
		h.Control = (*byte)(unsafe.Pointer(&v.ctls[i]))
	}
}

// reader implements Reader. It is owned by one goroutine.
type reader struct {
	s      *socket
	vec    recvVector
	trains bool // UDP_GRO was asked for
	offer  int  // messages the next call offers
	n      int  // messages armed
	got    int
	errno  unix.Errno
	recv   func(fd uintptr) bool // bound once, a method value would allocate
}

func (s *socket) newReader() *reader {
	r := &reader{s: s, offer: minRead}
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

// arm points the vector at the buffers of ms. Trains are asked for only where
// every buffer holds the longest.
func (r *reader) arm(ms []Message) {
	r.n = min(len(ms), r.offer)
	shortest := TrainBuffer
	for i := range r.n {
		setIovec(&r.vec.iovs[i], ms[i].Buf)
		h := &r.vec.msgs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlLen)
		shortest = min(shortest, len(ms[i].Buf))
	}
	if want := shortest == TrainBuffer; want != r.trains {
		r.s.setCoalesce(want)
		r.trains = want
	}
}

// recvmmsg is one non-blocking call; false asks the runtime to wait for data.
func (r *reader) recvmmsg(fd uintptr) bool {
	r.got, r.errno = recvmmsg(fd, r.vec.msgs[:r.n])
	return r.errno != unix.EAGAIN
}

// unpack copies lengths and addresses into ms.
func (r *reader) unpack(ms []Message) int {
	bytes, datagrams, trains := 0, 0, 0
	for i := range r.got {
		m, v := &ms[i], &r.vec.msgs[i]
		segment, tos := r.vec.ctls[i].decode(int(v.hdr.Controllen), r.s.v6)
		m.Addr, m.TOS = decodeName(&r.vec.names[i]), tos
		m.settle(int(v.n), segment)
		if v.hdr.Flags&unix.MSG_TRUNC != 0 {
			r.s.stats.ReadTooLong.Add(uint64(m.Count()))
			m.settle(0, 0)
			continue
		}
		bytes += m.N
		datagrams += max(m.Count(), 1) // an empty one is one
		if m.Segment > 0 {
			trains++
		}
	}
	r.s.stats.ReadPackets.Add(uint64(datagrams))
	r.s.stats.ReadBytes.Add(uint64(bytes))
	r.s.stats.ReadTrains.Add(uint64(trains))
	r.pace(bytes)
	return r.got
}

// pace decides how many messages the next call offers: few to trains, many to
// single datagrams, and more than the last one only if that left some behind.
func (r *reader) pace(bytes int) {
	offer := readBudget / (bytes/max(r.got, 1) + 1)
	if r.got == r.n {
		offer = min(offer, 2*r.n)
	} else {
		offer = min(offer, r.n)
	}
	r.offer = min(max(offer, minRead), BatchSize)
}
