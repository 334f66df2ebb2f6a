package tun

import (
	"os"
	"syscall"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// singlePackets is the crossing of Plain.
type singlePackets struct {
	ifce *water.Interface
	raw  syscall.RawConn // of the same file
}

var _ crossing = singlePackets{}

// openPlain has package water make the interface, and makes up for what it
// leaves out.
func openPlain(name string) (crossing, string, error) {
	// If the kernel refuses, water.New forgets to close its descriptor: ask first.
	kept := exists(name) // by its administrator; then it is not for us to remove
	fd, actual, err := attach(name, 0)
	if err != nil {
		return nil, "", err
	}
	unix.Close(fd)

	syscall.ForkLock.RLock() // until the descriptor is safe from children
	defer syscall.ForkLock.RUnlock()
	ifce, err := water.New(water.Config{
		DeviceType:             water.TUN,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: actual, Persist: kept},
	})
	if err != nil {
		return nil, "", err
	}
	raw, err := prepare(ifce)
	if err != nil {
		ifce.Close()
		return nil, "", err
	}
	return singlePackets{ifce, raw}, ifce.Name(), nil
}

// prepare keeps the descriptor from children, and turns off what offloads the
// last holder of an interface that outlives its holders turned on.
func prepare(ifce *water.Interface) (syscall.RawConn, error) {
	file, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, unix.EBADF
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	return raw, raw.Control(func(fd uintptr) {
		unix.CloseOnExec(int(fd))
		_ = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, 0)
	})
}

func (s singlePackets) batchSize() int { return 1 }

func (s singlePackets) conn() syscall.RawConn { return s.raw }

func (s singlePackets) close() error { return s.ifce.Close() }

func (s singlePackets) read(bufs [][]byte, sizes []int, offset int) (n, drops int, err error) {
	b := bufs[0][offset:]
	size, err := s.ifce.Read(b)
	if err != nil {
		return 0, 0, err
	}
	if size == len(b) && ipLen(b) > size {
		return 0, 1, nil // cut off
	}
	sizes[0] = size
	return 1, 0, nil
}

// ipLen returns the length that an IP packet names.
func ipLen(b []byte) int {
	switch {
	case len(b) >= ipv4HeaderLen && b[0]>>4 == 4:
		return int(b[2])<<8 | int(b[3])
	case len(b) >= ipv6HeaderLen && b[0]>>4 == 6:
		return ipv6HeaderLen + int(b[4])<<8 + int(b[5])
	}
	return 0
}

func (s singlePackets) write(bufs [][]byte, offset int) (n, bytes int, err error) {
	for _, b := range bufs {
		if len(b) < offset || !isIP(b[offset:]) {
			continue
		}
		if _, err := s.ifce.Write(b[offset:]); err == nil {
			n++
			bytes += len(b) - offset
		} else if ends(err) {
			return n, bytes, err
		}
	}
	return n, bytes, nil
}
