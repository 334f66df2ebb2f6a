package state

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func openDir(t testing.TB, path string, o Options) *Dir {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// newDir opens a directory that does not exist yet.
func newDir(t testing.TB) *Dir {
	t.Helper()
	t.Setenv(credentialEnv, "")
	return openDir(t, filepath.Join(t.TempDir(), "state"), Options{})
}

func mustPut(t testing.TB, d *Dir, name, content string) {
	t.Helper()
	if err := d.Put(name, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t testing.TB, d *Dir, name, want string) {
	t.Helper()
	if got, err := d.Get(name); err != nil || string(got) != want {
		t.Fatalf("Get(%s) = %.40q, %v, want %.40q", name, got, err, want)
	}
}

// wantSentence checks an error for people: its kind, one line, what it names.
func wantSentence(t testing.TB, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v is not %v", err, kind)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q does not say %q", err, p)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r") || strings.Count(err.Error(), "state: ") != 1 {
		t.Errorf("%q is not one sentence", err)
	}
}

func TestPutGetListDelete(t *testing.T) {
	d := newDir(t)
	if _, err := d.Get("identity"); !errors.Is(err, ErrNotExist) {
		t.Errorf("Get of nothing = %v", err)
	}
	if err := d.Delete("identity"); err != nil {
		t.Errorf("Delete of nothing = %v", err)
	}
	big := strings.Repeat("x", MaxSize)
	for name, content := range map[string]string{"identity": "secret", "empty": "", "policy.v1": big, "z_9-a": "\x00"} {
		mustPut(t, d, name, content)
		wantContent(t, d, name, content)
	}
	mustPut(t, d, "identity", "another")
	wantContent(t, d, "identity", "another")
	names, err := d.List()
	if want := []string{"empty", "identity", "policy.v1", "z_9-a"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("List = %v, %v", names, err)
	}
	if err := d.Delete("empty"); err != nil {
		t.Error(err)
	}
	if err := d.Put("big", make([]byte, MaxSize+1)); err == nil {
		t.Error("Put took more than MaxSize")
	}
	_ = d.Close()
	again := openDir(t, d.Path(), Options{})
	wantContent(t, again, "identity", "another")
	if _, err := again.Get("empty"); !errors.Is(err, ErrNotExist) {
		t.Errorf("Get of a deleted name = %v", err)
	}
}

