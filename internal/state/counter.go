package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
)

// Counter is a number on disk that never goes back: the highest descriptor
// sequence seen, the next sequence number to sign. Safe for concurrent use.
type Counter struct {
	dir  *Dir
	file string
}

// Counter returns the counter of a name; it shares no space with Put's names.
func (d *Dir) Counter(name string) (*Counter, error) {
	file, err := fileName(name, counterSuffix)
	if err != nil {
		return nil, err
	}
	return &Counter{d, file}, nil
}

// Value returns the number, 0 before it was first raised.
func (c *Counter) Value() (uint64, error) {
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	return c.valueLocked()
}

// Raise sets the number to v. The same v again is no error; a lower one is
// ErrRollback and changes nothing.
func (c *Counter) Raise(v uint64) error {
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	have, err := c.valueLocked()
	switch {
	case err != nil:
		return err
	case v < have:
		return problemf(ErrRollback, "%s stands at %d and never goes back to %d", c.file, have, v)
	case v == have:
		return nil
	}
	return c.storeLocked(v)
}

// Reserve returns the first of n numbers that nobody gets again, not even after
// a kill -9: they are spent on disk before Reserve returns. The first number
// ever is 1, or atLeast if that is higher.
func (c *Counter) Reserve(n, atLeast uint64) (uint64, error) {
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	have, err := c.valueLocked()
	if err != nil {
		return 0, err
	}
	if have == math.MaxUint64 {
		return 0, fmt.Errorf("state: %s is used up", c.file)
	}
	first := max(have+1, atLeast)
	if n == 0 || n-1 > math.MaxUint64-first {
		return 0, fmt.Errorf("state: %s cannot give %d numbers from %d", c.file, n, first)
	}
	return first, c.storeLocked(first + n - 1)
}

func (c *Counter) valueLocked() (uint64, error) {
	b, err := c.dir.readLocked(c.file)
	if errors.Is(err, ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, problemf(ErrDamaged, "%s holds no number", filepath.Join(c.dir.path, c.file))
	}
	return binary.BigEndian.Uint64(b), nil
}

func (c *Counter) storeLocked(v uint64) error {
	return c.dir.putLocked(c.file, binary.BigEndian.AppendUint64(nil, v))
}
