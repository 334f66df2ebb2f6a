package keyex

import (
	"slices"
	"testing"
	"time"
)

// One datagram a message, so that orders can be enumerated.
func small(c *Config) {
	c.Groups = []Group{GroupX25519}
	cred := c.Credential
	c.Credential = func() []byte {
		key := c.Key.Public().(edPub)
		if len(cred()) == 0 {
			return nil
		}
		return testCredential(authority, key, 100)
	}
}

// order is one sequence of decisions: at each step which of the possible
// things happens next. next turns it into the following one.
type order struct {
	choice, options []int
	at              int
}

func (o *order) pick(n int) int {
	if o.at == len(o.choice) {
		o.choice, o.options = append(o.choice, 0), append(o.options, n)
	}
	o.options[o.at] = n
	o.at++
	return o.choice[o.at-1]
}

func (o *order) next() bool {
	o.choice, o.options = o.choice[:o.at], o.options[:o.at]
	o.at = 0
	for i := len(o.choice) - 1; i >= 0; i-- {
		if o.choice[i]+1 < o.options[i] {
			o.choice[i]++
			o.choice, o.options = o.choice[:i+1], o.options[:i+1]
			return true
		}
	}
	return false
}

// Every order in which two simultaneous exchanges can begin and their
// datagrams arrive, no timer needed: each Initiate ends once, and exactly one
// pair is completed. (As a conductor would, neither begins while it has an
// unconfirmed pair.)
func TestSimultaneousStartInEveryOrder(t *testing.T) {
	var o order
	runs, replaced, late := 0, 0, 0
	for more := true; more; more = o.next() {
		runs++
		w, a, b := twoNodes(t, small)
		begun := map[*node]bool{}
		for {
			var todo []func()
			for _, n := range []*node{a, b} {
				other := a
				if n == a {
					other = b
				}
				if !begun[n] && len(n.done) == 0 {
					todo = append(todo, func() { begun[n] = true; w.initiate(n, other) })
				}
			}
			for i, p := range w.queue {
				todo = append(todo, func() {
					w.queue = slices.Delete(w.queue, i, i+1)
					w.deliver(p)
				})
			}
			if len(todo) == 0 {
				break
			}
			todo[o.pick(len(todo))]()
		}
		complete := 0
		for _, n := range []*node{a, b} {
			ends := len(n.failed)
			for _, r := range n.done {
				if r.Initiator {
					complete++
				}
				if r.Initiator || r.Replaced {
					ends++
				}
				if r.Replaced {
					replaced++
				}
			}
			if begun[n] && ends != 1 || !begun[n] && ends != 0 {
				t.Fatalf("order %v: %s began %t and ended %d times: %v %v", o.choice, n.name, begun[n], ends, n.done, n.failed)
			}
			n.idle(t)
		}
		w.checkPairs()
		// The higher PID's M3 may come after all is over. It is answered, as it
		// must be if that peer has restarted, and the pair is never confirmed.
		if len(a.done) == 2 && !a.done[1].Initiator && !a.done[1].Replaced {
			a.done = a.done[:1]
			late++
		}
		if complete != 1 || len(a.done) != 1 || len(b.done) != 1 {
			t.Fatalf("order %v: %d pairs; %v and %v", o.choice, complete, a.done, b.done)
		}
	}
	t.Logf("%d orders, %d exchanges gave way, %d M3s came late", runs, replaced, late)
	if runs < 100 || replaced == 0 {
		t.Error("that was not every order")
	}
}

// Both M3s are under way: the lower PID's exchange wins, whoever was first.
func TestLowerPIDHoldsTheOthersM3(t *testing.T) {
	for _, lowFirst := range []bool{true, false} {
		w, low, high := twoNodes(t)
		if lowFirst {
			w.initiate(low, high)
			w.initiate(high, low)
		} else {
			w.initiate(high, low)
			w.initiate(low, high)
		}
		w.run(time.Second)
		rl, rh := low.only(t), high.only(t)
		agree(t, rl, rh)
		if !rl.Initiator || !rh.Replaced || !slices.Contains(low.drops, DropHeld) {
			t.Errorf("the higher PID's exchange won: %v", rl)
		}
		if !rl.Preferred(low.PID()) || !rh.Preferred(high.PID()) {
			t.Error("the pair of the lower PID is not preferred")
		}
		// A late copy of the M3 that was held changes nothing.
		for _, p := range w.messages(msgShareA) {
			if p.from == high.addr {
				if d := w.deliver(p); d != DropHeld && d != DropNone {
					t.Errorf("late copy: %v", d)
				}
			}
		}
		low.only(t)
		w.run(time.Minute)
		low.only(t)
		high.only(t)
	}
}

