package control

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenMakesAPrivateSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "c.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for file, want := range map[string]os.FileMode{path: 0o600, path + ".lock": 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Lstat(file)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", file, info.Mode().Perm(), err, want)
		}
	}
}

func TestListenRefusesALiveSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var inUse *InUseError
	if _, err := Listen(path); !errors.As(err, &inUse) || inUse.Path != path {
		t.Errorf("second Listen: %v", err)
	}
	l.Close()
	l, err = Listen(path)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	l.Close()
}

func TestListenRefusesALiveSocketWithoutLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var inUse *InUseError
	if _, err := Listen(path); !errors.As(err, &inUse) {
		t.Errorf("got %v", err)
	}
	dial(t, path).Close() // still there
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	if _, err := NewClient(path).Status(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("client of a stale socket: %v", err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "is not a socket; move it") {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "mine" {
		t.Errorf("file is %q, %v", data, err)
	}
}

func TestListenRefusesALongPath(t *testing.T) {
	path := "/tmp/" + strings.Repeat("a", maxSocketPath)
	_, err := Listen(path)
	if err == nil || !strings.Contains(err.Error(), "control socket path has 108 bytes, the system allows 103; choose a shorter one") {
		t.Errorf("got %v", err)
	}
}

func TestClientWithoutASocket(t *testing.T) {
	if _, err := NewClient(filepath.Join(t.TempDir(), "absent")).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}
