package overlay

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"icvpn/internal/id"
)

// upkeepLoop keeps the table true: it bootstraps, asks contacts that were not
// heard for a while, and sweeps what has expired.
func (o *Overlay) upkeepLoop(ctx context.Context) {
	b := bootstrapper{o: o, retry: firstRetry}
	for {
		b.step(ctx)
		now := o.cfg.Now()
		o.revalidate(now)
		o.sweep(now)
		if !sleep(ctx, min(b.wait(), jitter(o.cfg.Revalidate/4))) {
			return
		}
	}
}

// bootstrapper decides when to walk to our own ID.
type bootstrapper struct {
	o     *Overlay
	last  time.Time     // of the last bootstrap
	retry time.Duration // after it, if it found nobody
}

// wait returns how long until the next bootstrap is due.
//
//	no contact that answers     the retry interval, doubling from 1 s to 30 s
//	few contacts, or nothing    a fifth of Refresh
//	  heard for twice Revalidate
//	else                        Refresh, so that islands join again
func (b *bootstrapper) wait() time.Duration {
	o := b.o
	now := o.cfg.Now()
	_, answering := o.contacts()
	o.mu.Lock()
	quiet := now.Sub(o.lastHeard) > 2*o.cfg.Revalidate
	o.mu.Unlock()
	every := o.cfg.Refresh
	switch {
	case answering == 0:
		every = b.retry
	case answering < bucketSize || quiet:
		every = o.cfg.Refresh / 5
	}
	return b.last.Add(every).Sub(now)
}

func (b *bootstrapper) step(ctx context.Context) {
	if !b.last.IsZero() && b.wait() > 0 {
		return
	}
	alone := len(b.o.Nodes()) == 0
	b.o.bootstrap(ctx)
	b.last = b.o.cfg.Now()
	if _, answering := b.o.contacts(); answering == 0 {
		b.retry = min(2*b.retry, lastRetry)
		return
	}
	b.retry = firstRetry
	if alone {
		all, _ := b.o.contacts()
		b.o.log.Info("overlay reached", "peers", all)
	}
}

// bootstrap asks every bootstrap address, and walks from them and the table to
// our own ID and to a random one. The addresses are asked each time, and not only
// when the table is empty: it is what joins an island to the rest again.
func (o *Overlay) bootstrap(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, walkTimeout)
	defer cancel()
	o.stats.Bootstraps.Add(1)
	var asked sync.WaitGroup
	for _, a := range first(o.bootstrapAddrs(), maxReplicas) {
		asked.Go(func() { o.ask(ctx, a, &message{q: ping}, queryTries) }) //nolint:errcheck // meet notes who answers
	}
	asked.Wait()
	o.walk(ctx, walkSpec{q: findNode, target: o.cfg.Self})
	if all, _ := o.contacts(); all > bucketSize {
		o.walk(ctx, walkSpec{q: findNode, target: randomID()})
	}
}

// revalidate asks the contacts that were not heard for longest.
func (o *Overlay) revalidate(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range o.table.stale(now.Add(-o.cfg.Revalidate), bucketSize) {
		o.verifyLocked(n.Addr)
	}
}

func (o *Overlay) sweep(now time.Time) {
	o.store.sweep(now)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers.sweep(now)
	o.queries.sweep(now)
}

// AddNode asks for addr to be pinged soon, and to be a contact if it answers.
func (o *Overlay) AddNode(addr netip.AddrPort) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.verifyLocked(unmap(addr))
}

// verifyLocked queues a ping to addr. If the queue is full, the occasion will
// come again.
func (o *Overlay) verifyLocked(addr netip.AddrPort) {
	if !dialable(addr) || o.verifying[addr] || o.ourselves[addr] {
		return
	}
	select {
	case o.verifyIn <- addr:
		o.verifying[addr] = true
	default:
	}
}

func (o *Overlay) verifyLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case addr := <-o.verifyIn:
			o.ask(ctx, addr, &message{q: ping}, queryTries) //nolint:errcheck // meet and onSilence note the outcome
			o.mu.Lock()
			delete(o.verifying, addr)
			o.mu.Unlock()
		}
	}
}

// Ping asks the node at addr for its ID.
func (o *Overlay) Ping(ctx context.Context, addr netip.AddrPort) (id.ID, error) {
	ctx, leave, err := o.enter(ctx)
	if err != nil {
		return id.ID{}, err
	}
	defer leave()
	r, err := o.ask(ctx, unmap(addr), &message{q: ping}, queryTries)
	return r.from.ID, err
}

// sleep waits for d and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter returns 75 to 125 % of d, so that nodes do not fall into step.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + unit()/2))
}

// unit returns a number from 0 to 1, not a secret.
func unit() float64 { return rand.Float64() } //nolint:gosec // jitter is no secret

func randomID() (n id.ID) {
	for i := range n {
		n[i] = byte(rand.Uint32()) //nolint:gosec // a place to look at, not a secret
	}
	return n
}

func first[T any](s []T, n int) []T { return s[:min(n, len(s))] }
