//go:build unix

package ledger

import (
	"os"

	"golang.org/x/sys/unix"
)

// abandon closes a file that a panic has left locked and mapped. The mapping
// keeps the lock, so it is undone by name.
func abandon(f *os.File) {
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	_ = f.Close()
}
