//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// How long stages may take on a machine that does other things, too: some five
// times what they take on one that does not. A stage takes no more than half of
// what is left of the run either, so that the later ones have something.
const (
	readyLimit  = time.Minute            // super peers, scouts
	joinLimit   = time.Minute            // and for each peer
	joinEach    = 300 * time.Millisecond //
	admitLimit  = 30 * time.Second       // and for each member
	admitEach   = 50 * time.Millisecond  //
	upLimit     = time.Minute            // contacts are published; and for each peer
	upEach      = 200 * time.Millisecond //
	lookupLimit = 30 * time.Second       // and for each lookup
	lookupEach  = 200 * time.Millisecond //
	rosterLimit = 30 * time.Second       // rosters are compared
	pingLimit   = time.Minute
)

// sayEvery is how often a stage says how far it is.
const sayEvery = 5 * time.Second

// per is the limit of a stage that does n things.
func per(base, each time.Duration, n int) time.Duration { return base + time.Duration(n)*each }

// stage is a part of a scenario that ends at its limit at the latest. What is
// not done then is counted as a failed check, and the scenario goes on with what
// there is.
type stage struct {
	context.Context
	total int
	done  atomic.Int64
}

// errStuck says that something did not end with its context.
var errStuck = errors.New("did not end when it was told to")

// stage runs f, which has total things to do, counts those that are done and
// ends with its context. It returns how long that took. What is left undone is a
// failed check; an f that does not end is left behind and is the scenario's
// error: its figures are nobody's any more.
func (b *bench) stage(rec *recorder, name string, limit time.Duration, total int, f func(*stage)) (took time.Duration, err error) {
	if end, ok := b.ctx.Deadline(); ok {
		limit = min(limit, max(0, time.Until(end)/2))
	}
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	s := &stage{Context: ctx, total: total}
	began, ended := time.Now(), make(chan struct{})
	go func() {
		defer close(ended)
		f(s)
	}()
	say := time.NewTicker(sayEvery)
	defer say.Stop()
	stuck := time.NewTimer(limit + endTimeout)
	defer stuck.Stop()
	over := b.ctx.Done()
	for {
		select {
		case <-ended:
			took = time.Since(began)
			b.say("%s: %d of %d in %.1f s", name, s.done.Load(), total, took.Seconds())
			rec.must(max(0, total-int(s.done.Load())), 0, "not done in time: %s", name)
			return took, nil
		case <-say.C:
			b.say("%s: %d of %d", name, s.done.Load(), total)
		case <-over:
			over = nil
			stuck.Reset(endTimeout)
		case <-stuck.C:
			return time.Since(began), fmt.Errorf("%s: %w", name, errStuck)
		}
	}
}

// reach sets what is done, for stages that look at it again and again.
func (s *stage) reach(n int) { s.done.Store(int64(n)) }

// until asks again and again how much is done, until it is all or the stage
// ends.
func (s *stage) until(done func() int) {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		s.reach(done())
		if int(s.done.Load()) >= s.total {
			return
		}
		select {
		case <-s.Done():
			return
		case <-t.C:
		}
	}
}

// say writes a line of progress.
func (b *bench) say(format string, args ...any) {
	since := time.Since(b.began).Round(time.Second)
	fmt.Fprintf(b.progress, "%8v  %s: %s\n", since, b.scenario, fmt.Sprintf(format, args...))
}
