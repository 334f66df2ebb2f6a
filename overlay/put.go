package overlay

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"icvpn/internal/id"
)

// SupersededError says that a newer item is stored: a writer goes on from Seq.
type SupersededError struct {
	Seq int64 // of the stored item
}

func (e *SupersededError) Error() string {
	return fmt.Sprintf("%v: sequence number %d", ErrSuperseded, e.Seq)
}

// Is makes a SupersededError an ErrSuperseded.
func (e *SupersededError) Is(target error) bool { return target == ErrSuperseded }

// Put stores the item here, on the nodes nearest to its target and on the
// replicas, and returns how many nodes acknowledged it, this one included. Fewer
// than the quorum is ErrNoQuorum, none but ourselves ErrUnreachable, except that
// a node alone is a quorum. It borrows it.
func (o *Overlay) Put(ctx context.Context, it Item) (acks int, err error) {
	if !it.Verify() {
		return 0, fmt.Errorf("%w: limits or signature", ErrInvalid)
	}
	ctx, leave, err := o.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	target := Target(it.Key, it.Salt)
	switch code := o.store.putItem(o.cfg.Now(), it, own); code {
	case 0:
		acks = 1
	case codeSequence:
		if stored, ok := o.store.get(o.cfg.Now(), target); ok {
			return 0, &SupersededError{stored.Seq}
		}
	}
	c := o.itemCollector(it.Key, it.Salt)
	c.need = maxWalk // every copy counts: the walk is for the nodes, not the item
	holders := o.holders(ctx, target, c)
	if newest, found := c.result(); found && newest.Seq >= it.Seq && !newest.equal(it) {
		o.store.putItem(o.cfg.Now(), newest, own)
		return 0, &SupersededError{newest.Seq}
	}
	m := message{q: put, salt: it.Salt}
	m.setItem(it)
	return o.count(ctx, acks, holders, o.putAll(ctx, holders, m))
}

// putChunk stores a chunk as Put does an item.
func (o *Overlay) putChunk(ctx context.Context, c chunk, life time.Duration) (acks int, err error) {
	if o.store.putChunk(o.cfg.Now(), c, own, life) == 0 {
		acks = 1
	}
	col := o.chunkCollector(c.name())
	col.need = maxWalk
	holders := o.holders(ctx, chunkTarget(c.name()), col)
	m := message{q: put, has: hasValue | hasLife, value: c, life: int64(life / time.Second)}
	return o.count(ctx, acks, holders, o.putAll(ctx, holders, m))
}

// count adds up the acknowledgements and holds them against the quorum.
func (o *Overlay) count(ctx context.Context, own int, holders []holder, remote int) (acks int, err error) {
	acks = own + remote
	quorum := min(o.cfg.Quorum, len(holders)+1)
	switch {
	case acks > 0 && o.alone():
	case o.life.Err() != nil:
		err = ErrNotRunning
	case ctx.Err() != nil && (acks < quorum || remote == 0):
		err = fmt.Errorf("%w: %w", ErrNoQuorum, ctx.Err())
	case len(holders) == 0:
		err = ErrUnreachable
	case acks < quorum:
		err = fmt.Errorf("%w: %d of %d", ErrNoQuorum, acks, quorum)
	}
	return acks, err
}

// holders finds the nodes to store something on: the nearest to target and all
// replicas, each with a token.
func (o *Overlay) holders(ctx context.Context, target id.ID, c *collector) []holder {
	var (
		mu       sync.Mutex
		replicas []holder
		asked    sync.WaitGroup
	)
	for _, a := range first(o.others(o.cfg.Replicas()), maxReplicas) {
		asked.Go(func() {
			r, err := o.ask(ctx, a, &message{q: get, target: target}, queryTries)
			if err != nil || r.token == "" {
				return
			}
			c.offer(r)
			mu.Lock()
			defer mu.Unlock()
			replicas = append(replicas, holder{r.from, r.token})
		})
	}
	nearest, _ := o.walk(ctx, walkSpec{q: get, target: target, answered: c.offer})
	asked.Wait()
	for _, r := range replicas {
		if !slices.ContainsFunc(nearest, func(h holder) bool { return h.ID == r.ID }) {
			nearest = append(nearest, r)
		}
	}
	return nearest
}

// putAll sends m to every holder at once and returns how many acknowledged it,
// each node ID counting once.
func (o *Overlay) putAll(ctx context.Context, holders []holder, m message) int {
	var (
		mu   sync.Mutex
		acks = make(map[id.ID]bool)
		sent sync.WaitGroup
	)
	for _, h := range holders {
		sent.Go(func() {
			if o.putOne(ctx, h.Addr, h.token, m) {
				mu.Lock()
				defer mu.Unlock()
				acks[h.ID] = true
			}
		})
	}
	sent.Wait()
	return len(acks)
}

func (o *Overlay) putOne(ctx context.Context, to netip.AddrPort, token string, m message) bool {
	m.token, m.has = []byte(token), m.has|hasToken
	_, err := o.ask(ctx, to, &m, storeTries)
	return err == nil
}
