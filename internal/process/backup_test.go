package process

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/state"
)

func ledgerConfig() ledger.Config {
	return ledger.Config{Service: id.ID{1}, SuperPeer: id.ID{2}, Block: netip.MustParsePrefix("10.0.0.0/24"), Life: time.Hour, Grace: time.Minute}
}

// superState makes a state directory of two services and returns its path.
func superState(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	for _, sub := range []string{"", filepath.Join(dirServices, strings.Repeat("ab", 20))} {
		if err := os.MkdirAll(filepath.Join(path, filepath.Dir(sub)), 0o700); err != nil {
			t.Fatal(err)
		}
		dir, err := state.Open(filepath.Join(path, sub), state.Options{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(ledger.In(dir), ledgerConfig(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(dir.Put(fileHandOver, []byte("a hand-over")), l.Close(), dir.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// moveKeys copies the keys alone, as an operator does.
func moveKeys(t *testing.T, from, to string) {
	t.Helper()
	for _, sub := range []string{"", filepath.Join(dirServices, strings.Repeat("ab", 20))} {
		key, err := os.ReadFile(filepath.Join(from, sub, "seal.key"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(to, sub), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, sub, "seal.key"), key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// restoredUntil opens the ledger of a state directory.
func restoredUntil(t *testing.T, path string) time.Time {
	t.Helper()
	dir, err := state.Open(path, state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if b, err := dir.Get(fileHandOver); err != nil || string(b) != "a hand-over" {
		t.Errorf("hand-over %q, %v", b, err)
	}
	l, err := ledger.Open(ledger.In(dir), ledgerConfig(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Restored(time.Now())
}

func TestBackupIsPutBackOnAnotherMachine(t *testing.T) {
	from, to := superState(t), filepath.Join(t.TempDir(), "state")
	file := filepath.Join(t.TempDir(), "super.backup")
	done, err := BackupStopped(from, "", file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != done.Bytes {
		t.Errorf("backup %v of %d bytes, %v", info.Mode(), done.Bytes, err)
	}
	b, _ := os.ReadFile(file)
	if key, _ := os.ReadFile(filepath.Join(from, "seal.key")); bytes.Contains(b, bytes.TrimSpace(key)) || bytes.Contains(b, []byte("a hand-over")) {
		t.Error("the backup holds its key, or something unsealed")
	}
	if _, err := BackupStopped(from, "", file); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("a second backup to the same file: %v", err)
	}
	o := RestoreOptions{StateDir: to, File: file}
	if err := Restore(o); err == nil || !strings.Contains(err.Error(), "seal.key") {
		t.Errorf("restored without its key: %v", err)
	}
	moveKeys(t, from, to)
	if err := Restore(o); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"", filepath.Join(dirServices, strings.Repeat("ab", 20))} {
		if until := restoredUntil(t, filepath.Join(to, sub)); until.IsZero() {
			t.Errorf("%q: new machines get addresses at once", sub)
		}
	}
	if err := Restore(o); err == nil || !strings.Contains(err.Error(), "--replace") {
		t.Errorf("restored over a ledger: %v", err)
	}
	o.Replace = true
	if err := Restore(o); err != nil {
		t.Error(err)
	}
	if kept, _ := filepath.Glob(filepath.Join(to, "ledger.db.replaced-*")); len(kept) != 1 {
		t.Errorf("the ledger that was replaced is kept as %q", kept)
	}
}

func TestMovedSuperPeerDoesNotWait(t *testing.T) {
	from, to := superState(t), filepath.Join(t.TempDir(), "state")
	file := filepath.Join(t.TempDir(), "super.backup")
	if _, err := BackupStopped(from, "", file); err != nil {
		t.Fatal(err)
	}
	moveKeys(t, from, to)
	if err := Restore(RestoreOptions{StateDir: to, File: file, Moved: true}); err != nil {
		t.Fatal(err)
	}
	if until := restoredUntil(t, to); !until.IsZero() {
		t.Errorf("it waits until %v", until)
	}
}

// TestRestoreUnderAWrongKeyLeavesNothing, so that the right one finds the directory as it
// was.
func TestRestoreUnderAWrongKeyLeavesNothing(t *testing.T) {
	from, foreign, to := superState(t), superState(t), filepath.Join(t.TempDir(), "state")
	file := filepath.Join(t.TempDir(), "super.backup")
	if _, err := BackupStopped(from, "", file); err != nil {
		t.Fatal(err)
	}
	moveKeys(t, foreign, to)
	if err := Restore(RestoreOptions{StateDir: to, File: file}); err == nil || !strings.Contains(err.Error(), "the backup was made under another key") {
		t.Errorf("under a wrong key: %v", err)
	}
	for _, sub := range []string{"", filepath.Join(dirServices, strings.Repeat("ab", 20))} {
		if left, err := filepath.Glob(filepath.Join(to, sub, "*.sealed")); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
	moveKeys(t, from, to)
	if err := Restore(RestoreOptions{StateDir: to, File: file}); err != nil {
		t.Errorf("under the right one after that: %v", err)
	}
}

func TestRestoreRefusesWhatIsNoBackup(t *testing.T) {
	from := superState(t)
	file := filepath.Join(t.TempDir(), "super.backup")
	if _, err := BackupStopped(from, "", file); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	foreign := superState(t)
	for name, content := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "cut off": whole[:len(whole)/2], "manifest only": whole[:1024],
		"a path outside": bytes.Replace(whole, []byte("handover.sealed"), []byte("../../x.sealed\x00"), 1),
	} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Restore(RestoreOptions{StateDir: foreign, File: file, Replace: true}); err == nil || !strings.Contains(err.Error(), "no whole backup") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(RestoreOptions{StateDir: foreign, File: file, Replace: true}); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("under another key: %v", err)
	}
	if err := restoredUntil(t, foreign); !err.IsZero() {
		t.Error("what was refused has replaced the ledger")
	}
}
