package overlay

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"

	"icvpn/internal/wire"
)

const (
	objectVersion = 1
	// fanOut is the number of names in a root or an index: 16 names and the rest of
	// a root take 554 bytes.
	fanOut = 16
)

// root is the value of an object's signed item: a CBOR array.
type root struct {
	_     struct{} `cbor:",toarray"`
	Ver   uint8
	Size  uint32
	Sum   []byte // SHA-256 of the whole object
	Names []byte // SHA-256 of each chunk, or of each index
}

// Object is a value larger than an item carries: a signed root that names
// chunks, directly or through one or two levels of indexes.
type Object struct {
	Root Item
	// Life is how long after a put anybody will want the chunks, such as the validity
	// of what they carry; nodes then forget them earlier. It is at least 1 min.
	// Default, and at most: Expiry. The root is kept for Expiry, against a rollback.
	Life   time.Duration
	chunks []chunk // data and indexes
}

// NewObject cuts data, which it borrows, into an object signed by key. It is
// ErrInvalid for empty data, more than MaxObject bytes or a salt too long.
func NewObject(key ed25519.PrivateKey, salt []byte, seq int64, data []byte) (Object, error) {
	return newObject(key, salt, seq, data, MaxObject)
}

// NewLargeObject is NewObject for up to MaxLargeObject bytes. Readers find such an
// object only if their Config.MaxObject says that they take that much.
func NewLargeObject(key ed25519.PrivateKey, salt []byte, seq int64, data []byte) (Object, error) {
	return newObject(key, salt, seq, data, MaxLargeObject)
}

func newObject(key ed25519.PrivateKey, salt []byte, seq int64, data []byte, limit int) (Object, error) {
	if len(data) == 0 || len(data) > limit || len(salt) > MaxSalt || seq < 0 {
		return Object{}, fmt.Errorf("%w: object of %d bytes", ErrInvalid, len(data))
	}
	var o Object
	names := o.cut(data, MaxValue)
	for len(names) > fanOut*sha256.Size {
		names = o.cut(names, fanOut*sha256.Size)
	}
	sum := sha256.Sum256(data)
	value := wire.Marshal(root{Ver: objectVersion, Size: uint32(len(data)), Sum: sum[:], Names: names})
	o.Root = SignItem(key, salt, seq, value)
	return o, nil
}

// cut appends b in chunks of n bytes and returns their names.
func (o *Object) cut(b []byte, n int) (names []byte) {
	for ; len(b) > 0; b = b[min(n, len(b)):] {
		c := chunk(bytes.Clone(b[:min(n, len(b))]))
		name := c.name()
		o.chunks = append(o.chunks, c)
		names = append(names, name[:]...)
	}
	return names
}

// parseRoot reads a root and holds its claims against each other, so that nothing
// is allocated or fetched for a size that is not there.
func parseRoot(value []byte, limit int) (root, error) {
	var r root
	if err := wire.Unmarshal(value, &r, MaxValue); err != nil {
		return r, fmt.Errorf("%w: root: %v", ErrObject, err)
	}
	if r.Ver != objectVersion || r.Size == 0 || int64(r.Size) > int64(limit) || len(r.Sum) != sha256.Size ||
		len(r.Names) != sha256.Size*r.width() {
		return r, fmt.Errorf("%w: root of %d bytes", ErrObject, r.Size)
	}
	return r, nil
}

// leaves is the number of data chunks.
func (r root) leaves() int { return ceil(int(r.Size), MaxValue) }

// width is the number of names in the root.
func (r root) width() int {
	n := r.leaves()
	for n > fanOut {
		n = ceil(n, fanOut)
	}
	return n
}

// levels returns how many bytes the names on each level add up to, from below the
// root down, and last the size of the data.
func (r root) levels() (bytes []int) {
	for n := r.leaves(); n > fanOut; n = ceil(n, fanOut) {
		bytes = append([]int{n * sha256.Size}, bytes...)
	}
	return append(bytes, int(r.Size))
}

func ceil(a, b int) int { return (a + b - 1) / b }
