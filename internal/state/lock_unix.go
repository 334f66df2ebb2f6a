//go:build unix

package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func owner(info fs.FileInfo) (uid int, known bool) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid), true
	}
	return 0, false
}

// acquire locks the directory with flock(2): the kernel lets go when the process
// ends, however it ends. The pid in the file is only for people.
func (d *Dir) acquire() error {
	f, err := d.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return accessProblem(d.path, err)
	}
	if err := flock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return accessProblem(d.path, err)
		}
		content, _ := io.ReadAll(io.LimitReader(f, 256))
		return d.inUse(content)
	}
	d.lock = f
	host, _ := os.Hostname()
	// A full disk may keep the pid from being written; the lock holds all the same.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d %s\n", os.Getpid(), host), 0)
	}
	return nil
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
