package ledger

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// We chose:
const (
	// mapSize is address space, not memory: a ledger of 65,534 members fits, and
	// no write waits for a new mapping.
	mapSize = 64 << 20
	// lockWait is for the lock on the file. The state directory's own keeps
	// processes apart, so only a copy of a file in use ever waits.
	lockWait = time.Second
)

// bolt is a store in a bbolt file.
type bolt struct {
	db    *bbolt.DB
	fault func(step string) error // tests break off here; nil otherwise
}

var _ store = (*bolt)(nil)

// openBolt opens the database at path, and makes it if it is not there. What
// anything in it panics over is damage: bbolt trusts its pages, and a page
// beyond the end of the file is a fault of the mapping.
func openBolt(path string) (b *bolt, err error) {
	var file *os.File
	defer func() {
		if err != nil && file != nil {
			abandon(file)
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer recovered(&err)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockWait, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapSize, NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	})
	if err != nil {
		return nil, err
	}
	return &bolt{db: db}, nil
}

// recovered turns a panic into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", errDamaged, r)
	}
}

var errDamaged = errors.New("its pages do not fit together")

// check reads the whole structure. It comes after every record was visited, in
// a goroutine of bbolt's that no recover of ours reaches: what the visits have
// touched cannot fault any more.
func (b *bolt) check() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer recovered(&err)
	return b.db.View(func(tx *bbolt.Tx) error {
		var first error
		for err := range tx.Check() { // to the end, or its goroutine stays
			if first == nil {
				first = fmt.Errorf("%w: %w", errDamaged, err)
			}
		}
		return first
	})
}

// complete says whether the file is as long as its database.
func (b *bolt) complete() error {
	return b.db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(b.db.Path())
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("%w: %d bytes of %d are there", errDamaged, info.Size(), tx.Size())
		}
		return nil
	})
}

func (b *bolt) each(bucket string, visit func(key, value []byte) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer recovered(&err)
	return b.db.View(func(tx *bbolt.Tx) error {
		at := tx.Bucket([]byte(bucket))
		if at == nil {
			return nil
		}
		return at.ForEach(visit)
	})
}

func (b *bolt) update(ops []op) error {
	if err := b.step("write"); err != nil {
		return err
	}
	err := b.db.Update(func(tx *bbolt.Tx) error {
		for _, o := range ops {
			at, err := tx.CreateBucketIfNotExists([]byte(o.bucket))
			if err != nil {
				return err
			}
			if o.value == nil {
				err = at.Delete([]byte(o.key))
			} else {
				err = at.Put([]byte(o.key), o.value)
			}
			if err != nil {
				return err
			}
		}
		return b.step("commit")
	})
	if err != nil {
		return err
	}
	return b.step("committed")
}

func (b *bolt) step(name string) error {
	if b.fault == nil {
		return nil
	}
	return b.fault(name)
}

func (b *bolt) writeTo(w io.Writer) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}

func (b *bolt) close() error { return b.db.Close() }
