package state

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Errors a caller may branch on. Each comes wrapped in a sentence that names the
// directory or file and the way out.
var (
	ErrNotExist = fs.ErrNotExist // no such name
	ErrInUse    = errors.New("another process holds the state directory")
	ErrAccess   = errors.New("the state directory is not safe or not usable")
	ErrKey      = errors.New("the sealing key is missing or wrong")
	ErrDamaged  = errors.New("a file of the state directory is damaged")
	ErrRollback = errors.New("the value is lower than one seen before")
	ErrName     = errors.New("not a name for state")
	errClosed   = errors.New("state: the directory is closed")
	errTooLarge = fmt.Errorf("state: more than %d bytes", MaxSize)
)

// problem is an error that reads as its sentence and is a sentinel to errors.Is.
type problem struct {
	text string
	kind error
}

func (p *problem) Error() string { return "state: " + p.text }
func (p *problem) Unwrap() error { return p.kind }

func problemf(kind error, format string, args ...any) error {
	return &problem{fmt.Sprintf(format, args...), kind}
}

// Options of Open. The zero value takes the systemd credential or seal.key.
type Options struct {
	// KeyFile holds the sealing key: 32 bytes, or 64 hexadecimal digits. Default:
	// $CREDENTIALS_DIRECTORY/icvpn-state-key if it exists, else seal.key in the
	// directory, made when the directory is new. Nobody but owner and group may
	// have access to it, and only the owner may write.
	KeyFile string
}

// Dir is an open state directory, locked against other processes. Safe for
// concurrent use.
type Dir struct {
	// set at start
	path    string
	root    *os.Root
	lock    *os.File
	aead    cipher.AEAD // of files
	records cipher.AEAD // of Sealers
	keyID   [keyIDSize]byte
	fault   func(step string) error // tests break off here; nil otherwise

	mu     sync.Mutex // one writer; Get waits for it too
	closed bool
}

// Open opens the state directory at path, and makes it with mode 0700 if it is
// not there. Every refusal is one sentence.
func Open(path string, o Options) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := makeDir(path); err != nil {
		return nil, err
	}
	d := &Dir{path: path}
	if d.root, err = os.OpenRoot(path); err != nil {
		return nil, accessProblem(path, err)
	}
	if err := d.start(o); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) start(o Options) error {
	if err := d.checkAccess(); err != nil {
		return err
	}
	if err := d.acquire(); err != nil {
		return err
	}
	if err := d.removeUnfinished(); err != nil {
		return err
	}
	key, origin, err := d.sealingKey(o)
	if err != nil {
		return err
	}
	defer clear(key)
	d.useKey(key)
	return d.checkSchema(origin)
}

// Close releases the directory to other processes.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.aead = nil
	if d.lock != nil {
		_ = d.lock.Truncate(0)
		_ = d.lock.Close()
	}
	return d.root.Close()
}

// Path returns the absolute path of the directory.
func (d *Dir) Path() string { return d.path }

// Put stores content under name. It is on disk when Put returns; if Put returns
// an error the old content is still there. A file that does not open under our
// key is not overwritten.
func (d *Dir) Put(name string, content []byte) error {
	file, err := fileName(name, sealedSuffix)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.putLocked(file, content)
}

// PutSealed stores a file of a backup under name, as it was sealed under our
// key. What there is already is not touched.
func (d *Dir) PutSealed(name string, sealed []byte) error {
	file, err := fileName(name, sealedSuffix)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.aead == nil {
		return errClosed
	}
	content, err := d.unseal(file, sealed)
	clear(content)
	if err != nil {
		return err
	}
	if has, err := d.oursLocked(file); err != nil || has {
		return err
	}
	return d.replace(file, sealed)
}

// Get returns what was stored under name; the caller owns it and wipes secrets.
// The error is ErrNotExist if there is nothing.
func (d *Dir) Get(name string) ([]byte, error) {
	file, err := fileName(name, sealedSuffix)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readLocked(file)
}

// Delete removes name. Removing what is not there is no error.
func (d *Dir) Delete(name string) error {
	file, err := fileName(name, sealedSuffix)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if ok, err := d.oursLocked(file); err != nil || !ok {
		return err
	}
	if err := d.root.Remove(file); err != nil {
		return d.ioProblem(file, err)
	}
	return d.syncDir()
}

