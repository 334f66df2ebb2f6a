//go:build linux

package measure

import (
	"context"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// threads is how many threads a run may have in Go code at once: sender,
// receiver, pinger, and some to spare, whatever the number of processors.
const threads = 8

// FreeThreads lets a thread that comes back from the kernel go on at once: the
// kernel's scheduler decides who runs, not Go's.
func FreeThreads() { runtime.GOMAXPROCS(max(threads, runtime.GOMAXPROCS(0))) }

// socket returns a blocking socket, on which nothing waits longer than patience.
func socket(family, kind, proto int, patience time.Duration) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, err
	}
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &tv); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) (unix.Sockaddr, int) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}, unix.AF_INET6
}

// again calls f until no signal interrupts it; Go sends its threads many.
func again[T any](f func() (T, error)) (v T, err error) {
	for {
		if v, err = f(); err != unix.EINTR { //nolint:errorlint // from a system call, never wrapped
			return v, err
		}
	}
}

// Sleep waits, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
