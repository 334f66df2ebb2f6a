//go:build !unix

package control

import (
	"errors"
	"os"
	"syscall"
)

var errLocked = errors.New("control: locked by another process")

// lockFile does not lock here; removeStale's dial tells a live owner.
func lockFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

func restrict(syscall.RawConn) error { return nil }
