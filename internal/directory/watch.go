package directory

import (
	"context"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// We chose:
const (
	// PollEvery is the longest time between two looks at a root, and half of it the
	// shortest: a reader that nobody wakes knows of a newcomer by then.
	PollEvery = time.Minute
	// pollRetry is the first wait after a reading that failed, doubling to PollEvery.
	pollRetry = 2 * time.Second
	// pollTimeout bounds one reading of one directory.
	pollTimeout = time.Minute

	// shardBurst shards of a directory are fetched as they change, then one in
	// shardEvery over all directories: some 13 kB of datagrams each. Who lacks more gets
	// them from a super peer at once, for half of that (bulk.go).
	shardBurst = 16
	// wholeWithin is how long there is no budget while a directory was not read from end
	// to end: a root can name what nobody has.
	wholeWithin = 10 * time.Minute
	shardEvery  = 30 * time.Second
)

// Watch is what a Watcher works with.
type Watch struct {
	// Followers returns whom to read. It is asked before every reading and when the
	// Watcher is woken.
	Followers func() []*Follower
	// Every is the longest time between two looks. Default: PollEvery.
	Every time.Duration
	// Unbounded is for readers that need everything at once: there is no budget.
	Unbounded bool
	// Read is called after each reading, from several goroutines.
	Read func(f *Follower, changed bool, err error)
}

// Watcher reads directories again and again, each at its own pace: one that cannot
// be read holds up no other, and takes nothing from another's budget.
//
//	due ──> Poll ──> Fetch what has changed ──> due in Every, half to whole
//	          │        └ over the budget ──────> the rest then
//	          └ failed ────────────────────────> due in 2 s, doubling to Every
type Watcher struct {
	cfg   Watch
	wake  chan struct{}
	ended chan *watched

	// owned by Run
	all map[*Follower]*watched
}

// watched is one directory of a Watcher. While busy its reader owns the rest of it.
type watched struct {
	follower *Follower
	busy     bool
	due      time.Time
	fails    int
	budget   *rate.Limiter // for what changes, once the whole was read
}

// NewWatcher returns a watcher that has read nothing.
func NewWatcher(cfg Watch) *Watcher {
	if cfg.Every == 0 {
		cfg.Every = PollEvery
	}
	return &Watcher{cfg: cfg, wake: make(chan struct{}, 1), ended: make(chan *watched), all: map[*Follower]*watched{}}
}

// Wake says that there may be others to read.
func (w *Watcher) Wake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run reads until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	var reading sync.WaitGroup
	defer reading.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.wake:
		case at := <-w.ended:
			at.busy = false
		}
		now := time.Now()
		w.gather(now)
		next := now.Add(w.cfg.Every)
		for _, at := range w.all {
			if at.busy {
				continue
			}
			if !now.Before(at.due) {
				at.busy = true
				reading.Go(func() { w.readOnce(ctx, at) })
				continue
			}
			if at.due.Before(next) {
				next = at.due
			}
		}
		timer.Reset(next.Sub(now))
	}
}

// gather takes in whom to read, and forgets the others. They share the budget.
func (w *Watcher) gather(now time.Time) {
	all := w.cfg.Followers()
	for f := range w.all {
		if !slices.Contains(all, f) {
			delete(w.all, f)
		}
	}
	for _, f := range all {
		if w.all[f] == nil {
			w.all[f] = &watched{follower: f, due: now, budget: rate.NewLimiter(0, shardBurst)}
		}
		if b, want := w.all[f].budget, rate.Every(shardEvery*time.Duration(len(all))); b.Limit() != want {
			b.SetLimitAt(now, want)
		}
	}
}

// readOnce reads a directory and says when to read it again.
func (w *Watcher) readOnce(ctx context.Context, at *watched) {
	changed, err := w.read(ctx, at)
	if ctx.Err() == nil {
		w.cfg.Read(at.follower, changed, err)
	}
	wait := w.cfg.Every
	if at.fails++; err == nil {
		at.fails = 0
	} else if at.fails < 16 {
		wait = min(wait, pollRetry<<(at.fails-1))
	}
	at.due = time.Now().Add(wait/2 + mrand.N(wait/2)) //nolint:gosec // so that not all come at once
	select {
	case w.ended <- at:
	case <-ctx.Done():
	}
}

// read asks for a newer root, and fetches what has changed: all of it until the whole
// was read once, then within the budget. What fails is charged, too.
func (w *Watcher) read(ctx context.Context, at *watched) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	f := at.follower
	changed, err = f.Poll(ctx, true)
	if err != nil {
		return false, err
	}
	most := f.Pending()
	if (f.Whole() || time.Since(f.Since()) > wholeWithin) && !w.cfg.Unbounded {
		now := time.Now()
		most = max(0, min(most, int(at.budget.TokensAt(now))))
		at.budget.AllowN(now, most)
	}
	if most == 0 {
		return changed, nil
	}
	n, err := f.Fetch(ctx, false, most)
	return changed || n > 0, err
}
