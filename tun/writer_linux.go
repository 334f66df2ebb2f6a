package tun

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"icvpn/tun/internal/offload"
)

// maxResting bounds the writers kept. As many are needed as goroutines write at
// once, and those are hardly more than processors.
const maxResting = 8

// writer is what one call of superPackets.write needs.
type writer struct {
	s      *superPackets
	pkts   [MaxBatch][]byte // what is worth writing
	merger offload.Merger
	iovs   [MaxBatch + 1]unix.Iovec
	onFD   func(fd uintptr)      // bound once, a method value would allocate
	onRoom func(fd uintptr) bool // the same

	// of this call
	next, all int // planned writes
	full      bool
	n, bytes  int // accepted
	err       error
}

func (s *superPackets) getWriter() *writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.writers) - 1; last >= 0 {
		w := s.writers[last]
		s.writers = s.writers[:last]
		return w
	}
	w := &writer{s: s, merger: offload.Merger{UDP: s.udp, AssumeValid: s.assumeValid}}
	w.onFD, w.onRoom = func(fd uintptr) { w.full = !w.writeAll(fd) }, w.writeAll
	return w
}

func (s *superPackets) putWriter(w *writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.writers) < maxResting {
		s.writers = append(s.writers, w)
	}
}

// write plans the batch and makes one system call for each super-packet.
func (s *superPackets) write(bufs [][]byte, offset int) (n, bytes int, err error) {
	w := s.getWriter()
	defer s.putWriter(w)
	k := 0
	for _, b := range bufs {
		if len(b) >= offset && isIP(b[offset:]) {
			w.pkts[k] = b[offset:]
			k++
		}
	}
	err = w.write(w.pkts[:k])
	return w.n, w.bytes, err
}

// write borrows pkts. RawConn.Write would hold a lock around the system calls;
// Control does not, and writes seldom find the device full.
func (w *writer) write(pkts [][]byte) error {
	w.next, w.all, w.full = 0, w.merger.Plan(pkts), false
	w.n, w.bytes, w.err = 0, 0, nil
	err := w.s.raw.Control(w.onFD)
	if err == nil && w.full {
		err = w.s.raw.Write(w.onRoom)
	}
	w.merger.Done()
	clear(w.iovs[:len(pkts)+1])
	clear(pkts)
	if err == nil {
		err = w.err
	}
	return err
}

// writeAll makes the planned writes, until the device is full.
func (w *writer) writeAll(fd uintptr) (done bool) {
	for ; w.next < w.all; w.next++ {
		switch errno := w.writev(fd, w.merger.Vector(w.next)); errno {
		case 0:
			n, bytes := w.merger.Size(w.next)
			w.n += n
			w.bytes += bytes
		case unix.EAGAIN:
			return false
		case unix.EBADFD:
			w.err = errno
			return true
		case unix.EIO: // the interface is down
		default:
			w.writeSingly(fd, w.merger.Packets(w.next))
		}
	}
	return true
}

// writeSingly is for a super-packet that the kernel refused.
func (w *writer) writeSingly(fd uintptr, pkts [][]byte) {
	if len(pkts) == 1 {
		return // that was it
	}
	for _, p := range pkts {
		if w.writev(fd, [][]byte{noHeader[:], p}) == 0 {
			w.n++
			w.bytes += len(p)
		}
	}
}

// noHeader is the virtio_net_hdr of a packet that needs nothing done.
var noHeader [offload.HeaderLen]byte

// writev is writev(2), raw since it does not wait. Package unix's allocates.
func (w *writer) writev(fd uintptr, parts [][]byte) unix.Errno {
	for i, p := range parts {
		w.iovs[i].Base = unsafe.SliceData(p)
		w.iovs[i].SetLen(len(p))
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iovs[0])), uintptr(len(parts)))
		if errno != unix.EINTR {
			return errno
		}
	}
}
