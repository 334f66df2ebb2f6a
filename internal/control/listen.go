package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxSocketPath is what sockaddr_un holds on every system, less the final zero:
// macOS 104 bytes, Linux 108.
const maxSocketPath = 103

// Listener is a bound control socket.
type Listener struct {
	unix *net.UnixListener
	lock *os.File
}

// InUseError says that a live process serves the socket.
type InUseError struct{ Path string }

func (e *InUseError) Error() string {
	return fmt.Sprintf("another icvpn process serves %s; stop it with icvpn down, or give this one a directory of its own with --state-dir", e.Path)
}

// Listen binds the control socket at path, mode 0600, and makes its directory,
// mode 0700, if there is none.
//
// A lock on path.lock, which the kernel drops with the process, tells whether
// the owner of an existing socket lives; that file stays behind, because
// removing it would let two processes hold "the" lock.
func Listen(path string) (*Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("control socket path has %d bytes, the system allows %d; choose a shorter one with --control-socket: %s",
			len(path), maxSocketPath, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	lock, err := lockFile(path + ".lock")
	if errors.Is(err, errLocked) {
		return nil, &InUseError{path}
	}
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	l, err := bind(path)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Listener{unix: l, lock: lock}, nil
}

// bind runs under the lock.
func bind(path string) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return restrict(c) }}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // where restrict has no effect
		l.Close()
		return nil, fmt.Errorf("control: %w", err)
	}
	return l.(*net.UnixListener), nil
}

// removeStale removes a socket that nobody answers on. Anything else at path is
// not ours to remove.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way of the control socket and is not a socket; move it, or choose another path with --control-socket", path)
	}
	d := net.Dialer{Timeout: time.Second}
	if c, err := d.DialContext(context.Background(), "unix", path); err == nil {
		c.Close()
		return &InUseError{path} // a server without our lock, on a file system without locks
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

// Close removes the socket, then gives up the lock. Serve calls it.
func (l *Listener) Close() error {
	err := l.unix.Close()
	l.lock.Close()
	return err
}
