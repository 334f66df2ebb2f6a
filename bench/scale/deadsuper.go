//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/internal/id"
)

// What happens around the death of a super peer.
const (
	deadBefore   = 5 * time.Second  // of admissions and traffic
	deadFor      = 20 * time.Second // until it is started again
	deadAfter    = 10 * time.Second // and what follows
	trafficEvery = 50 * time.Millisecond
	comeEvery    = 100 * time.Millisecond
	partedFor    = 15 * time.Second
	// lastAnswers is how long the last packets may take.
	lastAnswers = 3 * time.Second
	flowsMost   = 20
)

// deadSuper kills a super peer in the middle of everything, starts it again,
// and then parts the super peers for a while.
func deadSuper(b *bench, rec *recorder) error {
	if b.supers < 2 {
		b.supers = 2
	}
	w, scouts, err := b.ready(rec)
	if err != nil {
		return err
	}
	defer w.close(rec)
	s := &siege{world: w, scouts: scouts, flows: w.openFlows(rec)}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	var g sync.WaitGroup
	for _, f := range s.flows {
		g.Go(func() { f.sendLoop(ctx) })
	}
	g.Go(func() { s.comeLoop(ctx) })
	g.Go(func() { s.lookLoop(ctx) })
	s.killOne(b, rec)
	s.partition(b, rec)
	cancel()
	b.say("the last newcomers")
	g.Wait()
	_ = b.pause(lastAnswers)
	return errors.Join(s.verdict(b, rec), w.err())
}

// siege is what goes on while super peers die.
type siege struct {
	*world
	scouts []*scout
	flows  []*flow

	next  atomic.Int64 // newcomer
	mu    sync.Mutex
	came  []arrival
	looks []look
	all   []*newcomer
}

// arrival is one newcomer's admission.
type arrival struct {
	at, done time.Time
	super    int // that it asked first
	tries    int
	err      error
}

// look is one lookup.
type look struct {
	at  time.Time
	err error
}

// comeLoop has newcomers come, each to the super peers in turn.
func (s *siege) comeLoop(ctx context.Context) {
	var g sync.WaitGroup
	defer g.Wait()
	for measure.Sleep(ctx, comeEvery) == nil {
		g.Go(func() { s.come() })
	}
}

func (s *siege) come() {
	i := int(s.next.Add(1))
	n := s.gates[roles[i%len(roles)]].newcomer(fmt.Sprintf("newcomer-%d", i))
	at := time.Now()
	var refused atomic.Int64
	err := s.admitOne(s.ctx, n, i, &refused)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.came = append(s.came, arrival{at, time.Now(), i % len(s.svc.Supers), int(refused.Load()), err})
	s.all = append(s.all, n)
}

// lookLoop has scouts look peers up.
func (s *siege) lookLoop(ctx context.Context) {
	var g sync.WaitGroup
	defer g.Wait()
	for n := 0; measure.Sleep(ctx, comeEvery) == nil; n++ {
		scout, p := s.scouts[n%len(s.scouts)], s.peers[n%len(s.peers)]
		if !mayReach(scout.role, p.role) {
			continue
		}
		g.Go(func() {
			at := time.Now()
			err := scout.find(s.ctx, p)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.looks = append(s.looks, look{at, err})
		})
	}
}

// killOne kills the first super peer and starts it again.
func (s *siege) killOne(b *bench, rec *recorder) {
	_ = b.pause(deadBefore)
	victim := s.supers[0]
	died := time.Now()
	b.say("a super peer dies for %v", deadFor)
	victim.kill()
	_ = b.pause(deadFor)
	born := time.Now()
	if err := s.startSuper(0, victim.store.Copy()); err != nil {
		s.fail(err)
		return
	}
	_ = b.pause(deadAfter)
	s.mu.Lock()
	defer s.mu.Unlock()
	var waits []float64
	failed, why := 0, map[string]int{}
	for _, a := range s.came {
		if a.super == 0 && a.at.After(died.Add(-time.Second)) && a.at.Before(born) {
			waits = append(waits, measure.Milliseconds(a.done.Sub(a.at)))
		}
		if a.err != nil {
			failed++
			why[reason(a.err)]++
		}
	}
	rec.add(float64(len(s.came)), "", "newcomers around the death of a super peer")
	rec.times(waits, "  admitted by another, of those that asked the dead one first")
	recordReasons(rec, "not admitted", why)
	rec.must(failed, 0, "newcomers that nobody admitted")
	lost, last := 0, died
	for _, l := range s.looks {
		if l.err != nil && l.at.After(died) {
			lost++
			last = l.at
		}
	}
	rec.add(float64(len(s.looks)), "", "lookups meanwhile")
	rec.add(float64(lost), "", "  not found")
	rec.add(last.Sub(died).Seconds(), "s", "  the last of them, after the death")
}

// partition parts the super peers and all machines in two, and heals.
func (s *siege) partition(b *bench, rec *recorder) {
	s.mu.Lock()
	before := len(s.came)
	s.mu.Unlock()
	for i, sp := range s.supers {
		if i%2 == 1 {
			s.net.part(1, sp.addr)
		}
	}
	for i := range 2000 { // newcomers: half of them on either side
		if i%2 == 1 {
			s.net.part(1, peerAddr(100000+int(s.next.Load())+i))
		}
	}
	b.say("super peers are parted for %v", partedFor)
	_ = b.pause(partedFor)
	s.net.heal()
	_ = b.pause(deadAfter)
	s.mu.Lock()
	defer s.mu.Unlock()
	failed, why := 0, map[string]int{}
	var waits []float64
	for _, a := range s.came[before:] {
		waits = append(waits, measure.Milliseconds(a.done.Sub(a.at)))
		if a.err != nil {
			failed++
			why[reason(a.err)]++
		}
	}
	rec.add(float64(len(waits)), "", "newcomers on both sides of a partition of %v", partedFor)
	rec.times(waits, "  admitted after")
	recordReasons(rec, "not admitted", why)
	rec.must(failed, 0, "newcomers that nobody admitted, partition")
}