// The lower PID's exchange comes to nothing: then the held M3 is answered, and
// again when it is repeated because that answer was lost.
func TestHeldM3IsAnsweredWhenOwnExchangeFails(t *testing.T) {
	w, low, high := twoNodes(t, small)
	lost := 0
	w.bend = func(p packet) []packet {
		if p.from == low.addr && (p.msg() == msgShareA || p.msg() == msgShareB && lost == 0) {
			if p.msg() == msgShareB {
				lost++
			}
			return nil
		}
		return []packet{p}
	}
	w.initiate(low, high)
	w.run(3 * time.Second) // so that the other has tries left when ours are used up
	w.initiate(high, low)
	w.run(20 * time.Second)
	rl, rh := low.only(t), high.only(t)
	agree(t, rl, rh)
	if !rl.Replaced || !rh.Initiator || len(low.failed)+len(high.failed) != 0 || lost == 0 {
		t.Errorf("%v, %v", rl, rh)
	}
	if low.Stats().Repeated.Load() == 0 || low.Stats().Drops(DropHeld) < 2 {
		t.Error("the script did not repeat M3")
	}
}

// A refusal ends the own exchange too.
func TestHeldM3IsAnsweredAfterARefusal(t *testing.T) {
	w, low, high := twoNodes(t)
	high.Machine.cfg.Authorize = func(_ Peer, initiator bool) error {
		if initiator {
			return nil
		}
		return errOneWay
	}
	w.initiate(low, high)
	w.initiate(high, low)
	w.run(20 * time.Second)
	agree(t, low.only(t), high.only(t))
	if !low.done[0].Replaced {
		t.Errorf("%v", low.done)
	}
}

// A refused peer has no say over our own exchange.
func TestRefusedM3DoesNotEndOwnExchange(t *testing.T) {
	w, low, high := twoNodes(t)
	low.Machine.cfg.Authorize = func(_ Peer, initiator bool) error {
		if initiator {
			return nil
		}
		return errOneWay
	}
	w.initiate(high, low)
	w.initiate(low, high)
	w.run(20 * time.Second)
	ok := 0
	for _, r := range low.done {
		if r.Initiator {
			ok++
		}
	}
	if ok != 1 {
		t.Errorf("low: %v %v; high: %v %v", low.done, low.failed, high.done, high.failed)
	}
	w.checkPairs()
}

// A peer that restarted replaces its held M3 by a new one.
func TestNewestHeldM3Counts(t *testing.T) {
	w, low, high := twoNodes(t, small)
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA && p.from == low.addr {
			return nil
		}
		return []packet{p}
	}
	w.initiate(low, high)
	w.run(200 * time.Millisecond)
	w.initiate(high, low)
	w.run(200 * time.Millisecond)
	high.restart(t)
	w.initiate(high, low)
	w.run(30 * time.Second)
	agree(t, low.only(t), high.only(t))
	if len(high.failed) != 0 {
		t.Errorf("failed: %v", high.failed)
	}
}

// Random loss, delay and start times, hybrid group: every Initiate ends once,
// all that completes agrees, and most runs end with a pair.
func TestSimultaneousStartOnBadNetworks(t *testing.T) {
	rnd := newTestRand(3)
	pairs := 0
	const runs = 300 / slow
	for i := range runs {
		w, a, b := twoNodes(t, withGroups([]Group{GroupHybrid, GroupX25519}[i%2]))
		loss := rnd.IntN(40)
		w.bend = func(p packet) (all []packet) {
			for range 1 + rnd.IntN(2) {
				if rnd.IntN(100) >= loss {
					p.at = w.now.Add(time.Duration(rnd.IntN(800)) * time.Millisecond)
					all = append(all, p)
				}
			}
			return all
		}
		w.initiate(a, b)
		w.run(time.Duration(rnd.IntN(1500)) * time.Millisecond)
		began := len(b.done) == 0
		if began {
			w.initiate(b, a)
		}
		w.run(2 * time.Minute)
		for _, n := range []*node{a, b} {
			ends := len(n.failed)
			for _, r := range n.done {
				if r.Initiator {
					pairs++
				}
				if r.Initiator || r.Replaced {
					ends++
				}
			}
			if want := 1; (n == a || began) && ends != want {
				t.Fatalf("run %d: %s ended %d times: %v %v", i, n.name, ends, n.done, n.failed)
			}
			n.idle(t)
		}
		w.checkPairs()
	}
	if pairs < runs*9/10 {
		t.Errorf("%d pairs in %d runs", pairs, runs)
	}
}
