package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// devicePath is the clone device: each open of it may become one interface.
const devicePath = "/dev/net/tun"

// Linux is a kernel TUN interface. Make one with Create.
type Linux struct {
	// set at start
	dev  wgtun.Device
	name string

	// control asks about the interface by name. Opened by Create, it stays in
	// the interface's network namespace whichever thread calls MTU later.
	mu      sync.Mutex // guards control
	control int

	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error
	stats     Stats

	scratch [MaxBatch][]byte // owned by the writing goroutine
}

var _ Device = (*Linux)(nil)

// Create makes the interface name ("%d" in it becomes a free number) with the
// given MTU. It is down and without addresses. Its errors are *CreateError.
//
// The interface belongs to the network namespace of the calling thread.
func Create(name string, mtu int) (*Linux, error) {
	if mtu < MinMTU || mtu > MaxMTU {
		return nil, &CreateError{Name: name, Reason: BadMTU, MTU: mtu}
	}
	if !validName(name) {
		return nil, &CreateError{Name: name, Reason: BadName}
	}
	fd, err := openTUN(name)
	if err != nil {
		return nil, err
	}
	// Unmonitored: CreateTUN would start two goroutines that report link state
	// on a channel; unless somebody reads it they block, and outlive Close.
	// From here on the descriptor is the device's, also when it fails.
	dev, actual, err := wgtun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, &CreateError{Name: name, Reason: Failed, Err: err}
	}
	t := &Linux{dev: dev, name: actual, control: -1}
	t.control, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = t.setMTU(mtu)
	}
	if err != nil {
		t.Close()
		return nil, createError(name, err)
	}
	return t, nil
}

// openTUN opens the clone device and attaches it to the interface. The
// descriptor may meet the runtime's poller only after that: a poll on one that
// is not attached reports an error for good.
func openTUN(name string) (int, error) {
	fd, err := unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, createError(name, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, createError(name, err)
	}
	return fd, nil
}

// createError gives the system's error its reason.
func createError(name string, err error) error {
	e := &CreateError{Name: name, Reason: Failed, Err: err}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		e.Reason = NoDevice
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL) && exists(name):
		// EBUSY: another process holds that TUN; EINVAL: it is no TUN at all.
		e.Reason = NameTaken
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Reason = NotPermitted
	}
	return e
}

func exists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// validName follows the kernel's dev_valid_name.
func validName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." &&
		!strings.ContainsAny(name, "/: \t\n\v\f\r\x00")
}

// setMTU sets the MTU, unless it is right already: on an interface that an
// administrator made for us we may not change it.
func (t *Linux) setMTU(mtu int) error {
	if now, err := t.MTU(); err == nil && now == mtu {
		return nil
	}
	ifr, err := unix.NewIfreq(t.name)
	if err != nil {
		return err
	}
	ifr.SetUint32(uint32(mtu))
	return unix.IoctlIfreq(t.control, unix.SIOCSIFMTU, ifr)
}

// Read implements Device.
func (t *Linux) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		n, err := t.readOnce(bufs, sizes, offset)
		if err != nil {
			if end := t.endOf(err); end != nil {
				return 0, end
			}
			// The packet could not be split, the next one may. ErrTooManySegments
			// comes with the packets that did fit.
			t.stats.ReadDrops.Add(1)
		}
		if n > 0 {
			t.countRead(sizes[:n])
			return n, nil
		}
	}
}

// readOnce reads one packet or super-packet. Splitting slices the buffers by
// the segment size the kernel names; should somebody raise the MTU beyond what
// the caller's buffers hold, or inject a wrong one (a raw socket may), that
// panics inside the library, and here it becomes a dropped packet.
func (t *Linux) readOnce(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	defer func() {
		if recover() != nil {
			n, err = 0, errUnsplittable
		}
	}()
	return t.dev.Read(bufs, sizes, offset)
}

var errUnsplittable = errors.New("tun: super-packet does not fit the buffers")

// endOf tells the end of the device from the fault of one packet, for which it
// returns nil: faults are plain errors of the splitting code, the end comes
// from the file. EIO and EBADFD mean that the interface was removed.
func (t *Linux) endOf(err error) error {
	var pathErr *fs.PathError
	switch {
	case t.closed.Load(), errors.Is(err, os.ErrClosed), errors.Is(err, unix.EIO), errors.Is(err, unix.EBADFD):
		return ErrClosed
	case errors.As(err, &pathErr):
		return fmt.Errorf("tun: interface %q: %w", t.name, err)
	}
	return nil
}

func (t *Linux) countRead(sizes []int) {
	bytes := 0
	for _, n := range sizes {
		bytes += n
	}
	t.stats.ReadPackets.Add(uint64(len(sizes)))
	t.stats.ReadBytes.Add(uint64(bytes))
}

// Write implements Device.
func (t *Linux) Write(bufs [][]byte, offset int) (int, error) {
	accepted := 0
	for len(bufs) > 0 {
		n := min(len(bufs), t.BatchSize()) // the library's flow tables hold no more
		k, err := t.writeBatch(bufs[:n], offset)
		accepted += k
		if err != nil {
			return accepted, err
		}
		bufs = bufs[n:]
	}
	return accepted, nil
}

// writeBatch writes at most BatchSize packets.
func (t *Linux) writeBatch(bufs [][]byte, offset int) (int, error) {
	good, bytes := t.scratch[:0], 0
	for _, b := range bufs {
		if len(b) < offset || !isIP(b[offset:]) {
			// One of these makes the library refuse its whole batch.
			t.stats.WriteDrops.Add(1)
			continue
		}
		bytes += len(b) - offset
		// Packets are merged into the spare room of the first of a flow; beyond
		// the longest IP packet the length field would wrap.
		good = append(good, b[:len(b):min(cap(b), offset+MaxMTU)])
	}
	defer clear(t.scratch[:len(good)])
	if len(good) == 0 {
		return 0, t.closedErr()
	}
	if _, err := t.dev.Write(good, offset); err != nil {
		if t.closed.Load() || errors.Is(err, os.ErrClosed) {
			return 0, ErrClosed
		}
		// The library does not say which of the merged packets it was; EIO means
		// that the interface is down, and then it was all of them.
		t.stats.WriteDrops.Add(uint64(len(good)))
		return 0, nil
	}
	t.stats.WritePackets.Add(uint64(len(good)))
	t.stats.WriteBytes.Add(uint64(bytes))
	return len(good), nil
}

func (t *Linux) closedErr() error {
	if t.closed.Load() {
		return ErrClosed
	}
	return nil
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
func (t *Linux) BatchSize() int { return min(t.dev.BatchSize(), MaxBatch) }

// Stats returns the live counters.
func (t *Linux) Stats() *Stats { return &t.stats }

// Close implements Device.
func (t *Linux) Close() error {
	t.closeOnce.Do(func() {
		t.closed.Store(true)
		t.closeErr = t.dev.Close()
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.control >= 0 {
			unix.Close(t.control)
			t.control = -1
		}
	})
	return t.closeErr
}
