//go:build unix

package state

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestDirectoryIsMadePrivate(t *testing.T) {
	t.Setenv(credentialEnv, "")
	path := filepath.Join(t.TempDir(), "a", "b")
	openDir(t, path, Options{})
	for _, p := range []string{path, filepath.Dir(path)} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
}

func TestOpenRefusesModesOfOthers(t *testing.T) {
	for _, mode := range []fs.FileMode{0o755, 0o750, 0o710, 0o701, 0o770, 0o777} {
		path := t.TempDir()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path, Options{})
		wantSentence(t, err, ErrAccess, path, "chmod 700 "+path)
		if files, _ := os.ReadDir(path); len(files) != 0 {
			t.Error("a refused directory was written to")
		}
	}
}

func TestOpenRefusesForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	path := t.TempDir()
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 4711, 4711); err != nil {
		t.Skip(err)
	}
	_, err := Open(path, Options{})
	wantSentence(t, err, ErrAccess, path, "uid 4711", "chown -R 0 "+path)
}

func TestOpenRefusesWhatIsNoDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(path, Options{})
	wantSentence(t, err, ErrAccess, path, "not a directory")
	_, err = Open(filepath.Join(path, "below"), Options{})
	wantSentence(t, err, ErrAccess, path, "not usable", "--state-dir")
}

func TestOpenRefusesUnwritableDirectory(t *testing.T) {
	// Root may write anywhere, so an ordinary user tries.
	path := childDir(t, 0o500)
	out, err := child(t, "open", path, asUser).CombinedOutput()
	if err == nil {
		t.Fatalf("a read-only directory was opened: %s", out)
	}
	for _, want := range []string{"state directory " + path, "permission denied", "mode 0700"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q does not say %q", out, want)
		}
	}
	below := filepath.Join(path, "new")
	if out, err := child(t, "open", below, asUser).CombinedOutput(); err == nil || !strings.Contains(string(out), below) {
		t.Errorf("making a directory where none can be: %s, %v", out, err)
	}
}

func TestSecondProcessIsToldWhoHolds(t *testing.T) {
	path := childDir(t, 0o700)
	holder := startChild(t, "hold", path)
	_, err := Open(path, Options{})
	wantSentence(t, err, ErrInUse, path, "in use by process "+strconv.Itoa(holder.Process.Pid), "icvpn down", "--state-dir")
	// Killed, the lock is free; the stale pid misleads nobody.
	_ = holder.Process.Kill()
	_ = holder.Wait()
	d := openDir(t, path, Options{})
	_, err = Open(path, Options{})
	wantSentence(t, err, ErrInUse, "process "+strconv.Itoa(os.Getpid()))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	openDir(t, path, Options{})
}

func TestHolderOnAnotherHostIsNamed(t *testing.T) {
	d := newDir(t)
	wantSentence(t, d.inUse([]byte("12 elsewhere\n")), ErrInUse, `process 12 on host "elsewhere"`)
	for _, content := range []string{"", "x y\n", "\x00\x00", "12\x1b[31m"} {
		wantSentence(t, d.inUse([]byte(content)), ErrInUse, "another process")
	}
}
