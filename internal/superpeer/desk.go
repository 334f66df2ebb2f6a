package superpeer

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/admission"
)

// desks divide what the services of one host share, connections, rate and
// workers, so that a flood of one service's machines does not keep out those of
// another. A service alone has all of it: its desk says yes to everything, and
// the door and the workers alone decide.
type desks struct {
	workers, renewals *workers

	mu  sync.Mutex
	all []*desk
}

// desk is one service's part.
type desk struct {
	of *desks
	// newcomers and renewals are its parts of the workers of each kind.
	newcomers, renewals share

	// guarded by of.mu
	taken               int // connections under way
	strangers, regulars *admission.Limiter
}

func (d *desks) add() *desk {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := &desk{
		of:        d,
		strangers: admission.NewLimiter(admission.LimiterConfig{Rate: math.MaxFloat32, Burst: math.MaxFloat32}),
		regulars:  admission.NewLimiter(admission.LimiterConfig{Rate: math.MaxFloat32, Burst: math.MaxFloat32, TotalRate: regularRate}),
	}
	k.newcomers.init(d, d.workers)
	k.renewals.init(d, d.renewals)
	d.all = append(d.all, k)
	return k
}

// enter takes a place at this desk, to be given back with leave. Each other
// service keeps the places it has taken, or its part of a half of all if that is
// more; the other half is for whoever comes.
func (k *desk) enter(now time.Time, from admission.Source) bool {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	if n := len(k.of.all); n > 1 {
		need, reserved := k.taken+1, maxConnections/(2*n)
		for _, other := range k.of.all {
			if other != k {
				need += max(other.taken, reserved)
			}
		}
		most, limiter := maxConnections, k.strangers
		if from.Known {
			most, limiter = most+keptForKnown, k.regulars
		}
		if need > most || !limiter.Allow(now, from.Addr) {
			return false
		}
	}
	k.taken++
	return true
}

func (k *desk) leave() {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	k.taken--
}

// running is the number of this service's connections under way, once they have
// said whose they are.
func (k *desk) running() int {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	return k.taken
}

// share is one service's part of some workers.
type share struct {
	of      *desks
	workers *workers
	// most of the workers; another service always finds one that is free of this
	// service's steps.
	slots   chan struct{}
	waiting atomic.Int64 // steps of this service
}

func (k *share) init(of *desks, w *workers) {
	n := cap(w.all)
	k.of, k.workers, k.slots = of, w, make(chan struct{}, n-n/4)
}

// alone says whether there is nobody to share with.
func (k *share) alone() bool {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	return len(k.of.all) == 1
}

// crowded is workers.crowded of this service's steps.
func (k *share) crowded(known bool) bool {
	if k.alone() {
		return k.workers.crowded(known)
	}
	if known {
		return k.waiting.Load() >= 2*maxQueue
	}
	return k.waiting.Load() >= maxQueue
}

// do is workers.do within this service's share.
func (k *share) do(ctx context.Context, stranger bool, f func()) bool {
	if k.alone() {
		return k.workers.do(ctx, stranger, f)
	}
	k.waiting.Add(1)
	got := acquire(ctx, k.slots)
	k.waiting.Add(-1)
	if !got {
		return false
	}
	defer func() { <-k.slots }()
	return k.workers.do(ctx, stranger, f)
}
