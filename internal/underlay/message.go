package underlay

import (
	"iter"
	"net/netip"
)

const (
	// BatchSize is the most messages one system call moves, either way. 64
	// datagrams of 1400 bytes are more than one TCP super-packet of the TUN
	// device.
	BatchSize = 64

	// DefaultBuffer fits an Ethernet datagram with room to spare. A reader with
	// such buffers receives single datagrams only.
	DefaultBuffer = 2048

	// TrainBuffer is the length a buffer needs to hold whatever the kernel
	// coalesces: a UDP length is 16 bits.
	TrainBuffer = 1 << 16

	// maxSegments is the most datagrams in a train. Kernels before 6.9 take no
	// more; 64 of common size exceed a UDP length anyway.
	maxSegments = 64
	// A train is at first one UDP datagram and bounded like it.
	maxTrain4 = 1<<16 - 1 - 20 - 8
	maxTrain6 = 1<<16 - 1 - 40 - 8

	// ECNMask are the bits of Message.TOS that carry ECN (RFC 3168, Section 5);
	// the other six are the DSCP (RFC 2474, Section 3).
	ECNMask = 0x03
)

// TrainLength returns how many datagrams of n bytes travel in one train, to
// either family. Who makes packets by the dozen had better make them by that
// number: of one more than that, most of the cost is a second train's.
func TrainLength(n int) int { return max(1, min(maxSegments, maxTrain6/max(n, 1))) }

// Message is one datagram and its other end. After a read it may also be a
// train: consecutive datagrams of one sender that the kernel has put together,
// because all are of one length, and of one TOS.
type Message struct {
	// Buf is the caller's. Reading fills it from its start, as far as len(Buf);
	// writing sends Buf[:N]. Between two reads whoever handles the message may
	// replace Buf by another buffer of the same length, and so keep this one.
	Buf []byte
	// N is the length of what Buf holds. After a read it may be 0: the datagram
	// was empty or longer than Buf, and is to be skipped.
	N int
	// Segment is set by reading: 0 for a single datagram, otherwise Buf[:N] is a
	// train of datagrams of Segment bytes each; only the last may be shorter.
	// Invariant: Segment is 0 or less than N. Writing wants single datagrams.
	Segment int
	// Addr is where the datagram came from, or where it goes.
	Addr netip.AddrPort
	// TOS is the type of service octet of the outer IPv4 header, the traffic
	// class of the IPv6 header: DSCP and ECN. Reading and writing both use it.
	TOS uint8
	// Err is set by writing: nil when the kernel took the datagram, otherwise
	// why it did not. Reading leaves it alone.
	Err error
}

// Bytes returns the datagram, or the whole train, which shares memory with
// m.Buf.
func (m *Message) Bytes() []byte { return m.Buf[:m.N] }

// Count returns how many datagrams m holds: 0 for an empty message.
func (m *Message) Count() int {
	switch {
	case m.N <= 0:
		return 0
	case m.Segment <= 0:
		return 1
	}
	return (m.N + m.Segment - 1) / m.Segment
}

// Datagrams iterates over the datagrams in m, each with its offset in m.Buf.
// They share memory with m.Buf, and none can be grown into the next.
func (m *Message) Datagrams() iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		step := m.Segment
		if step <= 0 {
			step = m.N
		}
		for off := 0; off < m.N; off += step {
			end := min(off+step, m.N)
			if !yield(off, m.Buf[off:end:end]) {
				return
			}
		}
	}
}

// settle brings N and Segment into order after a read.
func (m *Message) settle(n, segment int) {
	m.N, m.Segment = n, segment
	if segment < 0 || segment >= n {
		m.Segment = 0
	}
}

// NewBatch returns n messages with buffers of size bytes each, every one of
// its own, so that one that is exchanged does not keep the others alive. Pages
// nobody has filled cost address space only.
func NewBatch(n, size int) []Message {
	ms := make([]Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, size)
	}
	return ms
}

// A Reader receives for one address family. It serves one goroutine at a time.
type Reader interface {
	// ReadBatch waits for at least one datagram and fills ms from the front.
	// It borrows ms. It returns how many messages it set; those may include
	// empty ones. The only lasting error is net.ErrClosed.
	//
	// With buffers of TrainBuffer bytes or more it returns trains where the
	// kernel makes them, and then touches few of the buffers.
	ReadBatch(ms []Message) (int, error)
}
