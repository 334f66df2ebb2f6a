//go:build linux

package main

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/control"
)

// joinersAtOnce are the peers that join at one time: this process does both
// sides of the arithmetic.
const joinersAtOnce = 16

// fleet is a service at size.
func fleet(b *bench, rec *recorder) error {
	w, err := b.newWorld(rec, b.supers)
	if err != nil {
		return err
	}
	defer w.close(rec)
	made, err := w.makePeers(b.peers)
	if err != nil {
		return err
	}
	empty := heap()
	if err := b.populate(w, rec, made); err != nil {
		return err
	}
	scouts, err := w.scouts(b.peers)
	if err != nil {
		return err
	}
	if err := w.converge(b, rec, len(scouts)); err != nil {
		return err
	}
	b.idleFleet(w, rec, "idle, no tunnel", empty)
	b.heapProfile("fleet")
	b.lookUp(w, rec, scouts)
	if b.settle > 0 {
		b.rosters(w, rec, len(scouts))
	}
	b.pings(w, rec)
	b.idleFleet(w, rec, "idle, with tunnels", empty)
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

// populate starts the peers and fills the directory.
func (b *bench) populate(w *world, rec *recorder, made []*peer) error {
	began, cpu := time.Now(), processCPU()
	took, err := w.startPeers(b.ctx, len(made), joinersAtOnce, made)
	if err != nil {
		return err
	}
	rec.add(float64(len(made)), "", "peers that run")
	rec.add(time.Since(began).Seconds(), "s", "  all have joined after")
	rec.times(took, "  a join, %d at once", joinersAtOnce)
	rec.add(1000*(processCPU()-cpu).Seconds()/float64(len(made)), "ms", "  processor time of a join, both ends and the fleet around it")
	if b.members == 0 {
		return nil
	}
	began, cpu = time.Now(), processCPU()
	if _, err := w.admit(b.members, 0, joinersAtOnce); err != nil {
		return err
	}
	rec.add(float64(b.members), "", "further members")
	rec.add(time.Since(began).Seconds(), "s", "  all are admitted after")
	rec.add(1000*(processCPU()-cpu).Seconds()/float64(b.members), "ms", "  processor time of an admission, both ends and the fleet around it")
	return nil
}

// scouts are two for each role that may reach others.
func (w *world) scouts(peers int) (all []*scout, err error) {
	for i, role := range []string{"web", "app", "web", "app"} {
		s, err := w.newScout(peers+i, role)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// settleTimeout is how long a fleet may take until everybody can be found.
const settleTimeout = 5 * time.Minute

// converge waits until every peer has published where it is and the roster of
// each of the sample is complete.
func (w *world) converge(b *bench, rec *recorder, others int) error {
	began := time.Now()
	up := func() bool { return !slices.ContainsFunc(w.peers, func(p *peer) bool { return !p.up() }) }
	err := w.await(settleTimeout, "every peer up", up)
	rec.add(time.Since(began).Seconds(), "s", "all contacts are published after a further")
	want := len(w.peers) + b.members + others - 1
	sample := some(w.peers, b.sample)
	known := func(p *peer) int { s, _ := p.Status(w.ctx); return s.PeersKnown }
	if err == nil && b.settle > 0 {
		// What is missing then, the rosters show.
		_ = w.await(b.settle, "rosters complete", func() bool {
			return !slices.ContainsFunc(sample, func(p *peer) bool { return known(p) < want })
		})
		rec.add(time.Since(began).Seconds(), "s", "all rosters are complete after a further")
		least := want
		for _, p := range sample {
			least = min(least, known(p))
		}
		rec.add(float64(least), "", "  machines that the least of them knows, of %d", want)
	}
	return err
}

// some returns n of all, evenly spread.
func some[T any](all []T, n int) (out []T) {
	n = min(n, len(all))
	for i := range n {
		out = append(out, all[i*len(all)/n])
	}
	return out
}

// idleFleet watches peers that are asked nothing.
func (b *bench) idleFleet(w *world, rec *recorder, name string, empty float64) {
	if b.idle == 0 {
		return
	}
	traffic := func() (bytes, datagrams float64) {
		for _, p := range w.peers {
			bytes += float64(p.host.bytes.Load())
			datagrams += float64(p.host.sent.Load() + p.host.received.Load())
		}
		return bytes, datagrams
	}
	bytes0, datagrams0 := traffic()
	var supers0, supers1 float64
	for _, s := range w.supers {
		supers0 += float64(s.host.bytes.Load())
	}
	cpu, began := processCPU(), time.Now()
	if b.pause(b.idle) != nil {
		return
	}
	bytes1, datagrams1 := traffic()
	for _, s := range w.supers {
		supers1 += float64(s.host.bytes.Load())
	}
	seconds, n := time.Since(began).Seconds(), float64(len(w.peers))
	rec.add((bytes1-bytes0)/seconds/n, "B/s", "%s: a peer sends and receives", name)
	rec.add((datagrams1-datagrams0)/seconds/n, "1/s", "%s:   datagrams", name)
	rec.add((supers1-supers0)/seconds/float64(len(w.supers)), "B/s", "%s: a super peer sends and receives", name)
	rec.add(100*(processCPU()-cpu).Seconds()/seconds/n, "%", "%s: of a core, each peer, super peers' share included", name)
	rec.add((heap()-empty)/n/(1<<20), "MiB", "%s: heap and stacks of each peer, super peers' share included", name)
	rec.add(float64(runtime.NumGoroutine())/n, "", "%s: goroutines of each peer, super peers' share included", name)
}

// heap is what is live, with stacks, in bytes.
func heap() float64 {
	runtime.GC()
	runtime.GC() // what pools held is gone with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// lookUp has the scouts look every peer's contact up.
func (b *bench) lookUp(w *world, rec *recorder, scouts []*scout) {
	f := findAll(b.ctx, scouts, w.peers, 8)
	rec.add(float64(f.asked), "", "contact records looked up")
	rec.times(f.took, "  a lookup, 8 at once")
	rec.add(f.queries, "", "  queries of a lookup")
	recordReasons(rec, "not found", f.why)
	rec.must(f.asked-f.found, 0, "contact records not found")
}

// rosters compares what peers know with what there is.
func (b *bench) rosters(w *world, rec *recorder, others int) {
	running := map[string]*peer{}
	for _, p := range w.peers {
		running[p.pid.String()] = p
	}
	var missing, wrong, entries atomic.Int64
	var g errgroup.Group
	g.SetLimit(4)
	for _, p := range some(w.peers, b.sample) {
		g.Go(func() error {
			list, err := p.Peers(w.ctx)
			if err != nil {
				return err
			}
			entries.Add(int64(len(list)))
			m, x := compare(p, list, running)
			missing.Add(int64(m + max(0, b.members+others-(len(list)-(len(running)-1-m)))))
			wrong.Add(int64(x))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		w.fail(err)
	}
	rec.add(float64(entries.Load()), "", "roster entries compared, of %d peers", min(b.sample, len(w.peers)))
	rec.must(int(missing.Load()), 0, "roster entries missing")
	rec.must(int(wrong.Load()), 0, "roster entries with a wrong address or verdict")
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
func (b *bench) pings(w *world, rec *recorder) {
	var mu sync.Mutex
	var took []float64
	asked, failed := 0, 0
	why := map[string]int{}
	var g errgroup.Group
	g.SetLimit(32)
	for _, p := range some(w.peers, b.sample) {
		for i, q := range w.reachable(p, b.probes) {
			target := q.name
			if i%2 == 1 {
				target = q.addr4.String()
			}
			g.Go(func() error {
				began := time.Now()
				text := pingText(w.ctx, p, target)
				mu.Lock()
				defer mu.Unlock()
				asked++
				if text != "" {
					failed++
					why[text]++
					return nil
				}
				took = append(took, float64(time.Since(began).Microseconds())/1000)
				return nil
			})
		}
	}
	_ = g.Wait()
	rec.add(float64(asked), "", "pings to machines without a tunnel")
	rec.times(took, "  lookup, key exchange and ping, 32 at once")
	recordReasons(rec, "no answer", why)
	rec.must(failed, 0, "pings without an answer")
}

// reachable returns k running peers that p may reach, at random.
func (w *world) reachable(p *peer, k int) (out []*peer) {
	for _, i := range rand.Perm(len(w.peers)) {
		if q := w.peers[i]; q != p && mayReach(p.role, q.role) && len(out) < k {
			out = append(out, q)
		}
	}
	return out
}
