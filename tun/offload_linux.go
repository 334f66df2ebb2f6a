package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"icvpn/tun/internal/offload"
)

// errNoOffload is a kernel, or something that plays one, without the offload
// backend's features.
var errNoOffload = errors.New("the kernel refuses packets with a virtio_net_hdr")

// superPacket is the longest that the kernel makes for a device like ours
// (TSO_LEGACY_MAX_SIZE), and more. A read that fills it was cut off.
const superPacket = offload.HeaderLen + 1<<16 + 512

// A batch is planned as a whole.
const _ = uint(offload.MaxBatch - MaxBatch)

// enough of a batch is not worth another system call that may find nothing.
const enough = MaxBatch / 4

// offloads are what we ask of the kernel, best first. Old kernels refuse a set
// with a flag that they do not know; USO came with Linux 6.2.
var offloads = []int{
	tcpOffloads | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6,
	tcpOffloads | unix.TUN_F_TSO_ECN,
	tcpOffloads,
}

const tcpOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6

// superPackets is the crossing of Offload.
type superPackets struct {
	// set at start
	file        *os.File
	raw         syscall.RawConn
	udp         bool // the kernel takes UDP super-packets
	assumeValid bool

	// owned by the reading goroutine
	splitter offload.Splitter
	buf      []byte // what the splitter works on
	reading  reading
	onRead   func(fd uintptr) bool // bound once, a method value would allocate

	mu      sync.Mutex // guards writers
	writers []*writer  // at rest
}

// reading is one call of read.
type reading struct {
	bufs     [][]byte
	sizes    []int
	offset   int
	n, drops int
	err      error
}

var _ crossing = (*superPackets)(nil)

func openOffload(cfg Config) (crossing, string, error) {
	fd, name, err := attach(cfg.Name, unix.IFF_VNET_HDR)
	if errors.Is(err, unix.EINVAL) && !exists(cfg.Name) {
		return nil, "", errNoOffload // a flag that it does not know
	}
	if err != nil {
		return nil, "", err
	}
	s := &superPackets{buf: make([]byte, superPacket), assumeValid: cfg.AssumeValid}
	if s.udp, err = negotiate(fd); err != nil {
		unix.Close(fd)
		return nil, "", err
	}
	s.file = os.NewFile(uintptr(fd), devicePath)
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, "", err
	}
	s.onRead = s.readAll
	return s, name, nil
}

// negotiate makes sure of the virtio_net_hdr and turns on what offloads the
// kernel has.
func negotiate(fd int) (udp bool, err error) {
	ifr, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
	}
	if err != nil {
		return false, err
	}
	if ifr.Uint16()&unix.IFF_VNET_HDR == 0 {
		return false, errNoOffload // ignored, as a kernel before 2.6.27 does
	}
	// On an interface that outlives its holders the last one may have left
	// another size.
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, offload.HeaderLen); err != nil {
		return false, fmt.Errorf("%w: TUNSETVNETHDRSZ: %w", errNoOffload, err)
	}
	for _, flags := range offloads {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags); err == nil {
			return flags&unix.TUN_F_USO4 != 0, nil
		}
	}
	return false, fmt.Errorf("%w: TUNSETOFFLOAD: %w", errNoOffload, err)
}

func (s *superPackets) batchSize() int { return MaxBatch }

func (s *superPackets) conn() syscall.RawConn { return s.raw }

func (s *superPackets) close() error { return s.file.Close() }

// read waits for one packet or super-packet and takes what else is there.
func (s *superPackets) read(bufs [][]byte, sizes []int, offset int) (n, drops int, err error) {
	limit := min(len(bufs), len(sizes), MaxBatch)
	s.reading = reading{bufs: bufs[:limit], sizes: sizes[:limit], offset: offset}
	r := &s.reading
	if s.split(); r.n < min(enough, limit) {
		err = s.raw.Read(s.onRead)
	}
	if r.n > 0 {
		err = nil // it will come again
	} else if err == nil {
		err = r.err
	}
	n, drops = r.n, r.drops
	s.reading = reading{}
	return n, drops, err
}

// readAll reads until nothing waits or there is enough. It is called again when
// it returns false and there is something to read.
func (s *superPackets) readAll(fd uintptr) (done bool) {
	r := &s.reading
	for r.n < min(enough, len(r.bufs)) {
		n, errno := s.readSome(fd)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return r.n+r.drops > 0
		case unix.EINTR:
			continue
		default:
			r.err = errno
			return true
		}
		if n == len(s.buf) || s.splitter.Start(s.buf[:n]) != nil {
			r.drops++
			continue
		}
		s.split()
	}
	return true
}

// split fills buffers from what was read last.
func (s *superPackets) split() {
	r := &s.reading
	if !s.splitter.Pending() {
		return
	}
	n, err := s.splitter.Next(r.bufs[r.n:], r.sizes[r.n:], r.offset)
	r.n += n
	if err != nil {
		r.drops++
	}
}

// readSome is read(2) into buf. Raw, as in package underlay: it does not wait.
func (s *superPackets) readSome(fd uintptr) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&s.buf[0])), uintptr(len(s.buf)))
	return int(n), errno
}
