//go:build linux

package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
)

// Exit codes, as docs/cli.md promises them.
const (
	exitFailure = 1
	exitUsage   = 2
	exitRefused = 3
)

// mistake is something that an operator or a machine gets wrong, and what the
// program must answer: an exit code and one sentence with these words in it.
type mistake struct {
	name string
	code int
	says []string
	run  func() result
}

// stutter are names of packages, which errors begin with inside the program.
var stutter = regexp.MustCompile(`(icvpn|; |: |\()(admission|node|service|state|superpeer|tun|underlay|netcfg|owner|control): `)

// check runs a mistake and judges the answer.
func (c mistake) check(t *testing.T) {
	t.Helper()
	r := c.run()
	if r.code != c.code {
		t.Errorf("exit code %d, want %d", r.code, c.code)
	}
	sentence := onlySentence(t, r)
	for _, want := range c.says {
		if !strings.Contains(sentence, want) {
			t.Errorf("the sentence lacks %q", want)
		}
	}
	if m := stutter.FindString(sentence); m != "" {
		t.Errorf("the sentence has %q, which says nothing to its reader", m)
	}
	if t.Failed() {
		t.Log(r)
	} else {
		t.Log(sentence)
	}
}

// onlySentence returns the one line of stderr for people; whatever else is there
// must be the log.
func onlySentence(t *testing.T, r result) (sentence string) {
	t.Helper()
	for line := range strings.Lines(r.stderr) {
		switch {
		case strings.HasPrefix(line, "icvpn: ") && sentence == "":
			sentence = strings.TrimSpace(line)
		case strings.HasPrefix(line, "time="):
		default:
			t.Errorf("more than one sentence and a log: %q", line)
		}
	}
	if sentence == "" {
		t.Errorf("no sentence that begins with icvpn")
	}
	return sentence
}

// files is the content of a directory by name, without sockets and the locks'
// text.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.HasSuffix(path, "lock") {
			b = nil
		}
		all[strings.TrimPrefix(path, dir)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// sameFiles compares a directory with what files returned before.
func sameFiles(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	now := files(t, dir)
	for name, content := range before {
		if got, ok := now[name]; !ok || got != content {
			t.Errorf("%s%s has changed or is gone", dir, name)
		}
		delete(now, name)
	}
	for name := range now {
		t.Errorf("%s%s is new", dir, name)
	}
}

// prepared runs a command in a host on a thread that prepare has changed: with
// fewer capabilities or other mounts. The thread ends with the command's start.
func (w *world) prepared(h *lab.Host, cmd *exec.Cmd, prepare func() error) result {
	w.t.Helper()
	return w.finish(cmd, func() error {
		err := h.Do(func() error {
			runtime.LockOSThread() // for good: the thread is not fit for others any more
			if err := prepare(); err != nil {
				return err
			}
			return cmd.Start()
		})
		if err != nil {
			return err
		}
		return cmd.Wait()
	})
}

// without takes capabilities from what is executed next, root or not: they leave
// the bounding set (capabilities(7)).
func without(caps ...uintptr) func() error {
	return func() error {
		for _, c := range caps {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return os.NewSyscallError("prctl", err)
			}
		}
		return nil
	}
}

// mounted gives what is executed next mounts of its own.
func mounted(mount func() error) func() error {
	return func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		return os.NewSyscallError("mount", mount())
	}
}

// flip changes one byte in the middle.
func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}
