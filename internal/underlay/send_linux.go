package underlay

import (
	"errors"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The flow of this file: socket.write -> writer.pack -> sendmmsg ->
// socket.settle, or socket.giveUp.
//
// A train is a run of messages that differ in nothing but their content: one
// destination, one TOS, one length, only the last may be shorter. It is one
// msghdr with an iovec for each message, so nothing is copied here, and the
// control message UDP_SEGMENT. The network stack is then passed once for the
// train; the device, or the last step before it, cuts it into datagrams.

// writeSize is the most messages one sendmmsg carries.
const writeSize = 2 * BatchSize

// writer is the scratch space of one write call. The kernel reads vec through
// pointers into itself, so a writer lives on the heap and is never copied.
type writer struct {
	s     *socket
	msgs  [writeSize]mmsghdr // one for each train
	names [writeSize]unix.RawSockaddrInet6
	ctls  [writeSize]control
	iovs  [writeSize]unix.Iovec // one for each message
	first [writeSize + 1]int    // Invariant: train i is messages first[i] to first[i+1]

	trains  int // packed
	packed  int // messages in them
	singles int // messages at the front that must not travel in trains
	suspect trainRefusal
	got     int
	errno   unix.Errno
	send    func(fd uintptr)      // bound once, method values would allocate
	wait    func(fd uintptr) bool // the same, waiting for room
}

// trainRefusal says that trains to an address were refused at a segment size.
type trainRefusal struct {
	to   netip.Addr // invalid: nothing is suspected
	size int
}

func newWriter(s *socket) *writer {
	w := &writer{s: s}
	for i := range w.msgs {
		w.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&w.names[i]))
	}
	w.send = func(fd uintptr) { w.got, w.errno = s.send(fd, w.msgs[:w.trains]) }
	w.wait = func(fd uintptr) bool { w.send(fd); return w.errno != unix.EAGAIN }
	return w
}

// write sends ms, all of the socket's family. The kernel stops at the first
// train it refuses; write notes why, or sends it again as single datagrams, and
// goes on.
func (s *socket) write(ms []Message) (sent int, err error) {
	w := s.writers.Get().(*writer)
	defer s.release(w)
	w.singles, w.suspect = 0, trainRefusal{}
	for retried := false; len(ms) > 0; {
		if ms[0].Err = nil; !ms[0].valid() {
			s.refuse(ms[:1], ErrBadMessage)
			ms, w.singles = ms[1:], max(w.singles-1, 0)
			continue
		}
		w.pack(ms)
		if err := w.flush(); err != nil {
			return sent, err
		}
		var done int
		switch {
		case w.errno == 0:
			done = w.first[w.got]
			s.settle(w, ms[:done])
			sent += done
		case isPending(w.errno) && !retried:
			// Maybe the echo of an earlier datagram to somebody else.
			retried = true
			continue
		default:
			done = s.giveUp(w, ms)
		}
		ms, w.singles, retried = ms[done:], max(w.singles-done, 0), false
	}
	return sent, nil
}

// flush is one sendmmsg. Control lets several goroutines send at a time; Write
// would let in one after the other, and is for waiting only.
func (w *writer) flush() error {
	err := w.s.raw.Control(w.send)
	if err == nil && w.errno == unix.EAGAIN {
		err = w.s.raw.Write(w.wait)
	}
	if err != nil {
		return net.ErrClosed
	}
	return nil
}

// pack lays out trains of the messages at the front of ms, up to the first that
// cannot be sent. The first one can.
func (w *writer) pack(ms []Message) {
	w.trains, w.packed = 0, 0
	for w.packed < min(len(ms), writeSize) && ms[w.packed].valid() {
		n := 1
		if w.packed >= w.singles {
			n = w.s.trainLength(ms[w.packed:min(len(ms), writeSize)])
		}
		w.add(ms[w.packed : w.packed+n])
	}
	w.first[w.trains] = w.packed
}

