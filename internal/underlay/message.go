package underlay

import "net/netip"

const (
	// BatchSize is the most datagrams one system call moves. 64 of them at
	// 1400 bytes are one TCP super-packet of the TUN device, and two readers
	// with 2 KiB buffers stay at 256 KiB.
	BatchSize = 64

	// DefaultBuffer fits an Ethernet datagram with room to spare.
	DefaultBuffer = 2048
)

// Message is one datagram and its other end.
type Message struct {
	// Buf is the caller's. Reading fills it from its start, as far as len(Buf);
	// writing sends Buf[:N].
	Buf []byte
	// N is the length of the datagram. After a read it may be 0: the datagram
	// was empty or longer than Buf, and is to be skipped.
	N int
	// Addr is where the datagram came from, or where it goes.
	Addr netip.AddrPort
	// Err is set by writing: nil when the kernel took the datagram, otherwise
	// why it did not. Reading leaves it alone.
	Err error
}

// Bytes returns the datagram, which shares memory with m.Buf.
func (m *Message) Bytes() []byte { return m.Buf[:m.N] }

// NewBatch returns n messages with buffers of size bytes each, cut from one
// slab. No buffer can be grown into its neighbour.
func NewBatch(n, size int) []Message {
	slab := make([]byte, n*size)
	ms := make([]Message, n)
	for i := range ms {
		ms[i].Buf = slab[i*size : (i+1)*size : (i+1)*size]
	}
	return ms
}

// A Reader receives for one address family. It serves one goroutine at a time.
type Reader interface {
	// ReadBatch waits for at least one datagram and fills ms from the front.
	// It borrows ms. It returns how many messages it set; those may include
	// empty ones. The only lasting error is net.ErrClosed.
	ReadBatch(ms []Message) (int, error)
}
