//go:build linux

package main

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/internal/control"
)

// Rates of a churn: every interval one machine leaves, vanishes or comes back.
const (
	churnEvery  = 500 * time.Millisecond
	lookupEvery = 100 * time.Millisecond
	// churnAway is the share of machines that may be away at one time.
	churnAway = 4
	// freshAfter is how long a machine is up before others have to find it.
	freshAfter = 3 * time.Second
	// backLimit is how long a machine may take to return.
	backLimit = time.Minute
	// absentLimit is how long the directories are watched for those that went.
	absentLimit = 30 * time.Second
)

// populace are peers that come and go. The loops of a churn share it.
type populace struct {
	*world
	mu    sync.Mutex
	up    map[*peer]time.Time // since when
	away  map[*peer]time.Time
	went  map[string]time.Time // PID, of those that left or vanished
	how   map[string]string
	tally map[string]int
	back  []float64 // milliseconds
}

// churn has peers come and go while scouts look the others up.
func churn(b *bench, rec *recorder) error {
	w, scouts, err := b.ready(rec)
	if err != nil {
		return err
	}
	defer w.close(rec)
	p := &populace{world: w, up: map[*peer]time.Time{}, away: map[*peer]time.Time{}, went: map[string]time.Time{}, how: map[string]string{}, tally: map[string]int{}}
	began := time.Now()
	for _, q := range w.peers[1:] { // the first one watches
		p.up[q] = began
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.churn)
	defer cancel()
	var g sync.WaitGroup
	g.Go(func() { p.moveLoop(ctx) })
	found := findings{why: map[string]int{}}
	g.Go(func() { p.lookLoop(ctx, scouts, &found) })
	b.say("coming and going for %v", b.churn)
	g.Wait()
	rec.add(b.churn.Seconds(), "s", "of coming and going")
	for _, what := range slices.Sorted(maps.Keys(p.tally)) {
		rec.add(float64(p.tally[what]), "", "  %s", what)
	}
	rec.add(float64(found.asked), "", "lookups of machines that were up")
	rec.add(found.share(), "%", "  found")
	rec.times(found.took, "  a lookup")
	recordReasons(rec, "not found", found.why)
	rec.times(p.back, "from the start of a returning machine until it has published where it is")
	p.absent(rec)
	f, err := p.settled(b, rec, scouts)
	if err != nil {
		return err
	}
	recordReasons(rec, "not found when all is quiet", f.why)
	rec.must(f.asked-f.found, 0, "machines not found when all is quiet")
	rec.must(w.book.twice(), 0, "addresses given twice")
	return w.err()
}

// ready is a world with peers that all have published where they are, and
// scouts.
func (b *bench) ready(rec *recorder) (*world, []*scout, error) {
	w, err := b.newWorld(rec, b.supers)
	if err != nil {
		return nil, nil, err
	}
	scouts, err := b.inhabit(w, rec)
	if err != nil {
		w.close(rec)
		return nil, nil, err
	}
	return w, scouts, nil
}

// moveLoop has machines leave, vanish and return.
func (p *populace) moveLoop(ctx context.Context) {
	var g sync.WaitGroup
	defer g.Wait()
	for n := 0; ; n++ {
		if measure.Sleep(ctx, churnEvery/2+rand.N(churnEvery)) != nil {
			return
		}
		q, leaves := p.pick()
		switch {
		case q == nil:
		case !leaves:
			g.Go(func() { p.comeBack(q) })
		case n%2 == 0:
			g.Go(func() { q.stop(); p.note("left", q) })
		default:
			g.Go(func() { q.vanish(); p.note("vanished", q) })
		}
	}
}

// pick takes a machine out of up or away, at random.
func (p *populace) pick() (q *peer, leaves bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from := p.away
	if len(p.away) == 0 || rand.IntN(2) == 0 && len(p.away) < (len(p.up)+len(p.away))/churnAway {
		from, leaves = p.up, true
	}
	for q = range from { // random enough: Go's order of a map is
		delete(from, q)
		return q, leaves
	}
	return nil, false
}

