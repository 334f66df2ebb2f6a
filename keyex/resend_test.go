package keyex

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFailureTellsAPerson(t *testing.T) {
	w, a, b := twoNodes(t)
	w.bend = func(packet) []packet { return nil }
	other := Path{Addr: netip.MustParseAddrPort("[2001:db8::2]:4500")}
	w.initiate(a, b, func(x *Target) { x.Paths = append(x.Paths, other) })
	w.run(time.Minute)
	f := wantFailure(t, a, ReasonNoAnswer)
	for _, part := range []string{b.PID().Short(), "10 tries", "2 endpoints", b.addr.String(), "[2001:db8::2]:4500"} {
		if !strings.Contains(f.Error(), part) {
			t.Errorf("%q does not say %q", f.Error(), part)
		}
	}
}

// The schedule: each wait within a quarter of its nominal value, M1 to every
// endpoint each time, M3 unchanged, then a second attempt with a new nonce.
func TestRetransmissionSchedule(t *testing.T) {
	w, a, b := twoNodes(t)
	type event struct {
		at  time.Time
		msg uint8
	}
	var seen []event
	var m1s, m3s [][]byte
	w.bend = func(p packet) []packet {
		if p.from == a.addr && p.Payload[1] == 0 {
			seen = append(seen, event{w.now, p.msg()})
			if p.msg() == msgHelloA {
				m1s = append(m1s, p.Payload)
			} else {
				m3s = append(m3s, p.Payload)
			}
		}
		if p.msg() == msgShareA || p.msg() == msgHelloA && len(m1s) < len(helloWaits) {
			return nil
		}
		p.at = w.now
		return []packet{p}
	}
	w.initiate(a, b)
	w.run(2 * time.Minute)
	var msgs []byte
	for _, e := range seen {
		msgs = append(msgs, e.msg)
	}
	n, k := len(helloWaits), len(shareWaits)
	want := slices.Concat(bytes.Repeat([]byte{1}, n), bytes.Repeat([]byte{3}, k), []byte{1}, bytes.Repeat([]byte{3}, k))
	if !bytes.Equal(msgs, want) {
		t.Fatalf("messages %v, want %v", msgs, want)
	}
	nominal := slices.Concat(helloWaits[:n-1], []time.Duration{0}, shareWaits, []time.Duration{0}, shareWaits[:k-1])
	spread := map[time.Duration]bool{}
	for i, d := range nominal {
		got := seen[i+1].at.Sub(seen[i].at)
		if got < d*3/4 || got > d*5/4 {
			t.Errorf("wait %d is %v, want %v within a quarter", i, got, d)
		}
		if d > 0 {
			spread[got*1000/d] = true
		}
	}
	if len(spread) < len(nominal)/2 {
		t.Error("waits have no jitter")
	}
	for i := range n {
		if !bytes.Equal(m1s[i], m1s[0]) {
			t.Error("M1 changed between sends")
		}
	}
	if bytes.Equal(m1s[n], m1s[0]) {
		t.Error("the second attempt has the first one's nonce")
	}
	for i := range m3s {
		if !bytes.Equal(m3s[i], m3s[i/k*k]) {
			t.Error("M3 changed between sends")
		}
	}
	if f := wantFailure(t, a, ReasonIncomplete); f.Tries != k {
		t.Errorf("failure %v", f)
	}
}

func TestHelloGoesToEightEndpointsAtMost(t *testing.T) {
	w, a, b := twoNodes(t)
	var paths []Path
	for i := range 12 {
		paths = append(paths, Path{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i / 2)}), 4500)})
	}
	paths[0] = Path{Addr: netip.AddrPortFrom(netip.MustParseAddr("::ffff:192.0.2.99"), 1)}
	paths = append(paths, paths[:4]...)
	w.initiate(a, b, func(x *Target) { x.Paths = paths })
	if len(a.sent) != 7 { // six distinct, and the mapped one
		t.Errorf("M1 went to %d endpoints", len(a.sent))
	}
	if !a.sent[0].To.Addr.Addr().Is4() {
		t.Error("an IPv4-mapped address was kept")
	}
	c := newNode(t, "gamma", 3)
	for i := range paths {
		paths[i].Relay = string(rune('a' + i))
	}
	w.initiate(c, b, func(x *Target) { x.Paths = paths })
	if len(c.sent) != MaxPaths {
		t.Errorf("M1 went to %d endpoints", len(c.sent))
	}
}

