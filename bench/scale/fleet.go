//go:build linux

package main

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/bench/internal/measure"
	"icvpn/internal/control"
)

// fleet is a service at size. Members come first: a peer that joins reads whom
// there is, once.
func fleet(b *bench, rec *recorder) error {
	w, err := b.newWorld(rec, b.supers)
	if err != nil {
		return err
	}
	defer w.close(rec)
	empty := heap()
	if err := b.fill(w, rec); err != nil {
		return err
	}
	scouts, err := b.inhabit(w, rec)
	if err != nil {
		return err
	}
	joined := time.Now()
	w.idle(b, rec, "after the last join", min(b.idle, settleWindow), empty)
	if err := w.converge(b, rec, len(scouts)); err != nil {
		return err
	}
	w.calm(b, rec, joined)
	w.idle(b, rec, "idle, no tunnel", b.idle, empty)
	b.heapProfile("fleet")
	if err := b.lookUp(rec, scouts, w.peers); err != nil {
		return err
	}
	if b.settle > 0 {
		if err := b.rosters(w, rec, len(scouts)); err != nil {
			return err
		}
	}
	if err := b.pings(w, rec); err != nil {
		return err
	}
	w.idle(b, rec, "idle, with tunnels", b.idle, empty)
	rec.must(w.book.twice(), 0, "addresses given twice")
	rec.add(w.lost(), "", "datagrams lost in full queues")
	return w.err()
}

// lost are datagrams that came faster than somebody read.
func (w *world) lost() (n float64) {
	for _, p := range w.peers {
		n += float64(p.host.lost.Load())
	}
	for _, s := range w.supers {
		n += float64(s.host.lost.Load())
	}
	return n
}

// fill admits the members that do not run.
func (b *bench) fill(w *world, rec *recorder) error {
	if b.members == 0 {
		return nil
	}
	cpu := processCPU()
	var why map[string]int
	took, err := b.stage(rec, "members admitted", per(admitLimit, admitEach, b.members), b.members, func(st *stage) {
		why = w.admit(st, b.members, b.joiners)
	})
	if err != nil {
		return err
	}
	rec.add(float64(b.members), "", "members that do not run")
	rec.add(took.Seconds(), "s", "  all are admitted after")
	rec.add(measure.Milliseconds(processCPU()-cpu)/float64(b.members), "ms", "  processor time of an admission, both ends")
	recordReasons(rec, "not admitted", why)
	return nil
}

// inhabit starts the peers, and scouts, and waits until the peers have published
// where they are. Machines that have not joined in time are not of the world.
func (b *bench) inhabit(w *world, rec *recorder) ([]*scout, error) {
	made, err := w.makePeers(b.peers)
	if err != nil {
		return nil, err
	}
	cpu := processCPU()
	var j joins
	took, err := b.stage(rec, "peers joined", per(joinLimit, joinEach, len(made)), len(made), func(st *stage) {
		j = w.startPeers(st, b.joiners, made)
	})
	if err != nil {
		return nil, err
	}
	if len(j.up) < 2 {
		return nil, errors.New("there are no two peers that joined")
	}
	rec.add(float64(len(j.up)), "", "peers that run")
	rec.add(took.Seconds(), "s", "  all have joined after")
	rec.times(j.took, "  a join, %d at once", b.joiners)
	rec.add(measure.Milliseconds(processCPU()-cpu)/float64(len(j.up)), "ms", "  processor time of a join, both ends and the fleet around it")
	recordReasons(rec, "not joined", j.why)
	up := func(p *peer) bool { return p.up() }
	took, err = b.stage(rec, "contacts published", per(upLimit, upEach, len(w.peers)), len(w.peers), func(st *stage) {
		st.until(func() int { return count(w.peers, up) })
	})
	rec.add(took.Seconds(), "s", "  all have published where they are after a further")
	if err != nil {
		return nil, err
	}
	return b.scouts(w, rec)
}

// scouts are two for each role that may reach others.
func (b *bench) scouts(w *world, rec *recorder) (all []*scout, err error) {
	of := []string{"web", "app", "web", "app"}
	var failed error
	_, err = b.stage(rec, "scouts ready", readyLimit, len(of), func(st *stage) {
		for i, role := range of {
			s, err := w.newScout(st, b.peers+i, role)
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			all = append(all, s)
			st.done.Add(1)
		}
	})
	if err == nil && len(all) == 0 {
		err = failed
	}
	return all, err
}

// pollEvery is how often it is looked whether something is so.
const pollEvery = 200 * time.Millisecond

