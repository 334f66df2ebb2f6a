package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Linux is a kernel TUN interface. Make one with Open.
type Linux struct {
	// set at start
	crossing crossing
	backend  Backend
	name     string

	// control asks about the interface by name. Opened by Open, it stays in the
	// interface's network namespace whichever thread calls MTU later.
	mu      sync.Mutex // guards control
	control int

	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error
	stats     Stats
}

var _ Device = (*Linux)(nil)

// crossing is what a backend does. One goroutine at a time reads, any write.
type crossing interface {
	// read is Device.Read; drops are packets that it could not deliver. It may
	// return 0, 0, nil.
	read(bufs [][]byte, sizes []int, offset int) (n, drops int, err error)

	// write is Device.Write for at most MaxBatch packets. An error is of the
	// device; what was refused is neither in n nor in bytes.
	write(bufs [][]byte, offset int) (n, bytes int, err error)

	batchSize() int
	conn() syscall.RawConn
	close() error
}

// Read implements Device.
func (t *Linux) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		n, drops, err := t.crossing.read(bufs, sizes, offset)
		if drops > 0 {
			t.stats.ReadDrops.Add(uint64(drops))
		}
		if err != nil {
			return 0, t.endOf(err)
		}
		if n > 0 {
			bytes := 0
			for _, size := range sizes[:n] {
				bytes += size
			}
			t.stats.ReadPackets.Add(uint64(n))
			t.stats.ReadBytes.Add(uint64(bytes))
			return n, nil
		}
	}
}

// ends tells the end of the device from a packet that the kernel refuses.
// EBADFD is of a descriptor whose interface was removed.
func ends(err error) bool { return errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADFD) }

// endOf says how the device ended. Of an interface that is being removed the
// runtime's poller only says that it cannot be polled.
func (t *Linux) endOf(err error) error {
	switch {
	case t.closed.Load(), errors.Is(err, os.ErrClosed):
		return ErrClosed
	case errors.Is(err, unix.EBADFD), detached(t.crossing.conn()):
		err = ErrGone
	}
	return fmt.Errorf("tun: interface %q: %w", t.name, err)
}

// detached says whether a descriptor has lost its interface.
func detached(conn syscall.RawConn) (yes bool) {
	_ = conn.Control(func(fd uintptr) {
		ifr, err := unix.NewIfreq("")
		yes = err == nil && errors.Is(unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr), unix.EBADFD)
	})
	return yes
}

// Write implements Device.
func (t *Linux) Write(bufs [][]byte, offset int) (int, error) {
	accepted := 0
	for len(bufs) > 0 {
		n := min(len(bufs), MaxBatch)
		k, err := t.writeBatch(bufs[:n], offset)
		accepted += k
		if err != nil {
			return accepted, err
		}
		bufs = bufs[n:]
	}
	return accepted, nil
}

// writeBatch writes at most MaxBatch packets.
func (t *Linux) writeBatch(bufs [][]byte, offset int) (int, error) {
	if t.closed.Load() {
		return 0, ErrClosed
	}
	n, bytes, err := t.crossing.write(bufs, offset)
	if n < len(bufs) {
		t.stats.WriteDrops.Add(uint64(len(bufs) - n))
	}
	t.stats.WritePackets.Add(uint64(n))
	t.stats.WriteBytes.Add(uint64(bytes))
	if err != nil {
		return n, t.endOf(err)
	}
	return n, nil
}

// MTU implements Device.
func (t *Linux) MTU() (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.control < 0 {
		return 0, ErrClosed
	}
	ifr, err := unix.NewIfreq(t.name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(t.control, unix.SIOCGIFMTU, ifr); err != nil {
		return 0, fmt.Errorf("tun: interface %q: read the MTU: %w", t.name, err)
	}
	return int(ifr.Uint32()), nil
}

// Name implements Device.
func (t *Linux) Name() string { return t.name }

// BatchSize implements Device.
func (t *Linux) BatchSize() int { return t.crossing.batchSize() }

// Backend returns how packets cross: Offload or Plain.
func (t *Linux) Backend() Backend { return t.backend }

// Stats returns the live counters.
func (t *Linux) Stats() *Stats { return &t.stats }

// Close implements Device.
func (t *Linux) Close() error {
	t.closeOnce.Do(func() {
		t.closed.Store(true)
		t.closeErr = t.crossing.close()
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.control >= 0 {
			unix.Close(t.control)
			t.control = -1
		}
	})
	return t.closeErr
}
