package ledger

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"icvpn/internal/state"
)

// Snapshot writes the file of a ledger that nobody has open: the state directory
// is locked by the caller.
func Snapshot(dir *state.Dir, w io.Writer) error {
	f, err := os.Open(filepath.Join(dir.Path(), File))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// Restore puts a backup's ledger into a state directory, in place of one that
// may be there, and says in it that it is an older copy; unless nothing was
// granted since the backup was made, which only a person can know. It is checked
// and complete before it takes its name.
func Restore(dir *state.Dir, backup io.Reader, nothingGranted bool) error {
	p := &place{sealer: dir.Sealer("ledger"), name: filepath.Join(dir.Path(), newFile)}
	if err := writeFile(p.name, backup); err != nil {
		return p.problem(err)
	}
	defer os.Remove(p.name)
	b, err := openBolt(p.name)
	if err != nil {
		return p.unreadable(err)
	}
	p.store = b
	l := &Ledger{place: p}
	err = errors.Join(b.complete(), l.checkMeta())
	if err == nil && !nothingGranted {
		err = b.update([]op{p.sealed(op{bucketMarks, markRestored, number64(0)})})
	}
	if err := errors.Join(err, b.close()); err != nil {
		return fmt.Errorf("the backup's ledger: %w", err)
	}
	return dir.Adopt(newFile, File)
}

func writeFile(path string, content io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Sync(), f.Close())
}
