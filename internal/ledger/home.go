package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"

	"icvpn/internal/state"
)

// Names in the state directory.
const (
	File    = "ledger.db"
	newFile = File + ".new" // removed by the next state.Open
	counter = "ledger"      // ledger.counter: openings, kept beside the file
	legacy  = "members"     // members.sealed, before there was a ledger
)

// Home is where a ledger lies: In a state directory, or in a Memory.
type Home interface {
	// enter returns what is there. fill makes the first content, from the members
	// that a former version saved, if there are any.
	enter(fill func(sealer, former []byte) ([]op, error)) (*place, error)

	// Get and Put keep named documents beside the ledger, as state.Dir does.
	Get(name string) ([]byte, error) // fs.ErrNotExist if there is none
	Put(name string, b []byte) error
}

var (
	_ Home = (*Memory)(nil)
	_ Home = home{}
)

// place is an entered Home.
type place struct {
	store  store
	sealer sealer         // nil: nothing is sealed
	opened *state.Counter // nil: nothing tells an older copy
	name   string         // for sentences
}

// sealer is state.Sealer.
type sealer interface {
	KeyID() []byte
	Seal(bucket string, key, value []byte) []byte
	Open(bucket string, key, sealed []byte) ([]byte, error)
}

func (m *Memory) enter(fill func(sealer, former []byte) ([]op, error)) (*place, error) {
	p := &place{store: m, name: "memory"}
	if len(m.records[bucketMeta]) > 0 {
		return p, nil
	}
	ops, err := fill(nil, nil)
	if err != nil {
		return nil, err
	}
	return p, m.update(ops)
}

// In returns the place of a ledger in a state directory, whose lock keeps other
// processes out.
func In(dir *state.Dir) Home { return home{dir} }

type home struct{ dir *state.Dir }

func (h home) Get(name string) ([]byte, error) { return h.dir.Get(name) }
func (h home) Put(name string, b []byte) error { return h.dir.Put(name, b) }

// MarkRestored says of the ledger in home that it is an older copy, put back.
// The next Open treats it so: see Ledger.Restored.
func MarkRestored(h Home) error {
	p, err := h.enter(func(_, _ []byte) ([]op, error) { return nil, errors.New("there is no ledger") })
	if err != nil {
		return err
	}
	return errors.Join(p.store.update([]op{p.sealed(op{bucketMarks, markRestored, number64(0)})}), p.store.close())
}

// enter opens the file. A file that is not there is made beside its name and
// takes it when it is complete, and only then the former version's file goes:
// whatever happens in between, one of the two is there and whole.
func (h home) enter(fill func(sealer, former []byte) ([]op, error)) (*place, error) {
	s := h.dir.Sealer("ledger")
	p := &place{sealer: s, name: filepath.Join(h.dir.Path(), File)}
	_, err := os.Lstat(p.name)
	if errors.Is(err, fs.ErrNotExist) {
		err = h.create(p, fill)
	}
	if err != nil {
		return nil, p.problem(err)
	}
	if p.opened, err = h.dir.Counter(counter); err != nil {
		return nil, err
	}
	b, err := openBolt(p.name)
	if err != nil {
		return nil, p.unreadable(err)
	}
	p.store = b
	if err := b.complete(); err != nil {
		_ = b.close()
		return nil, p.unreadable(err)
	}
	if err := h.dir.Delete(legacy); err != nil {
		_ = b.close()
		return nil, err
	}
	return p, nil
}

func (h home) create(p *place, fill func(sealer, former []byte) ([]op, error)) error {
	former, err := h.dir.Get(legacy)
	if err != nil && !errors.Is(err, state.ErrNotExist) {
		return err
	}
	ops, err := fill(p.sealer.KeyID(), former)
	if err != nil {
		return fmt.Errorf("ledger: the members saved in %s: %w", filepath.Join(h.dir.Path(), legacy+".sealed"), err)
	}
	path := filepath.Join(h.dir.Path(), newFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := openBolt(path)
	if err != nil {
		return err
	}
	for i, o := range ops {
		ops[i] = p.sealed(o)
	}
	if err := errors.Join(b.update(ops), b.close()); err != nil {
		return err
	}
	return h.dir.Adopt(newFile, File)
}

// sealed returns o as it goes to the store. What is needed to tell why nothing
// opens stays in clear.
func (p *place) sealed(o op) op {
	if p.sealer == nil || o.value == nil || o.bucket == bucketMeta {
		return o
	}
	o.value = p.sealer.Seal(o.bucket, []byte(o.key), o.value)
	return o
}

// each visits the records of a bucket, opened.
func (p *place) each(bucket string, visit func(key, value []byte) error) error {
	return p.store.each(bucket, func(key, value []byte) error {
		if p.sealer == nil || bucket == bucketMeta {
			return visit(key, value)
		}
		plain, err := p.sealer.Open(bucket, key, value)
		if err != nil {
			return fmt.Errorf("%w: a record of %s does not open", errDamaged, bucket)
		}
		return visit(key, plain)
	})
}

// unreadable is the sentence for a file that cannot be used as it is.
func (p *place) unreadable(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, berrors.ErrTimeout) {
		return p.problem(err)
	}
	return fmt.Errorf("ledger: %s is damaged (%w) and was left as it is; put a backup in its place with icvpn super restore, or, if there is none, move it away when the last credential it granted has ended, a day after the super peer stopped", p.name, err)
}

// problem is the sentence for a file that cannot be reached or written.
func (p *place) problem(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	way := "see to that, and start again"
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		way = "free some space there"
	case errors.Is(err, syscall.EROFS):
		way = "mount it writable"
	case errors.Is(err, fs.ErrPermission):
		way = fmt.Sprintf("give it to uid %d", os.Geteuid())
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("ledger: %s is in use by another process, though the state directory is not; end that one", p.name)
	}
	return fmt.Errorf("ledger: %s: %w; nothing in it is lost, %s", p.name, err, way)
}
