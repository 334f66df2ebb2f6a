package tun

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

const (
	// MaxBatch is the largest BatchSize of any device. 128 packets hold the
	// 64 KiB of one super-packet down to an MSS of 512; what does not fit comes
	// with the next Read.
	MaxBatch = 128

	// MinMTU is what IPv6 asks of every link (RFC 8200, Section 5); MaxMTU is
	// the longest IP packet.
	MinMTU, MaxMTU = 1280, 65535
)

var (
	// ErrClosed is returned by Read and Write once the device is closed. It is
	// os.ErrClosed, so that errors.Is finds either.
	ErrClosed = os.ErrClosed

	// ErrGone is returned by Read and Write once somebody else has removed the
	// interface. It is not ErrClosed: the process did not want this.
	ErrGone = errors.New("the interface was removed by somebody else: start icvpn again to make a new one")
)

// Device is a network interface whose far end is this process. One goroutine
// at a time may Read; any number may Write.
type Device interface {
	// Read waits for packets and puts the i-th at bufs[i][offset:], its length
	// in sizes[i]; nothing else in bufs is written. It borrows bufs, one or more
	// with room for offset + MTU bytes each, and returns how many it filled, at
	// least one unless there is an error.
	Read(bufs [][]byte, sizes []int, offset int) (int, error)

	// Write sends the packets bufs[i][offset:]. It borrows bufs and alters
	// nothing in them; buffers may share memory. It returns how many packets were
	// accepted; the only errors are ErrClosed and ErrGone.
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

// Config says what Open makes.
type Config struct {
	// Name of the interface, 1 to 15 bytes; "%d" in it becomes a free number.
	Name string

	// MTU of the interface, MinMTU to MaxMTU.
	MTU int

	// Backend is how packets cross; by default the fastest that the kernel has.
	Backend Backend

	// AssumeValid merges packets that are written without looking at their
	// checksums; the kernel takes a merged packet's for right. Only for peers
	// whose packets come from their own stack: what a router passes on may have
	// been damaged before it was encrypted.
	AssumeValid bool
}

// Backend is a way for packets to cross between kernel and process.
type Backend uint8

const (
	// Auto is Offload where the kernel has it, else Plain.
	Auto Backend = iota
	// Offload exchanges super-packets (IFF_VNET_HDR).
	Offload
	// Plain exchanges single packets, one per system call.
	Plain
)

var backendNames = [...]string{Auto: "auto", Offload: "offload", Plain: "plain"}

// String returns the name that ParseBackend takes.
func (b Backend) String() string {
	if int(b) < len(backendNames) {
		return backendNames[b]
	}
	return fmt.Sprintf("Backend(%d)", uint8(b))
}

// ParseBackend returns the backend of a name.
func ParseBackend(name string) (Backend, error) {
	for b, n := range backendNames {
		if n == name {
			return Backend(b), nil
		}
	}
	return 0, fmt.Errorf("tun: no backend %q: use auto, offload or plain", name)
}

// Stats counts what a device moved and dropped. All fields only grow.
type Stats struct {
	ReadPackets  atomic.Uint64
	ReadBytes    atomic.Uint64
	ReadDrops    atomic.Uint64 // packets and super-packets malformed, or longer than the buffers
	WritePackets atomic.Uint64
	WriteBytes   atomic.Uint64
	WriteDrops   atomic.Uint64 // not IP, or refused by the kernel (interface down)
}

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// isIP reports whether b could be an IP packet; the kernel refuses others.
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