// List returns the names that hold content, sorted.
func (d *Dir) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	files, err := d.filesLocked()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f, sealedSuffix); ok && f != schemaFile {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// fileName keeps names inside the directory and away from our own files.
func fileName(name, suffix string) (string, error) {
	bad := len(name) == 0 || len(name) > maxName || name[0] == '.' || name[0] == '-' || name+suffix == schemaFile
	for _, c := range []byte(name) {
		bad = bad || !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("._-", c) >= 0)
	}
	if bad {
		return "", problemf(ErrName, "%.80q is no name: want 1 to %d of a-z 0-9 . _ -", name, maxName)
	}
	return name + suffix, nil
}

func (d *Dir) filesLocked() ([]string, error) {
	if d.closed {
		return nil, errClosed
	}
	f, err := d.root.Open(".")
	if err != nil {
		return nil, d.ioProblem(".", err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, d.ioProblem(".", err)
	}
	return names, nil
}

// oursLocked says whether file exists; an error means it does but is not ours to
// replace.
func (d *Dir) oursLocked(file string) (bool, error) {
	old, err := d.readLocked(file)
	clear(old)
	if errors.Is(err, ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (d *Dir) readLocked(file string) ([]byte, error) {
	if d.closed {
		return nil, errClosed
	}
	f, err := d.root.Open(file)
	if err != nil {
		return nil, d.ioProblem(file, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+int64(overhead)+1))
	if err != nil {
		return nil, d.ioProblem(file, err)
	}
	return d.unseal(file, b)
}

func (d *Dir) putLocked(file string, content []byte) error {
	if len(content) > MaxSize {
		return errTooLarge
	}
	if _, err := d.oursLocked(file); err != nil {
		return err
	}
	b, err := d.seal(file, content)
	if err != nil {
		return err
	}
	return d.replace(file, b)
}

// replace is the only way a file gets its content: write beside it, sync, rename
// over it, sync the directory. Whatever stops it, file is the old or the new.
func (d *Dir) replace(file string, b []byte) (err error) {
	temp := file + newSuffix
	defer func() {
		if err != nil {
			_ = d.root.Remove(temp)
			err = d.ioProblem(file, err)
		}
	}()
	if err := d.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.writeNew(temp, b); err != nil {
		return err
	}
	if err := d.step("rename"); err != nil {
		return err
	}
	if err := d.root.Rename(temp, file); err != nil {
		return err
	}
	if err := d.step("sync directory"); err != nil {
		return err
	}
	return d.syncDir()
}

func (d *Dir) writeNew(temp string, b []byte) error {
	if err := d.step("create"); err != nil {
		return err
	}
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	if err := d.writeSynced(f, b); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func (d *Dir) writeSynced(f *os.File, b []byte) error {
	// Two writes, so that a test can break off between them.
	half := len(b) / 2
	if _, err := f.Write(b[:half]); err != nil {
		return err
	}
	if err := d.step("write"); err != nil {
		return err
	}
	if _, err := f.Write(b[half:]); err != nil {
		return err
	}
	if err := d.step("sync"); err != nil {
		return err
	}
	return f.Sync()
}

func (d *Dir) step(name string) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(name)
}

func (d *Dir) syncDir() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// removeUnfinished clears what a killed process was writing. Nobody else can be:
// we hold the lock.
func (d *Dir) removeUnfinished() error {
	files, err := d.filesLocked()
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f, newSuffix) {
			if err := d.root.Remove(f); err != nil {
				return d.ioProblem(f, err)
			}
		}
	}
	return nil
}

// checkSchema makes sure, before anything is used, that the key is the one this
// directory was sealed under and that we know what the names mean.
func (d *Dir) checkSchema(origin string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.readLocked(schemaFile)
	switch {
	case errors.Is(err, ErrNotExist):
		return d.putLocked(schemaFile, binary.BigEndian.AppendUint16(nil, schemaVersion))
	case errors.Is(err, ErrKey):
		return problemf(ErrKey, "state directory %s is sealed under another key than %s holds; give the key it was made with, or name another directory with --state-dir", d.path, origin)
	case err != nil:
		return err
	case len(b) != 2 || binary.BigEndian.Uint16(b) != schemaVersion:
		return problemf(ErrDamaged, "state directory %s was written by another version of icvpn (schema %x, this one knows %d); use that version, or name another directory with --state-dir", d.path, b, schemaVersion)
	}
	return nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}

// Adopt gives a file that its maker has written and synced, beside the others
// and under a name that ends in ".new", its own name, in place of whatever had
// it. For stores that write their files themselves.
func (d *Dir) Adopt(made, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if err := d.root.Rename(made, name); err != nil {
		return d.ioProblem(name, err)
	}
	return d.syncDir()
}
