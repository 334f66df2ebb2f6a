package overlay

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"sync"
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
// chunks, directly or through indexes.
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
	if len(data) == 0 || len(data) > MaxObject || len(salt) > MaxSalt || seq < 0 {
		return Object{}, fmt.Errorf("%w: object of %d bytes", ErrInvalid, len(data))
	}
	var o Object
	names := o.cut(data, MaxValue)
	if len(names) > fanOut*sha256.Size {
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
func parseRoot(value []byte) (root, error) {
	var r root
	if err := wire.Unmarshal(value, &r, MaxValue); err != nil {
		return r, fmt.Errorf("%w: root: %v", ErrObject, err)
	}
	if r.Ver != objectVersion || r.Size == 0 || r.Size > MaxObject || len(r.Sum) != sha256.Size ||
		len(r.Names) != sha256.Size*r.width() {
		return r, fmt.Errorf("%w: root of %d bytes", ErrObject, r.Size)
	}
	return r, nil
}

// leaves is the number of data chunks.
func (r root) leaves() int { return ceil(int(r.Size), MaxValue) }

// width is the number of names in the root.
func (r root) width() int {
	if n := r.leaves(); n > fanOut {
		return ceil(n, fanOut)
	} else {
		return n
	}
}

func ceil(a, b int) int { return (a + b - 1) / b }

// PutObject stores the chunks and then the root, so that a reader never sees a
// root whose chunks were not there. A part that too few nodes took is put again,
// three times in all, after waits that double. acks is the fewest acknowledgements
// any of them got. Putting the same chunks again renews them and takes no
// further room. It borrows obj.
func (o *Overlay) PutObject(ctx context.Context, obj Object) (acks int, err error) {
	if !obj.Root.Verify() {
		return 0, fmt.Errorf("%w: limits or signature", ErrInvalid)
	}
	chunking, leave, err := o.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	acks = math.MaxInt
	var mu sync.Mutex
	err = each(chunking, len(obj.chunks), func(ctx context.Context, i int) error {
		n, err := insist(ctx, func() (int, error) { return o.putChunk(ctx, obj.chunks[i], o.lifeOf(obj)) })
		mu.Lock()
		defer mu.Unlock()
		acks = min(acks, n)
		return err
	})
	if err != nil {
		// Others must not see the root yet; this node alone may, if it has the rest.
		o.keepObject(obj)
		return min(acks, bucketSize), fmt.Errorf("chunk: %w", err)
	}
	n, err := insist(ctx, func() (int, error) { return o.Put(ctx, obj.Root) })
	return min(acks, n), err
}

// lifeOf is how long obj is to be stored.
func (o *Overlay) lifeOf(obj Object) time.Duration {
	if obj.Life == 0 {
		return o.cfg.Expiry
	}
	return min(max(obj.Life, minLife), o.cfg.Expiry)
}

// insist puts again while too few nodes take it. The waits differ, so that parts
// refused together do not come back together.
func insist(ctx context.Context, put func() (int, error)) (acks int, err error) {
	wait := firstRetry
	for range putTries - 1 {
		if acks, err = put(); !errors.Is(err, ErrNoQuorum) || !sleep(ctx, jitter(wait)) {
			return acks, err
		}
		wait *= 2
	}
	return put()
}

// keepObject stores an object on this node.
func (o *Overlay) keepObject(obj Object) {
	now := o.cfg.Now()
	for _, c := range obj.chunks {
		if o.store.putChunk(now, c, own, o.lifeOf(obj)) != 0 {
			return
		}
	}
	o.store.putItem(now, obj.Root, own)
}

// GetObject returns the object under key and salt and its root, which has the
// sequence number. It is ErrObject if the root is not one or chunks are missing.
func (o *Overlay) GetObject(ctx context.Context, key ed25519.PublicKey, salt []byte) ([]byte, Item, error) {
	return o.GetObjectAfter(ctx, key, salt, -1)
}

// GetObjectAfter is GetObject for a reader that has the object with sequence number
// after. Of that one it returns the root and ErrUnchanged, and asks for no chunk;
// of an older one, or its withdrawal, nothing and ErrRollback. Copies of an older
// one do not end the search, so it takes one honest node that has the newer.
func (o *Overlay) GetObjectAfter(ctx context.Context, key ed25519.PublicKey, salt []byte, after int64) ([]byte, Item, error) {
	it, err := o.getItem(ctx, key, salt, after)
	switch {
	case it.Key != nil && it.Seq < after:
		return nil, Item{}, fmt.Errorf("%w: sequence number %d after %d", ErrRollback, it.Seq, after)
	case err != nil:
		return nil, it, err
	case it.Seq == after:
		return nil, it, ErrUnchanged
	}
	r, err := parseRoot(it.Value)
	if err != nil {
		return nil, it, err
	}
	ctx, leave, err := o.enter(ctx)
	if err != nil {
		return nil, it, err
	}
	defer leave()
	names := r.Names
	if n := r.leaves(); n > fanOut {
		if names, err = o.fetch(ctx, names, n*sha256.Size, fanOut*sha256.Size); err != nil {
			return nil, it, err
		}
	}
	data, err := o.fetch(ctx, names, int(r.Size), MaxValue)
	if err != nil {
		return nil, it, err
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], r.Sum) {
		return nil, it, fmt.Errorf("%w: wrong sum", ErrObject)
	}
	return data, it, nil
}

// fetch returns the size bytes that names name, in chunks of n bytes.
func (o *Overlay) fetch(ctx context.Context, names []byte, size, n int) ([]byte, error) {
	data := make([]byte, size) // parseRoot bounded it by MaxObject
	err := each(ctx, len(names)/sha256.Size, func(ctx context.Context, i int) error {
		name := [sha256.Size]byte(names[i*sha256.Size:])
		it, found, answered := o.collect(ctx, chunkTarget(name), o.chunkCollector(name))
		if !found {
			return fmt.Errorf("%w: chunk %d: %w", ErrObject, i, o.absence(ctx, answered))
		}
		if want := data[i*n : min((i+1)*n, size)]; copy(want, it.Value) != len(want) || len(it.Value) != len(want) {
			return fmt.Errorf("%w: chunk %d has %d bytes", ErrObject, i, len(it.Value))
		}
		return nil
	})
	return data, err
}

// each calls do for 0 to n-1, a few at a time, and returns the first error, after
// which it begins no more.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(n, objectWorkers) {
		workers.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}
