package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func init() { roles["fulldisk"] = fillDisk }

// TestFullDiskKeepsOldContent fills a real file system: a small tmpfs in a
// mount namespace of the child's own.
func TestFullDiskKeepsOldContent(t *testing.T) {
	out, err := child(t, "fulldisk", childDir(t, 0o700), func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}).CombinedOutput()
	switch {
	case strings.Contains(string(out), "skip:"), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSPC):
		t.Skipf("no user namespaces here: %s%v", out, err)
	case err != nil:
		t.Fatalf("%s%v", out, err)
	}
}

func fillDisk(path string) error {
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=128k,mode=0700"); err != nil {
		return fmt.Errorf("skip: %w", err)
	}
	d, err := Open(path, Options{})
	if err != nil {
		return err
	}
	defer d.Close()
	old := bytes.Repeat([]byte("o"), 30_000)
	if err := d.Put("doc", old); err != nil {
		return err
	}
	err = d.Put("doc", bytes.Repeat([]byte("n"), 200_000))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "doc.sealed") {
		return fmt.Errorf("Put on a full disk: %w", err)
	}
	if got, err := d.Get("doc"); err != nil || !bytes.Equal(got, old) {
		return fmt.Errorf("after it Get gives %d bytes, %w", len(got), err)
	}
	// The failed attempt gave its space back.
	return d.Put("doc", bytes.Repeat([]byte("n"), 30_000))
}