func TestEverythingOnDiskIsSealedAndPrivate(t *testing.T) {
	d := newDir(t)
	mustPut(t, d, "identity", "a very secret text")
	err := filepath.WalkDir(d.Path(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
		if b, _ := os.ReadFile(path); bytes.Contains(b, []byte("secret")) {
			t.Errorf("%s shows content", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNamesCannotLeaveTheDirectory(t *testing.T) {
	d := newDir(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/etc", ".hidden", "-rf", "UPPER", "a b", "ä", "schema", "a\x00b", strings.Repeat("a", 65)} {
		_, err := d.Get(name)
		wantSentence(t, err, ErrName)
		wantSentence(t, d.Put(name, nil), ErrName)
		wantSentence(t, d.Delete(name), ErrName)
	}
	if _, err := d.Counter("../x"); !errors.Is(err, ErrName) {
		t.Errorf("Counter(../x) = %v", err)
	}
}

func TestClosedDirRefuses(t *testing.T) {
	d := newDir(t)
	c, err := d.Counter("seq")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	_, getErr := d.Get("x")
	_, listErr := d.List()
	for _, err := range []error{getErr, listErr, d.Put("x", nil), d.Delete("x"), c.Raise(1)} {
		if !errors.Is(err, errClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	d := newDir(t)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "a", "b"} {
		wg.Go(func() {
			for range 20 {
				if err := d.Put(name, []byte(name)); err != nil {
					t.Error(err)
				}
				if got, err := d.Get(name); err != nil || string(got) != name {
					t.Errorf("Get = %q, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}

// --- damaged and foreign files ---

func TestEveryBitFlipAndTruncationIsDamage(t *testing.T) {
	d := newDir(t)
	mustPut(t, d, "doc", "content")
	good, err := os.ReadFile(filepath.Join(d.Path(), "doc.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	if len(good) != overhead+len("content") {
		t.Fatalf("file of %d bytes", len(good))
	}
	for i := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := d.unseal("doc.sealed", bad); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrKey) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
	for n := range good {
		if _, err := d.unseal("doc.sealed", good[:n]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := d.unseal("doc.sealed", append(good, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("trailing byte: %v", err)
	}
}

func TestDamagedFileIsNamedAndNeverOverwritten(t *testing.T) {
	d, foreign := newDir(t), newDir(t)
	mustPut(t, d, "doc", "content")
	mustPut(t, foreign, "doc", "content of another machine")
	file := filepath.Join(d.Path(), "doc.sealed")
	good, _ := os.ReadFile(file)
	strange, _ := os.ReadFile(filepath.Join(foreign.Path(), "doc.sealed"))
	later := bytes.Clone(good)
	later[4] = 2
	for name, c := range map[string]struct {
		bytes []byte
		kind  error
		says  string
	}{
		"flipped":   {append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), ErrDamaged, "is damaged"},
		"empty":     {nil, ErrDamaged, "is damaged"},
		"plain":     {bytes.Repeat([]byte("text "), 40), ErrDamaged, "not a sealed file"},
		"foreign":   {strange, ErrKey, "another key"},
		"later":     {later, ErrDamaged, "format 2"},
		"very long": {make([]byte, MaxSize+overhead+1), ErrDamaged, "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, c.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := d.Get("doc")
			wantSentence(t, err, c.kind, file, c.says)
			wantSentence(t, d.Put("doc", []byte("new")), c.kind, file)
			wantSentence(t, d.Delete("doc"), c.kind, file)
			if b, _ := os.ReadFile(file); !bytes.Equal(b, c.bytes) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestFileUnderAnotherNameDoesNotOpen(t *testing.T) {
	d := newDir(t)
	mustPut(t, d, "a", "content")
	if err := os.Rename(filepath.Join(d.Path(), "a.sealed"), filepath.Join(d.Path(), "b.sealed")); err != nil {
		t.Fatal(err)
	}
	_, err := d.Get("b")
	wantSentence(t, err, ErrDamaged, "b.sealed")
}

func TestSymbolicLinkOutOfTheDirectoryIsNotFollowed(t *testing.T) {
	d := newDir(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"doc.sealed", "doc.sealed.new"} {
		if err := os.Symlink(outside, filepath.Join(d.Path(), link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Put("doc", []byte("x")); err == nil {
		t.Error("Put followed a link")
	}
	if err := os.Remove(filepath.Join(d.Path(), "doc.sealed")); err != nil {
		t.Fatal(err)
	}
	mustPut(t, d, "doc", "x")
	if b, _ := os.ReadFile(outside); string(b) != "keep" {
		t.Errorf("outside now holds %q", b)
	}
}

// --- keys ---

func TestKeySourcesAndTheirOrder(t *testing.T) {
	base := t.TempDir()
	raw, text := bytes.Repeat([]byte{7}, 32), []byte(hex.EncodeToString(bytes.Repeat([]byte{8}, 32))+"\n")
	rawFile, textFile := filepath.Join(base, "raw"), filepath.Join(base, credentialFile)
	for path, b := range map[string][]byte{rawFile: raw, textFile: text} {
		if err := os.WriteFile(path, b, 0o440); err != nil {
			t.Fatal(err)
		}
	}
	use := func(dir string, o Options, credentials string) error {
		t.Setenv(credentialEnv, credentials)
		d, err := Open(filepath.Join(base, dir), o)
		if err == nil {
			err = errors.Join(d.Put("x", nil), d.Close())
		}
		return err
	}
	for _, c := range []struct {
		dir, keyFile, credentials, otherwise string
	}{{"explicit", rawFile, base, ""}, {"credential", "", base, ""}, {"own", "", "", ""}, {"own2", "", t.TempDir(), ""}} {
		if err := use(c.dir, Options{KeyFile: c.keyFile}, c.credentials); err != nil {
			t.Fatalf("%s: %v", c.dir, err)
		}
		if err := use(c.dir, Options{KeyFile: c.keyFile}, c.credentials); err != nil {
			t.Fatalf("%s again: %v", c.dir, err)
		}
		_, err := os.Stat(filepath.Join(base, c.dir, keyFile))
		if made := err == nil; made != strings.HasPrefix(c.dir, "own") {
			t.Errorf("%s: seal.key there: %v", c.dir, made)
		}
	}
	// The source is forgotten, or another one takes over.
	wantSentence(t, use("explicit", Options{}, ""), ErrKey, "explicit", "holds sealed files but no seal.key")
	wantSentence(t, use("explicit", Options{}, base), ErrKey, "explicit", "another key than "+textFile)
	wantSentence(t, use("own", Options{KeyFile: rawFile}, ""), ErrKey, "own", "another key than "+rawFile)
	if _, err := os.Stat(filepath.Join(base, "explicit", keyFile)); err == nil {
		t.Error("a new seal.key was made beside files of another key")
	}
}

func TestBadKeyFilesAreNamed(t *testing.T) {
	t.Setenv(credentialEnv, "")
	base := t.TempDir()
	file := filepath.Join(base, "key")
	dir := filepath.Join(base, "state")
	open := func() error {
		d, err := Open(dir, Options{KeyFile: file})
		if err == nil {
			_ = d.Close()
		}
		return err
	}
	wantSentence(t, open(), ErrKey, file, "no such file")
	for _, content := range []string{"", "short", strings.Repeat("g", 64), strings.Repeat("a", 63), strings.Repeat("a", 65), strings.Repeat("a", 2000)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		wantSentence(t, open(), ErrKey, file, "64 hexadecimal digits")
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte{1}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o644, 0o604, 0o620, 0o660} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		wantSentence(t, open(), ErrKey, file, "chmod 600")
	}
	if err := os.Chmod(file, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := open(); err != nil {
		t.Errorf("a good key file: %v", err)
	}
}

func TestLaterSchemaIsRefused(t *testing.T) {
	d := newDir(t)
	d.mu.Lock()
	err := d.putLocked(schemaFile, []byte{0, 2})
	d.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	_, err = Open(d.Path(), Options{})
	wantSentence(t, err, ErrDamaged, d.Path(), "another version")
}

func FuzzUnseal(f *testing.F) {
	d := newDir(f)
	b, err := d.seal("doc.sealed", []byte("content"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:overhead])
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := d.unseal("doc.sealed", in); err == nil && !bytes.Equal(in, b) {
			t.Errorf("a forgery opened: %x", in)
		}
	})
}