// converge waits until the rosters of the sample are complete.
func (w *world) converge(b *bench, rec *recorder, others int) error {
	if b.settle == 0 {
		return nil
	}
	sample := some(w.peers, b.sample)
	want := len(w.peers) + b.members + others - 1
	known := func(p *peer) int {
		s, err := p.Status(w.ctx)
		if err != nil {
			return 0
		}
		return s.PeersKnown
	}
	took, err := b.stage(rec, "rosters complete", b.settle, len(sample), func(st *stage) {
		st.until(func() int { return count(sample, func(p *peer) bool { return known(p) >= want }) })
	})
	if err != nil {
		return err
	}
	rec.add(took.Seconds(), "s", "rosters of %d peers are complete after a further", len(sample))
	least := want
	for _, p := range sample {
		least = min(least, known(p))
	}
	rec.add(float64(least), "", "  machines that the least of them knows, of %d", want)
	return nil
}

// some returns n of all, evenly spread.
func some[T any](all []T, n int) (out []T) {
	n = min(n, len(all))
	for i := range n {
		out = append(out, all[i*len(all)/n])
	}
	return out
}

// lookUp has the scouts look every peer's contact up.
func (b *bench) lookUp(rec *recorder, scouts []*scout, peers []*peer) error {
	f, err := b.findAll(rec, "contacts looked up", scouts, peers)
	if err != nil {
		return err
	}
	f.record(rec)
	rec.must(f.asked-f.found, 0, "contact records not found")
	return nil
}

// rosters compares what peers know with what there is.
func (b *bench) rosters(w *world, rec *recorder, others int) error {
	running := map[string]*peer{}
	for _, p := range w.peers {
		running[p.pid.String()] = p
	}
	var missing, wrong, entries atomic.Int64
	sample := some(w.peers, b.sample)
	_, err := b.stage(rec, "rosters compared", rosterLimit, len(sample), func(st *stage) {
		for _, p := range sample {
			list, err := p.Peers(st)
			if err != nil {
				continue
			}
			entries.Add(int64(len(list)))
			m, x := compare(p, list, running)
			missing.Add(int64(m + max(0, b.members+others-(len(list)-(len(running)-1-m)))))
			wrong.Add(int64(x))
			st.done.Add(1)
		}
	})
	if err != nil {
		return err
	}
	rec.add(float64(entries.Load()), "", "roster entries compared, of %d peers", len(sample))
	rec.must(int(missing.Load()), 0, "roster entries missing")
	rec.must(int(wrong.Load()), 0, "roster entries with a wrong address or verdict")
	return nil
}

// compare counts the running peers that p does not know, and those of which it
// knows what is not so.
func compare(p *peer, list []control.Peer, running map[string]*peer) (missing, wrong int) {
	missing = len(running) - 1
	for _, e := range list {
		q := running[e.PID]
		if q == nil {
			continue
		}
		missing--
		if e.Address4 != q.addr4 || e.Name != q.name || e.Allowed != mayReach(p.role, q.role) {
			wrong++
		}
	}
	return missing, wrong
}

// pings has peers ping others that they may reach, by name and by address.
func (b *bench) pings(w *world, rec *recorder) error {
	type probe struct {
		from   *peer
		target string
	}
	var all []probe
	for _, p := range some(w.peers, b.sample) {
		for i, q := range w.reachable(p, b.probes) {
			target := q.name
			if i%2 == 1 {
				target = q.addr4.String()
			}
			all = append(all, probe{p, target})
		}
	}
	var mu sync.Mutex
	var took []float64
	why := map[string]int{}
	_, err := b.stage(rec, "pings", pingLimit, len(all), func(st *stage) {
		var g errgroup.Group
		g.SetLimit(pingsAtOnce)
		for _, a := range all {
			g.Go(func() error {
				if st.Err() != nil {
					return nil
				}
				began := time.Now()
				text := pingText(st, a.from, a.target)
				mu.Lock()
				defer mu.Unlock()
				st.done.Add(1)
				if text != "" {
					why[text]++
					return nil
				}
				took = append(took, measure.Milliseconds(time.Since(began)))
				return nil
			})
		}
		_ = g.Wait()
	})
	if err != nil {
		return err
	}
	rec.add(float64(len(all)), "", "pings to machines without a tunnel")
	rec.times(took, "  lookup, key exchange and ping, %d at once", pingsAtOnce)
	recordReasons(rec, "no answer", why)
	rec.must(len(all)-len(took), 0, "pings without an answer")
	return nil
}

// pingsAtOnce are as many as a machine would hardly begin.
const pingsAtOnce = 32

// reachable returns k running peers that p may reach, at random.
func (w *world) reachable(p *peer, k int) (out []*peer) {
	for _, i := range rand.Perm(len(w.peers)) {
		if q := w.peers[i]; q != p && mayReach(p.role, q.role) && len(out) < k {
			out = append(out, q)
		}
	}
	return out
}
