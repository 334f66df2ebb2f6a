package ledger

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// op is one record to write; a nil value deletes it.
type op struct {
	bucket string
	key    string
	value  []byte
}

// store is what lies below the indexes: named buckets of sorted records.
type store interface {
	// each visits the records of a bucket as one state of it. Slices are the
	// visitor's until it returns.
	each(bucket string, visit func(key, value []byte) error) error
	// update makes all of ops true, or none. After an error it is not known
	// which, until an update succeeds.
	update(ops []op) error
	// writeTo writes the whole store as it is at one moment.
	writeTo(w io.Writer) error
	close() error
}

// Memory is a ledger's place in memory, for tests and simulations: it outlives
// the ledger as a disk outlives a process. The zero value is empty. Safe for
// concurrent use.
type Memory struct {
	mu      sync.Mutex
	records map[string]map[string][]byte
	full    error
}

var _ store = (*Memory)(nil)

// Fail makes every write fail with err, until Fail(nil).
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = err
}

// Copy returns a place with the same content: a backup.
func (m *Memory) Copy() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Memory{records: map[string]map[string][]byte{}}
	for bucket, records := range m.records {
		for key, value := range records {
			c.put(op{bucket, key, value})
		}
	}
	return c
}

// bucketFiles holds the named documents of a Memory.
const bucketFiles = "files"

// Get implements Home.
func (m *Memory) Get(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.records[bucketFiles][name]; ok {
		return bytes.Clone(b), nil
	}
	return nil, fs.ErrNotExist
}

// Put implements Home.
func (m *Memory) Put(name string, b []byte) error {
	return m.update([]op{{bucketFiles, name, bytes.Clone(b)}})
}

func (m *Memory) each(bucket string, visit func(key, value []byte) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, value := range m.records[bucket] {
		if err := visit([]byte(key), value); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) update(ops []op) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full != nil {
		return m.full
	}
	if m.records == nil {
		m.records = map[string]map[string][]byte{}
	}
	for _, o := range ops {
		m.put(o)
	}
	return nil
}

func (m *Memory) put(o op) {
	if m.records[o.bucket] == nil {
		m.records[o.bucket] = map[string][]byte{}
	}
	if o.value == nil {
		delete(m.records[o.bucket], o.key)
		return
	}
	m.records[o.bucket][o.key] = bytes.Clone(o.value) // the caller may clear his
}

func (m *Memory) writeTo(io.Writer) error {
	return fmt.Errorf("ledger: a ledger in memory has no backup")
}

func (m *Memory) close() error { return nil }
