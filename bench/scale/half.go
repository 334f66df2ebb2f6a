//go:build linux

package main

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/bench/internal/measure"
)

// half kills a share of all peers at once.
func half(b *bench, rec *recorder) error {
	var failed error
	for _, percent := range b.dead {
		failed = errors.Join(failed, b.halve(rec, percent))
	}
	return failed
}

// halve has percent of the peers vanish, and scouts look the others up: at once,
// and those that were not found again until everybody has published once more.
func (b *bench) halve(rec *recorder, percent int) error {
	w, scouts, err := b.ready(rec)
	if err != nil {
		return err
	}
	defer w.close(rec)
	dead := len(w.peers) * percent / 100
	var live []*peer
	var ending sync.WaitGroup
	for n, i := range rand.Perm(len(w.peers)) {
		q := w.peers[i]
		if n < dead {
			q.conn.Close() // all of them before any can say so
			ending.Go(q.vanish)
			continue
		}
		live = append(live, q)
	}
	began := time.Now()
	f, err := b.findAll(rec, "contacts looked up at once", scouts, live)
	if err != nil {
		return err
	}
	rec.add(float64(dead), "", "peers killed at once, %d %%", percent)
	f.record(rec)
	ending.Wait()
	if f.found == f.asked || b.wait == 0 {
		return w.err()
	}
	return errors.Join(b.lookAgain(rec, f.missed, began), w.err())
}

// lookAgain looks up again and again whom nobody found, until all are found or
// everybody has published once more.
func (b *bench) lookAgain(rec *recorder, missed []pair, began time.Time) error {
	var last time.Time
	_, err := b.stage(rec, "contacts found after all", b.wait-time.Since(began), len(missed), func(st *stage) {
		for len(missed) > 0 && st.Err() == nil {
			missed = stillMissed(st, missed)
			if n := st.total - len(missed); n > int(st.done.Load()) {
				st.reach(n)
				last = time.Now()
			}
			_ = measure.Sleep(st, lookAgainEvery)
		}
	})
	rec.add(float64(len(missed)), "", "  contacts not found within %v", b.wait)
	if !last.IsZero() {
		rec.add(last.Sub(began).Seconds(), "s", "  the last of the others found after")
	}
	return err
}

const lookAgainEvery = 5 * time.Second

// stillMissed looks contacts up and returns those that are not found.
func stillMissed(st *stage, all []pair) (missed []pair) {
	var g errgroup.Group
	g.SetLimit(lookupsAtOnce)
	var mu sync.Mutex
	for _, a := range all {
		g.Go(func() error {
			if a.scout.find(st, a.peer) != nil {
				mu.Lock()
				defer mu.Unlock()
				missed = append(missed, a)
			}
			return nil
		})
	}
	_ = g.Wait()
	return missed
}