// FIELD: handshakes under 30 % loss complete within 10 s in 99 of 100 cases.
func TestThirtyPercentLossCompletesWithinTenSeconds(t *testing.T) {
	const runs = 300 / slow
	var took []time.Duration
	rnd := newTestRand(1)
	for range runs {
		w, a, b := twoNodes(t)
		a.Machine.cfg.Rand, b.Machine.cfg.Rand = seedRand(rnd), seedRand(rnd)
		w.bend = func(p packet) []packet {
			if rnd.IntN(100) < 30 {
				return nil
			}
			return []packet{p}
		}
		w.initiate(a, b)
		for len(a.done)+len(a.failed) == 0 && w.step(w.now.Add(time.Minute)) {
		}
		took = append(took, w.now.Sub(testEpoch))
		if len(a.failed) > 0 {
			took[len(took)-1] = time.Hour
		}
		w.checkPairs()
	}
	slices.Sort(took)
	t.Logf("p50 %v, p90 %v, p99 %v, max %v", took[runs/2], took[runs*9/10], took[runs*99/100], took[runs-1])
	if took[runs*99/100] > 10*time.Second {
		t.Errorf("p99 is %v", took[runs*99/100])
	}
}

// Loss, duplication and reordering of any kind: what completes agrees, and
// every Initiate has one end.
func TestExchangeSurvivesBadNetworks(t *testing.T) {
	rnd := newTestRand(2)
	completed := 0
	for i := range 200 / slow {
		w, a, b := twoNodes(t, withGroups([]Group{GroupHybrid, GroupX25519}[i%2]))
		loss, dup := rnd.IntN(50), rnd.IntN(50)
		w.bend = func(p packet) (all []packet) {
			for ok := true; ok; ok = rnd.IntN(100) < dup {
				if rnd.IntN(100) >= loss {
					p.at = w.now.Add(time.Duration(rnd.IntN(1000)) * time.Millisecond)
					all = append(all, p)
				}
			}
			return all
		}
		w.initiate(a, b)
		w.run(time.Minute)
		if len(a.done)+len(a.failed) != 1 {
			t.Fatalf("one Initiate ended %d times: %v %v", len(a.done)+len(a.failed), a.done, a.failed)
		}
		completed += len(a.done)
		w.checkPairs()
		a.idle(t)
	}
	if completed < 150/slow {
		t.Errorf("only %d completed", completed)
	}
}

// A path that swallows large datagrams is left out of the second attempt.
func TestSecondAttemptAvoidsTheFailedPath(t *testing.T) {
	w, a, b := twoNodes(t)
	bad := Path{Addr: netip.MustParseAddrPort("198.51.100.1:4500")}
	w.nodes[bad] = b
	w.bend = func(p packet) []packet {
		switch {
		case p.To == bad && p.msg() == msgShareA:
			return nil
		case p.To == b.addr:
			p.at = p.at.Add(200 * time.Millisecond)
		}
		return []packet{p}
	}
	w.initiate(a, b, func(x *Target) { x.Paths = []Path{b.addr, bad} })
	answerFromAskedPath(w, a, b)
	w.run(time.Minute)
	if r := a.only(t); r.Path != b.addr {
		t.Errorf("path %v", r.Path)
	}
}

// answerFromAskedPath makes b's M2 come from the address M1 went to.
func answerFromAskedPath(w *world, a, b *node) {
	asked := map[hash][]Path{}
	bend := w.bend
	for _, p := range w.queue {
		asked[hash(p.Payload[3:35])] = append(asked[hash(p.Payload[3:35])], p.To)
	}
	w.bend = func(p packet) []packet {
		x := hash(p.Payload[3:35])
		if p.msg() == msgHelloA {
			asked[x] = append(asked[x], p.To)
		}
		if p.msg() == msgHelloB && len(asked[x]) == 2 {
			p.from = asked[x][1] // the fast, bad one comes first
			asked[x] = asked[x][:1]
		} else if p.msg() == msgHelloB && len(asked[x]) == 1 {
			p.from = asked[x][0]
		}
		return bend(p)
	}
}

func TestResponderRestartBetweenM2AndM3(t *testing.T) {
	w, a, b := twoNodes(t)
	restarted := false
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA && !restarted {
			restarted = true
			b.restart(t)
		}
		return []packet{p}
	}
	w.initiate(a, b)
	w.run(time.Minute)
	agree(t, a.only(t), b.only(t))
}
