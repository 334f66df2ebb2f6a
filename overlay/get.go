package overlay

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/internal/id"
)

// Get returns the item with the highest sequence number that a node near its
// target, a replica or this node itself has. A withdrawn item is returned with
// an error that is ErrNotFound, for its sequence number.
func (o *Overlay) Get(ctx context.Context, key ed25519.PublicKey, salt []byte) (Item, error) {
	return o.getItem(ctx, key, salt, 0)
}

// getItem is Get; copies with a lower sequence number than least do not count as
// enough of them.
func (o *Overlay) getItem(ctx context.Context, key ed25519.PublicKey, salt []byte, least int64) (Item, error) {
	if len(key) != ed25519.PublicKeySize || len(salt) > MaxSalt {
		return Item{}, fmt.Errorf("%w: key or salt", ErrInvalid)
	}
	ctx, leave, err := o.enter(ctx)
	if err != nil {
		return Item{}, err
	}
	defer leave()
	c := o.itemCollector(key, salt)
	c.least = least
	it, found, answered := o.collect(ctx, Target(key, salt), c)
	if !found {
		return Item{}, o.absence(ctx, answered)
	}
	it.Key, it.Salt, it.Value = slices.Clone(it.Key), slices.Clone(salt), slices.Clone(it.Value)
	if it.Withdrawn() {
		return it, fmt.Errorf("%w: withdrawn", ErrNotFound)
	}
	return it, nil
}

// absence says why nothing was found.
func (o *Overlay) absence(ctx context.Context, answered int) error {
	switch {
	case o.life.Err() != nil:
		return ErrNotRunning
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
	case answered > 0 || o.alone():
		return ErrNotFound
	}
	return ErrUnreachable
}

// alone says whether there is nobody to ask: no contact and no bootstrap address
// but our own. Such a node is an overlay by itself.
func (o *Overlay) alone() bool {
	all, _ := o.contacts()
	return all == 0 && len(o.bootstrapAddrs()) == 0
}

// collector gathers the copies of an item that answers carry and keeps the
// newest. accept returns the item in an answer if its proof holds.
type collector struct {
	o      *Overlay
	accept func(*message) (Item, bool)
	settle time.Duration // how long to wait for others after enough copies
	need   int           // copies that are enough
	least  int64         // sequence number from which on they count
	enough chan struct{}

	mu     sync.Mutex
	best   Item
	found  bool
	copies int
	timer  *time.Timer
}

// itemCollector collects the item of key and salt.
func (o *Overlay) itemCollector(key, salt []byte) *collector {
	target := Item{Key: key, Salt: salt}
	return &collector{
		o: o, need: enoughCopies, settle: o.cfg.Resend, enough: make(chan struct{}),
		accept: func(m *message) (Item, bool) {
			it := m.item(salt)
			// BEP 44 has the reader compare the target; comparing key and salt also
			// leaves SHA-1 out of it.
			ok := m.all(hasKey) && target.Key.Equal(it.Key) && it.Verify()
			return it, ok
		},
	}
}

// chunkCollector collects the chunk of that name: one copy is enough.
func (o *Overlay) chunkCollector(name [sha256.Size]byte) *collector {
	return &collector{
		o: o, need: 1, enough: make(chan struct{}),
		accept: func(m *message) (Item, bool) {
			return Item{Value: m.value}, !m.any(hasKey) && chunk(m.value).name() == name
		},
	}
}

// offer takes an answer into account.
func (c *collector) offer(r reply) {
	if !r.msg.all(hasValue) {
		return
	}
	it, ok := c.accept(&r.msg)
	if !ok {
		c.o.stats.Contradicted.Add(1)
		return
	}
	c.add(it)
}

func (c *collector) add(it Item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.found || it.newer(c.best):
		c.best, c.found, c.copies = it, true, 1
	case it.equal(c.best):
		c.copies++
	}
	if c.copies < c.need || c.best.Seq < c.least {
		return
	}
	// Silent nodes are not waited for any longer; those that answer are.
	if c.timer == nil {
		c.timer = time.AfterFunc(c.settle, func() { close(c.enough) })
	} else if c.timer.Stop() {
		c.timer.Reset(c.settle)
	}
}

// result stops the collector's timer and returns the newest item.
func (c *collector) result() (Item, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	return c.best, c.found
}

// collect asks the nodes near target, one replica and the own store for what c
// accepts. answered is the number of nodes that answered.
func (o *Overlay) collect(ctx context.Context, target id.ID, c *collector) (it Item, found bool, answered int) {
	if it, ok := o.store.get(o.cfg.Now(), target); ok {
		m := message{has: hasValue, value: it.Value}
		if it.Key != nil {
			m.setItem(it)
		}
		c.offer(reply{msg: m})
	}
	var one sync.WaitGroup
	var replica atomic.Int32
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	if replicas := o.others(o.cfg.Replicas()); len(replicas) > 0 {
		to := replicas[rand.IntN(len(replicas))] //nolint:gosec // load balancing
		one.Go(func() { replica.Add(o.askCopy(asking, to, target, c)) })
	}
	_, answered = o.walk(ctx, walkSpec{q: get, target: target, answered: c.offer, enough: c.enough})
	select {
	case <-c.enough:
		cancel()
	default:
	}
	one.Wait()
	it, found = c.result()
	return it, found, answered + int(replica.Load())
}

// askCopy asks one node and returns how many answered.
func (o *Overlay) askCopy(ctx context.Context, to netip.AddrPort, target id.ID, c *collector) int32 {
	r, err := o.ask(ctx, to, &message{q: get, target: target}, queryTries)
	if err != nil {
		return 0
	}
	c.offer(r)
	return 1
}
