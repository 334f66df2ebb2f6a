package tun

import (
	"os"
	"sync/atomic"
)

const (
	// Headroom is the least offset that Read and Write accept: the size of the
	// kernel's struct virtio_net_hdr.
	Headroom = 10

	// MaxBatch is the largest BatchSize of any device. 128 packets hold the
	// 64 KiB of one super-packet down to an MSS of 512.
	MaxBatch = 128

	// MinMTU is what IPv6 asks of every link (RFC 8200, Section 5); MaxMTU is
	// the longest IP packet.
	MinMTU, MaxMTU = 1280, 65535
)

// ErrClosed is returned by Read and Write once the device is closed or its
// interface is gone. It is os.ErrClosed, so that errors.Is finds either.
var ErrClosed = os.ErrClosed

// Device is a network interface whose far end is this process. One goroutine
// at a time may Read and one may Write.
type Device interface {
	// Read waits for packets and puts the i-th at bufs[i][offset:], its length
	// in sizes[i]. It borrows bufs, which need BatchSize elements of at least
	// offset + MTU bytes, and returns how many it filled, at least one unless
	// there is an error.
	Read(bufs [][]byte, sizes []int, offset int) (int, error)

	// Write sends the packets bufs[i][offset:]. It borrows bufs, but spoils the
	// content of the buffers: headroom, packets and the spare capacity behind
	// them are overwritten. Buffers must not share memory within their
	// capacities. It returns how many packets were accepted; the only error is
	// ErrClosed.
	Write(bufs [][]byte, offset int) (int, error)

	// MTU returns the interface's MTU at this moment.
	MTU() (int, error)

	// Name returns the interface's name.
	Name() string

	// BatchSize returns how many packets a Read may bring, and how many are
	// best given to a Write. It never changes.
	BatchSize() int

	// Close removes the interface. It may be called more than once.
	Close() error
}

// Stats counts what a device moved and dropped. All fields only grow.
type Stats struct {
	ReadPackets  atomic.Uint64
	ReadBytes    atomic.Uint64
	ReadDrops    atomic.Uint64 // super-packets too malformed or too finely cut to split
	WritePackets atomic.Uint64
	WriteBytes   atomic.Uint64
	WriteDrops   atomic.Uint64 // not IP, or refused by the kernel (interface down)
}

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// isIP reports whether b could be an IP packet; the kernel refuses others, and
// the offload code must not see them.
func isIP(b []byte) bool {
	switch {
	case len(b) > MaxMTU:
		return false
	case len(b) >= ipv4HeaderLen && b[0]>>4 == 4:
		return true
	case len(b) >= ipv6HeaderLen && b[0]>>4 == 6:
		return true
	}
	return false
}
