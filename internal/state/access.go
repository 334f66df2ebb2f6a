package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// makeDir makes the directory if it is not there, its parents too, all 0700.
func makeDir(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return problemf(ErrAccess, "state directory %s is not a directory; name another with --state-dir", path)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return accessProblem(path, err)
	}
	if err := os.MkdirAll(path, dirMode); err != nil {
		return accessProblem(path, err)
	}
	return nil
}

// checkAccess refuses a directory that others could read or write, and one that
// we cannot write.
func (d *Dir) checkAccess() error {
	info, err := d.root.Stat(".")
	if err != nil {
		return accessProblem(d.path, err)
	}
	if uid, known := owner(info); known && uid != os.Geteuid() {
		return problemf(ErrAccess, "state directory %s belongs to uid %d, not to this process's %d; run: chown -R %d %s, or name another with --state-dir",
			d.path, uid, os.Geteuid(), os.Geteuid(), d.path)
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return problemf(ErrAccess, "state directory %s has mode %04o, so others could get at the secrets in it; run: chmod 700 %s, or name a new directory inside it with --state-dir",
			d.path, m, d.path)
	}
	const probe = "probe" + newSuffix
	f, err := d.root.OpenFile(probe, os.O_WRONLY|os.O_CREATE, fileMode)
	if err != nil {
		return accessProblem(d.path, err)
	}
	_ = f.Close()
	// Not removed under our feet: whoever holds the lock clears it as unfinished.
	if err := d.root.Remove(probe); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return accessProblem(d.path, err)
	}
	return nil
}

func accessProblem(path string, err error) error {
	err = unwrapPath(err)
	way := "name another with --state-dir"
	switch {
	case errors.Is(err, fs.ErrPermission):
		way = fmt.Sprintf("give it to uid %d with mode 0700, or name another with --state-dir", os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		way = "mount it writable, or name another with --state-dir"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		way = "free some space"
	}
	return &problem{fmt.Sprintf("state directory %s is not usable: %v; %s", path, err, way), errors.Join(ErrAccess, err)}
}

// ioProblem names the file and keeps the cause for errors.Is: ENOSPC, ErrNotExist.
func (d *Dir) ioProblem(file string, err error) error {
	var p *problem
	if errors.As(err, &p) {
		return err
	}
	err = unwrapPath(err)
	text := fmt.Sprintf("%s: %v", filepath.Join(d.path, file), err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		text += "; its old content is intact, free some space"
	}
	return &problem{text, err}
}

// unwrapPath strips operation and path, which our sentences name themselves.
func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}

// inUse names the holder as well as the lock file lets us.
func (d *Dir) inUse(content []byte) error {
	who := "another process"
	pid, host, _ := strings.Cut(strings.TrimSpace(string(content)), " ")
	if pid != "" && strings.Trim(pid, "0123456789") == "" {
		who = "process " + pid
		if own, err := os.Hostname(); err == nil && host != "" && host != own {
			who += fmt.Sprintf(" on host %.64q", host)
		}
	}
	return problemf(ErrInUse, "state directory %s is in use by %s, another icvpn; stop that one with icvpn down, or give this one a directory of its own with --state-dir", d.path, who)
}
