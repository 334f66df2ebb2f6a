//go:build unix

package state

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The test binary runs itself for what needs another process.
const (
	roleEnv = "ICVPN_STATE_TEST_ROLE"
	pathEnv = "ICVPN_STATE_TEST_PATH"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := roles[role](os.Getenv(pathEnv)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var roles = map[string]func(path string) error{
	"open": func(path string) error {
		_, err := Open(path, Options{})
		return err
	},
	"hold": func(path string) error {
		d, err := Open(path, Options{})
		if err != nil {
			return err
		}
		defer d.Close()
		fmt.Println("holding")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until killed, or the test is gone
		return nil
	},
	"count": countUntilKilled,
}

type childOption func(*exec.Cmd)

// asUser drops root's right to write everywhere.
func asUser(c *exec.Cmd) {
	if os.Geteuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}

func child(t testing.TB, role, path string, options ...childOption) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), roleEnv+"="+role, pathEnv+"="+path, credentialEnv+"=")
	for _, o := range options {
		o(c)
	}
	if c.SysProcAttr != nil && c.SysProcAttr.Credential != nil {
		c.Path = copyExecutable(t, exe)
		if err := os.Chown(path, 65534, 65534); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Skip(err)
		}
	}
	return c
}

// copyExecutable puts the test binary where every user may run it.
func copyExecutable(t testing.TB, exe string) string {
	t.Helper()
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(childDir(t, 0o755), "state.test")
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// childDir is a directory that other users can get to, unlike t.TempDir's.
func childDir(t testing.TB, mode os.FileMode) string {
	t.Helper()
	path, err := os.MkdirTemp("", "icvpn-state-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// startChild returns once the child has printed its first line.
func startChild(t testing.TB, role, path string) *exec.Cmd {
	t.Helper()
	c := child(t, role, path)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = c.Process.Kill(); _ = c.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return c
}

var steps = []string{"create", "write", "sync", "rename", "sync directory"}

func TestFailedPutKeepsOldContent(t *testing.T) {
	for _, step := range steps {
		d := newDir(t)
		mustPut(t, d, "doc", "old")
		d.fault = func(s string) error {
			if s == step {
				return syscall.ENOSPC
			}
			return nil
		}
		err := d.Put("doc", []byte("new"))
		wantSentence(t, err, syscall.ENOSPC, "doc.sealed", "no space left", "old content is intact")
		d.fault = nil
		want := "old"
		if step == "sync directory" {
			want = "new" // renamed already: new here, old or new after a power cut
		}
		wantContent(t, d, "doc", want)
		if files, _ := d.filesLocked(); slices.Contains(files, "doc.sealed.new") {
			t.Errorf("%s: an unfinished file was left", step)
		}
		mustPut(t, d, "doc", "newer")
	}
}

// TestCrashAtEachStepLeavesOldOrNew breaks off without any clean-up, as a kill
// does, and opens the directory anew.
func TestCrashAtEachStepLeavesOldOrNew(t *testing.T) {
	for _, step := range steps {
		for _, old := range []string{"", "old"} {
			d := newDir(t)
			if old != "" {
				mustPut(t, d, "doc", old)
			}
			d.fault = func(s string) error {
				if s == step {
					panic("crash")
				}
				return nil
			}
			func() {
				defer func() { _ = recover() }()
				_ = d.Put("doc", []byte("new"))
			}()
			_ = d.Close()
			again := openDir(t, d.Path(), Options{})
			got, err := again.Get("doc")
			switch {
			case step == "sync directory" && string(got) == "new":
			case step != "sync directory" && old == "" && errors.Is(err, ErrNotExist):
			case step != "sync directory" && old != "" && string(got) == old:
			default:
				t.Errorf("%s, old %q: Get = %q, %v", step, old, got, err)
			}
			mustPut(t, again, "doc", "newer")
			if files, _ := again.filesLocked(); slices.ContainsFunc(files, func(f string) bool { return strings.HasSuffix(f, newSuffix) }) {
				t.Errorf("%s: unfinished files: %v", step, files)
			}
		}
	}
}

func TestCrashWhileMakingTheKeyLeavesNoHalfKey(t *testing.T) {
	t.Setenv(credentialEnv, "")
	path := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"seal.key.new": "abc", "schema.sealed.new": ""} {
		if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustPut(t, openDir(t, path, Options{}), "doc", "x")
}

// pattern is content that tells its number and whether it is whole.
func pattern(n uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), 1024+int(n%512))
}

func countUntilKilled(path string) error {
	d, err := Open(path, Options{})
	if err != nil {
		return err
	}
	c, err := d.Counter("count")
	if err != nil {
		return err
	}
	for {
		n, err := c.Reserve(1, 0)
		if err != nil {
			return err
		}
		if err := d.Put("doc", pattern(n)); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestKill9LeavesOldOrNew kills a writing process again and again: what it had
// acknowledged is there, nothing is torn, no reserved number comes twice.
func TestKill9LeavesOldOrNew(t *testing.T) {
	path := childDir(t, 0o700)
	var highest uint64
	for round := range 25 {
		highest = countAndKill(t, path, highest, 1+round%7)
	}
}

func countAndKill(t *testing.T, path string, before uint64, lines int) uint64 {
	c := child(t, "count", path)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := before
	scanner := bufio.NewScanner(out)
	for i := 0; i < lines && scanner.Scan(); i++ {
		n, err := strconv.ParseUint(scanner.Text(), 10, 64)
		if err != nil {
			t.Fatalf("the child says %q", scanner.Text())
		}
		if n <= acknowledged {
			t.Fatalf("number %d came after %d", n, acknowledged)
		}
		acknowledged = n
	}
	_ = c.Process.Kill() // wherever it is by now
	for scanner.Scan() {
		if n, err := strconv.ParseUint(scanner.Text(), 10, 64); err == nil {
			acknowledged = n
		}
	}
	_ = c.Wait()
	d, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got, err := d.Get("doc")
	if err != nil || len(got) < 8 {
		t.Fatalf("Get = %d bytes, %v", len(got), err)
	}
	n := binary.BigEndian.Uint64(got)
	if n < acknowledged || !bytes.Equal(got, pattern(n)) {
		t.Fatalf("found %d of %d bytes, %d was acknowledged", n, len(got), acknowledged)
	}
	return n
}

func TestCounterNeverGoesBack(t *testing.T) {
	d := newDir(t)
	c, err := d.Counter("descriptor")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := c.Value(); v != 0 || err != nil {
		t.Fatalf("a new counter: %d, %v", v, err)
	}
	for _, v := range []uint64{0, 5, 5, 1 << 40} {
		if err := c.Raise(v); err != nil {
			t.Fatal(err)
		}
	}
	wantSentence(t, c.Raise(6), ErrRollback, "descriptor.counter", "never goes back to 6")
	_ = d.Close()
	again := openDir(t, d.Path(), Options{})
	if c, err = again.Counter("descriptor"); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Value(); v != 1<<40 || err != nil {
		t.Fatalf("after opening anew: %d, %v", v, err)
	}
	if names, _ := again.List(); len(names) != 0 {
		t.Errorf("List shows counters: %v", names)
	}
}

func TestReserveGivesEachNumberOnce(t *testing.T) {
	d := newDir(t)
	c, err := d.Counter("seq")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct{ n, atLeast, want uint64 }{
		{1, 0, 1}, {1, 0, 2}, {10, 0, 3}, {1, 0, 13}, {1, 1000, 1000}, {1, 5, 1001},
	} {
		if got, err := c.Reserve(s.n, s.atLeast); err != nil || got != s.want {
			t.Fatalf("Reserve(%d, %d) = %d, %v, want %d", s.n, s.atLeast, got, err, s.want)
		}
	}
	for _, s := range []struct{ n, atLeast uint64 }{{0, 0}, {2, 1<<64 - 1}, {1<<64 - 1, 0}} {
		if got, err := c.Reserve(s.n, s.atLeast); err == nil {
			t.Errorf("Reserve(%d, %d) = %d", s.n, s.atLeast, got)
		}
	}
	if got, err := c.Reserve(1, 1<<64-1); err != nil || got != 1<<64-1 {
		t.Errorf("the last number: %d, %v", got, err)
	}
	if got, err := c.Reserve(1, 0); err == nil {
		t.Errorf("after the last number: %d", got)
	}
}

func TestCounterOfWrongSizeIsDamaged(t *testing.T) {
	d := newDir(t)
	d.mu.Lock()
	err := d.putLocked("seq.counter", []byte{1})
	d.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Counter("seq")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Value()
	wantSentence(t, err, ErrDamaged, "seq.counter")
	wantSentence(t, c.Raise(1), ErrDamaged)
	_, err = c.Reserve(1, 0)
	wantSentence(t, err, ErrDamaged)
}