// note enters a machine that went.
func (p *populace) note(how string, q *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tally[how]++
	p.away[q] = time.Now()
	p.went[q.pid.String()], p.how[q.pid.String()] = time.Now(), how
}

// comeBack starts a machine again, with the identity that it had.
func (p *populace) comeBack(q *peer) {
	ctx, cancel := context.WithTimeout(p.ctx, backLimit)
	defer cancel()
	began := time.Now()
	err := q.plug()
	if err == nil {
		err = q.start(ctx)
	}
	if err == nil {
		err = q.awaitUp(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.tally["could not return: "+reason(err)]++
		return
	}
	p.tally["returned"]++
	delete(p.went, q.pid.String())
	p.up[q] = time.Now()
	p.back = append(p.back, measure.Milliseconds(time.Since(began)))
}

// lookLoop has scouts look machines up that have been up for a while.
func (p *populace) lookLoop(ctx context.Context, scouts []*scout, f *findings) {
	var g sync.WaitGroup
	defer g.Wait()
	for n := 0; ; n++ {
		if measure.Sleep(ctx, lookupEvery) != nil {
			return
		}
		s := scouts[n%len(scouts)]
		q := p.fresh(s.role)
		if q == nil {
			continue
		}
		g.Go(func() {
			began := time.Now()
			err := s.find(p.ctx, q)
			p.mu.Lock()
			defer p.mu.Unlock()
			if _, still := p.up[q]; !still {
				return // it went meanwhile
			}
			f.add(err, time.Since(began))
		})
	}
}

// fresh returns a machine that a role may reach and that has been up for long
// enough.
func (p *populace) fresh(role string) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	for q, since := range p.up {
		if mayReach(role, q.role) && time.Since(since) > freshAfter {
			return q
		}
	}
	return nil
}

// absent says how long those that went stay in a peer's roster.
func (p *populace) absent(rec *recorder) {
	watcher := p.peers[0]
	gone := map[string][]float64{}
	listed := func() (still map[string]bool, err error) {
		list, err := watcher.Peers(p.ctx)
		still = map[string]bool{}
		for _, e := range list {
			still[e.PID] = true
		}
		return still, err
	}
	for end := time.Now().Add(absentLimit); len(p.went) > 0 && time.Now().Before(end); {
		still, err := listed()
		if err != nil {
			p.fail(err)
			return
		}
		for pid, at := range p.went {
			if !still[pid] {
				gone[p.how[pid]] = append(gone[p.how[pid]], measure.Milliseconds(time.Since(at)))
				delete(p.went, pid)
			}
		}
		if measure.Sleep(p.ctx, 200*time.Millisecond) != nil {
			return
		}
	}
	for _, how := range []string{"left", "vanished"} {
		n := 0
		for pid := range p.went {
			if p.how[pid] == how {
				n++
			}
		}
		rec.add(float64(len(gone[how])), "", "machines that %s and were away at the end: gone from the roster", how)
		rec.add(float64(n), "", "  still listed after %v", absentLimit)
	}
}

// settled looks everybody up who is up when nothing moves any more.
func (p *populace) settled(b *bench, rec *recorder, scouts []*scout) (findings, error) {
	up := slices.Collect(maps.Keys(p.up))
	_ = b.pause(freshAfter)
	return b.findAll(rec, "contacts looked up when all is quiet", scouts, up)
}

// awaitUp waits until the peer has published where it is.
func (p *peer) awaitUp(ctx context.Context) error {
	for !p.up() {
		if err := measure.Sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// pingText is why a machine did not answer, "" if it did.
func pingText(ctx context.Context, p *peer, target string) (why string) {
	err := p.Ping(ctx, target, 1, func(r control.PingReply) error { why = r.Error; return nil })
	if err != nil && !errors.Is(err, context.Canceled) {
		return err.Error()
	}
	return why
}