// verdict is what must hold when all is over.
func (s *siege) verdict(b *bench, rec *recorder) error {
	sent, lost := 0, 0
	for _, f := range s.flows {
		sent += int(f.sent.Load())
		lost += int(f.sent.Load()) - int(f.to.dev.data.Load()-f.before)
	}
	rec.add(float64(len(s.flows)), "", "tunnels under traffic")
	rec.add(float64(sent), "", "  packets")
	rec.must(lost, 0, "packets lost in tunnels")
	rec.must(s.book.twice(), 0, "addresses given twice")
	holders := s.book.holders()
	var strangers, missing int
	took, err := b.stage(rec, "members that a peer knows, and nobody else", b.settle, len(holders), func(st *stage) {
		st.until(func() int {
			strangers, missing = s.halfAdmitted(st, holders)
			return len(holders) - missing - strangers
		})
	})
	if err != nil {
		return err
	}
	rec.add(took.Seconds(), "s", "  the roster of a peer that asks for nobody is right after")
	s.recordMissing(rec)
	rec.must(strangers, 0, "machines in a roster that hold no credential")
	rec.must(missing, 0, "machines with a credential that are missing in a roster")
	f, err := b.findAll(rec, "contacts looked up when all is quiet", s.scouts, s.peers)
	recordReasons(rec, "not found when all is quiet", f.why)
	rec.must(f.asked-f.found, 0, "contacts not found when all is quiet")
	return err
}

// halfAdmitted compares the roster of a peer with the credentials there are.
func (s *siege) halfAdmitted(ctx context.Context, holders map[id.ID]bool) (strangers, missing int) {
	watcher := s.peers[1]
	list, err := watcher.Peers(ctx)
	if err != nil {
		return 0, len(holders)
	}
	want := map[string]bool{}
	for pid := range maps.Keys(holders) {
		want[pid.String()] = true
	}
	delete(want, watcher.pid.String())
	for _, e := range list {
		if !want[e.PID] {
			strangers++
		}
		delete(want, e.PID)
	}
	return strangers, len(want)
}

// recordMissing says which super peers' members a peer does not know, and
// whether their own super peers do.
func (s *siege) recordMissing(rec *recorder) {
	list, err := s.peers[1].Peers(s.ctx)
	if err != nil {
		return
	}
	known := map[string]bool{s.peers[1].pid.String(): true}
	for _, e := range list {
		known[e.PID] = true
	}
	for i, sp := range s.supers {
		own, err := sp.Peers(s.ctx)
		if err != nil {
			s.fail(err)
			return
		}
		lists := map[string]bool{}
		for _, e := range own {
			lists[e.PID] = true
		}
		missing, unlisted := 0, 0
		for _, pid := range s.book.admittedBy(sp.PID()) {
			if !known[pid.String()] {
				missing++
			}
			if !lists[pid.String()] {
				unlisted++
			}
		}
		rec.add(float64(missing), "", "  members of super peer %d that a peer does not know", i+1)
		rec.add(float64(unlisted), "", "  and that it does not list itself")
	}
}

// flow is one direction of a tunnel under traffic.
type flow struct {
	from, to *peer
	before   uint64
	sent     atomic.Uint64
}

// listedAfter is how long a machine may take from its admission until others find it.
const listedAfter = 10 * time.Second

// openFlows makes tunnels between different machines.
func (w *world) openFlows(rec *recorder) (all []*flow) {
	used := map[*peer]bool{}
	for _, p := range w.peers {
		if used[p] || len(all) == flowsMost {
			continue
		}
		for _, q := range w.reachable(p, len(w.peers)) {
			if !used[q] {
				used[p], used[q] = true, true
				all = append(all, &flow{from: p, to: q})
				break
			}
		}
	}
	failed := 0
	why := map[string]int{}
	for _, f := range all {
		text := pingText(w.ctx, f.from, f.to.addr4.String())
		for began := time.Now(); text != "" && time.Since(began) < listedAfter; { // it has just come
			time.Sleep(pollEvery)
			text = pingText(w.ctx, f.from, f.to.addr4.String())
		}
		if text != "" {
			failed++
			why[text]++
		}
		f.before = f.to.dev.data.Load()
	}
	recordReasons(rec, "no tunnel", why)
	rec.must(failed, 0, "tunnels that do not come up")
	return slices.Clip(all)
}

// sendLoop sends UDP packets, of which each must arrive.
func (f *flow) sendLoop(ctx context.Context) {
	pkt := udpPacket(f.from.addr4, f.to.addr4)
	for measure.Sleep(ctx, trafficEvery) == nil {
		select {
		case f.from.dev.out <- pkt:
			f.sent.Add(1)
		case <-ctx.Done():
		}
	}
}

// udpPacket is a UDP datagram over IPv4 to the discard port (RFC 863), without
// a UDP checksum.
func udpPacket(from, to netip.Addr) []byte {
	p := make([]byte, 28+100)
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:16], from.AsSlice())
	copy(p[16:20], to.AsSlice())
	binary.BigEndian.PutUint16(p[10:], headerChecksum(p[:20]))
	binary.BigEndian.PutUint16(p[20:], 9)
	binary.BigEndian.PutUint16(p[22:], 9)
	binary.BigEndian.PutUint16(p[24:], uint16(len(p)-20))
	return p
}

// headerChecksum is that of an IPv4 header whose own field is 0 (RFC 791).
func headerChecksum(h []byte) uint16 {
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
