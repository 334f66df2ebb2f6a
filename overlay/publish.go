package overlay

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"icvpn/internal/id"
)

// publication is an object, or an item as an object without chunks, that is put
// again and again.
type publication struct {
	obj   Object
	due   time.Time
	retry time.Duration
	busy  bool
}

// publications is what this node keeps in the overlay, by target.
type publications struct {
	mu     sync.Mutex
	byID   map[id.ID]*publication
	wakeUp chan struct{} // something new may be due
}

func newPublications() *publications {
	return &publications{
		byID:   make(map[id.ID]*publication),
		wakeUp: make(chan struct{}, publishWorkers),
	}
}

// Publish puts the item now and then again at half of Expiry, an object at half of
// its Life, until Withdraw or Unpublish, retrying from 1 s up to every 30 s while there is no quorum. An item
// with a higher sequence number takes the place of the one before. It may be
// called before Run.
func (o *Overlay) Publish(it Item) error { return o.PublishObject(Object{Root: it}) }

// PublishObject keeps an object in the overlay as Publish does an item.
func (o *Overlay) PublishObject(obj Object) error {
	if !obj.Root.Verify() {
		return fmt.Errorf("%w: limits or signature", ErrInvalid)
	}
	target := Target(obj.Root.Key, obj.Root.Salt)
	p := o.pubs
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.byID[target]; old != nil && old.obj.Root.newer(obj.Root) {
		return &SupersededError{old.obj.Root.Seq}
	}
	p.byID[target] = &publication{obj: obj, due: o.cfg.Now(), retry: firstRetry}
	p.wake()
	return nil
}

// Unpublish ends the publication of the item under key and salt and says whether
// there was one. What is stored expires.
func (o *Overlay) Unpublish(key ed25519.PublicKey, salt []byte) bool {
	p := o.pubs
	p.mu.Lock()
	defer p.mu.Unlock()
	target := Target(key, salt)
	_, ok := p.byID[target]
	delete(p.byID, target)
	return ok
}

// Withdraw ends the publication of the withdrawal's key and salt and puts the
// withdrawal, a signed item with a higher sequence number and an empty value, in
// its place: readers then get ErrNotFound.
func (o *Overlay) Withdraw(ctx context.Context, withdrawal Item) (acks int, err error) {
	if !withdrawal.Withdrawn() {
		return 0, fmt.Errorf("%w: a withdrawal has an empty value", ErrInvalid)
	}
	o.Unpublish(withdrawal.Key, withdrawal.Salt)
	return o.Put(ctx, withdrawal)
}

// wake wakes a worker. Called with mu held.
func (p *publications) wake() {
	select {
	case p.wakeUp <- struct{}{}:
	default:
	}
}

// next returns a publication that is due, or how long until one will be; a
// negative wait is for ever.
func (p *publications) next(now time.Time) (due *publication, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait = -1
	for _, pub := range p.byID {
		switch d := pub.due.Sub(now); {
		case pub.busy:
		case d <= 0:
			pub.busy = true
			p.wake() // there may be more
			return pub, 0
		case wait < 0 || d < wait:
			wait = d
		}
	}
	return nil, wait
}

// publishLoop puts what is due.
func (o *Overlay) publishLoop(ctx context.Context) {
	for ctx.Err() == nil {
		pub, wait := o.pubs.next(o.cfg.Now())
		if pub == nil {
			o.pubs.idle(ctx, wait)
			continue
		}
		_, err := o.PutObject(ctx, pub.obj)
		o.onPublished(pub, err)
	}
}

func (p *publications) idle(ctx context.Context, wait time.Duration) {
	var timer <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-p.wakeUp:
	case <-ctx.Done():
	}
}

// onPublished is called after a publication was put; it decides when next.
func (o *Overlay) onPublished(pub *publication, err error) {
	p := o.pubs
	now := o.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	pub.busy = false
	life := o.lifeOf(pub.obj)
	target := Target(pub.obj.Root.Key, pub.obj.Root.Salt)
	switch {
	case p.byID[target] != pub:
		// Replaced or withdrawn meanwhile.
	case err == nil:
		o.stats.Published.Add(1)
		pub.due = now.Add(life/2 - time.Duration(float64(life)*0.1*unit()))
		pub.retry = firstRetry
	case errors.Is(err, ErrSuperseded):
		o.log.Warn("overlay publication superseded", "reason", "another writer", "err", err)
		delete(p.byID, target)
	default:
		o.stats.Unpublished.Add(1)
		pub.due = now.Add(jitter(pub.retry))
		pub.retry = min(2*pub.retry, lastRetry, life/4)
	}
	// The others sleep until what was next before.
	p.wake()
}