// add lays out one train, or a single message.
func (w *writer) add(ms []Message) {
	h, head := &w.msgs[w.trains].hdr, &ms[0]
	h.Namelen = encodeName(&w.names[w.trains], head.Addr, w.s.v6)
	h.Iov = &w.iovs[w.packed]
	h.SetIovlen(len(ms))
	segment := 0
	if len(ms) > 1 {
		segment = head.N
	}
	c := &w.ctls[w.trains]
	h.Control = nil
	if n := c.encode(segment, head.TOS, w.s.v6); n > 0 {
		h.Control = (*byte)(unsafe.Pointer(c))
		h.SetControllen(n)
	} else {
		h.SetControllen(0)
	}
	for i := range ms {
		ms[i].Err = nil
		setIovec(&w.iovs[w.packed+i], ms[i].Buf[:ms[i].N])
	}
	w.first[w.trains] = w.packed
	w.packed += len(ms)
	w.trains++
}

// trainLength returns how many messages at the front of ms, which is not
// empty, make one train.
func (s *socket) trainLength(ms []Message) int {
	head, limit := &ms[0], maxTrain4
	if s.v6 {
		limit = maxTrain6
	}
	if !s.trains || len(ms) == 1 || s.refused.at(head.Addr.Addr(), head.N) {
		return 1
	}
	n, total := 1, head.N
	for n < min(len(ms), maxSegments) {
		m := &ms[n]
		if m.N > head.N || total+m.N > limit || m.TOS != head.TOS || m.Addr != head.Addr || !m.valid() {
			break
		}
		total += m.N
		n++
		if m.N < head.N {
			break
		}
	}
	return n
}

// giveUp deals with the refusal of the first train packed and returns how many
// messages are done with: none where they are to be tried one by one.
func (s *socket) giveUp(w *writer, ms []Message) int {
	n := w.first[1]
	if n > 1 && isTrainRefusal(w.errno) {
		s.stats.TrainRefused.Add(1)
		w.singles = n
		w.suspect = trainRefusal{to: ms[0].Addr.Addr(), size: ms[0].N}
		if w.errno == unix.EIO {
			w.suspect.size = 0 // the device takes no train at all
		}
		return 0
	}
	w.suspect = trainRefusal{} // it was not for being a train
	s.refuse(ms[:n], w.errno)
	return n
}

// settle counts messages the kernel took. Where they were refused as a train
// before, that is remembered.
func (s *socket) settle(w *writer, ms []Message) {
	if w.suspect.to.IsValid() {
		s.refused.add(w.suspect.to, w.suspect.size)
		w.suspect = trainRefusal{}
	}
	bytes, trains := 0, 0
	for i := range ms {
		bytes += ms[i].N
	}
	for i := range w.got {
		if w.first[i+1]-w.first[i] > 1 {
			trains++
		}
	}
	s.stats.WritePackets.Add(uint64(len(ms)))
	s.stats.WriteBytes.Add(uint64(bytes))
	s.stats.WriteTrains.Add(uint64(trains))
}

// refuse notes why messages were not sent.
func (s *socket) refuse(ms []Message, why error) {
	if errors.Is(why, unix.EMSGSIZE) {
		why = ErrTooLong
	}
	for i := range ms {
		ms[i].Err = why
	}
	s.stats.WriteErrors.Add(uint64(len(ms)))
}

// release forgets the caller's buffers and gives w back.
func (s *socket) release(w *writer) {
	clear(w.iovs[:w.packed])
	s.writers.Put(w)
}

// isTrainRefusal reports errors that single datagrams may not meet. EIO: the
// route leads over a device without checksum offload (before Linux 6.11), or
// through kernel IPsec. EMSGSIZE, and EINVAL on older kernels: a segment
// exceeds the path MTU; a single datagram may be fragmented.
func isTrainRefusal(e unix.Errno) bool {
	return e == unix.EIO || e == unix.EINVAL || e == unix.EMSGSIZE || e == unix.EOPNOTSUPP
}
