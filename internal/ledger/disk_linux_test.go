package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"icvpn/internal/state"
)

func init() { roles["fulldisk"] = fillDisk }

// TestFullDiskRefusesAndRecovers fills a real file system: a small tmpfs in a
// mount namespace of the child's own.
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	c := child(t, "fulldisk", path)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := c.CombinedOutput()
	switch {
	case strings.Contains(string(out), "skip:"), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSPC):
		t.Skipf("no user namespaces here: %s%v", out, err)
	case err != nil:
		t.Fatalf("%s%v", out, err)
	}
}

func fillDisk(path string) error {
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		return fmt.Errorf("skip: %w", err)
	}
	dir, err := state.Open(filepath.Join(path, "state"), state.Options{})
	if err != nil {
		return err
	}
	l, err := Open(In(dir), testConfig("10.0.0.0/16"), start)
	if err != nil {
		return err
	}
	ballast := filepath.Join(path, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 700<<10), 0o600); err != nil {
		return err
	}
	n := 0
	for ; err == nil && n < 20_000; n++ {
		_, err = admit(l, n, "web", start)
	}
	n-- // was refused
	if err := sentence(err, File, "no space left", "free some space"); err != nil {
		return err
	}
	if l.Len() != n || int(l.Uses("web")) != n {
		return fmt.Errorf("%d machines were granted, there are %d members and %d uses", n, l.Len(), l.Uses("web"))
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if _, err := admit(l, n, "web", start); err != nil {
		return fmt.Errorf("with space again: %w", err)
	}
	if err := l.Close(); err != nil {
		return err
	}
	l, err = Open(In(dir), testConfig("10.0.0.0/16"), start)
	if err == nil && l.Len() != n+1 {
		err = fmt.Errorf("%d machines were granted, %d are there after a restart", n+1, l.Len())
	}
	return err
}
