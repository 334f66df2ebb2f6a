package keyex

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
)

func withGroups(g ...Group) func(*Config) { return func(c *Config) { c.Groups = g } }
func withSuites(s ...Suite) func(*Config) { return func(c *Config) { c.Suites = s } }

func TestExchangeCompletesInEachGroup(t *testing.T) {
	for _, g := range []Group{GroupHybrid, GroupX25519, GroupMODP3072, GroupMODP2048} {
		for _, s := range []Suite{1, 2, 3} {
			t.Run(g.String(), func(t *testing.T) {
				w, a, b := twoNodes(t, withGroups(g), withSuites(s))
				w.initiate(a, b)
				w.run(time.Second)
				ra, rb := a.only(t), b.only(t)
				agree(t, ra, rb)
				enc, integ, iv, salt, _ := testSuiteKeys(s)
				if len(ra.In.Enc) != enc || len(ra.In.Int) != integ || len(ra.In.IV) != iv || len(ra.In.Salt) != salt {
					t.Errorf("key lengths %v, want %d %d %d %d", ra.In, enc, integ, iv, salt)
				}
				if bytes.Equal(ra.In.Enc, ra.Out.Enc) || ra.CtlIn == ra.CtlOut {
					t.Error("both directions have the same key")
				}
				if !ra.Initiator || rb.Initiator || ra.Replaced || rb.Replaced || ra.Group != g || ra.Path != b.addr || rb.Path != a.addr {
					t.Errorf("results %v and %v", ra, rb)
				}
				w.checkPairs()
				a.idle(t)
				b.idle(t)
			})
		}
	}
}

// Sizes on the wire: two datagrams at most, of what a 1280-byte path takes,
// with credentials of the largest size.
func TestDatagramsFitThePath(t *testing.T) {
	for g, want := range map[Group][5]int{
		GroupHybrid: {0, 1, 1, 2, 2}, GroupX25519: {0, 1, 1, 1, 1}, GroupMODP3072: {0, 1, 1, 2, 1}, GroupMODP2048: {0, 1, 1, 1, 1},
	} {
		w, a, b := twoNodes(t, withGroups(g))
		w.initiate(a, b)
		w.run(time.Second)
		a.only(t)
		var n [5]int
		for _, p := range w.log {
			n[p.msg()]++
			if len(p.Payload) > headerSize+fragmentSize {
				t.Errorf("%v: message %d has a datagram of %d bytes", g, p.msg(), len(p.Payload))
			}
			hello := p.msg() <= msgHelloB
			if hello != (p.Plain == HelloPlain) || (hello && 8+2+len(p.Payload) > HelloPlain) {
				t.Errorf("%v: message %d of %d bytes is to be padded to %d", g, p.msg(), len(p.Payload), p.Plain)
			}
		}
		if g != GroupMODP3072 && n != want {
			t.Errorf("%v: datagrams by message %v, want %v", g, n, want)
		}
		if n[3] > 2 || n[4] > 2 {
			t.Errorf("%v: three datagrams: %v", g, n)
		}
	}
}

func TestResponderPicksItsFavouriteOfTheOffer(t *testing.T) {
	a := newNode(t, "alpha", 1, withGroups(GroupX25519, GroupHybrid), withSuites(1, 2))
	b := newNode(t, "beta", 2, withGroups(GroupMODP2048, GroupHybrid, GroupX25519), withSuites(3, 2, 1))
	w := newWorld(t, a, b)
	w.initiate(a, b)
	w.run(time.Second)
	if r := a.only(t); r.Group != GroupHybrid || r.Suite != 2 {
		t.Errorf("agreed on %v, suite %d", r.Group, r.Suite)
	}
}

func TestNothingInCommonIsSilence(t *testing.T) {
	for _, mend := range []func(*Config){withGroups(GroupMODP3072), withSuites(3)} {
		a := newNode(t, "alpha", 1, withGroups(GroupX25519), withSuites(1))
		b := newNode(t, "beta", 2, withGroups(GroupX25519), withSuites(1), mend)
		w := newWorld(t, a, b)
		w.initiate(a, b)
		w.run(30 * time.Second)
		if len(b.sent) != 0 || b.Stats().Drops(DropNoCommon) != uint64(len(helloWaits)) {
			t.Errorf("sent %d, dropped %v", len(b.sent), b.drops)
		}
		wantFailure(t, a, ReasonNoAnswer)
	}
}

func wantFailure(t testing.TB, n *node, r Reason) Failure {
	t.Helper()
	if len(n.failed) != 1 || n.failed[0].Reason != r {
		t.Fatalf("%s failed with %v, want one failure of reason %d; drops %v", n.name, n.failed, r, n.drops)
	}
	n.idle(t)
	return n.failed[0]
}

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

func TestRepeatedM3GetsTheSameM4(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b)
	w.run(time.Second)
	a.only(t)
	m3, m4 := w.messages(msgShareA), w.messages(msgShareB)
	for _, wait := range []time.Duration{0, 10 * time.Second, 40 * time.Second, 60 * time.Second} {
		w.now = w.now.Add(wait)
		n := len(b.sent)
		for _, p := range m3 {
			w.deliver(p)
		}
		again := b.sent[n:]
		if len(again) != len(m4) {
			t.Fatalf("a repeated M3 got %d datagrams, drops %v", len(again), b.drops)
		}
		for i := range again {
			if !bytes.Equal(again[i].Payload, m4[i].Payload) {
				t.Error("a repeated M3 got another M4")
			}
		}
		b.only(t)
	}
	// Later the cookie is too old, and nothing at all happens.
	for _, wait := range []time.Duration{30 * time.Second, 30 * time.Second, time.Hour} {
		w.run(wait)
		n := len(b.sent)
		for _, p := range m3 {
			if d := w.deliver(p); d != DropCookie {
				t.Errorf("an old M3: %v", d)
			}
		}
		if len(b.sent) != n {
			t.Error("an old M3 was answered")
		}
		b.only(t)
	}
}

// messages returns the datagrams with message number msg sent so far.
func (w *world) messages(msg uint8) (all []packet) {
	for _, p := range w.log {
		if p.msg() == msg {
			all = append(all, p)
		}
	}
	return all
}

func TestUnauthorisedPairIsRefusedSigned(t *testing.T) {
	w, a, b := twoNodes(t)
	b.deny = errors.New("web may not reach db")
	w.initiate(a, b)
	w.run(time.Second)
	f := wantFailure(t, a, ReasonRefused)
	if f.Status != StatusNotAllowed || !strings.Contains(f.Error(), "policy") {
		t.Errorf("failure %v", f)
	}
	if len(b.done) != 0 || b.answers.len() != 0 {
		t.Error("a refused pair left something behind")
	}
	m4 := w.messages(msgShareB)
	n := len(b.sent)
	for _, p := range w.messages(msgShareA) {
		w.deliver(p)
	}
	if len(b.sent) != n+1 || !bytes.Equal(b.sent[n].Payload, m4[0].Payload) {
		t.Error("a repeated M3 got another refusal")
	}
}

func TestOwnPolicyStopsTheInitiator(t *testing.T) {
	w, a, b := twoNodes(t)
	a.deny = errors.New("db is off limits")
	w.initiate(a, b)
	w.run(time.Second)
	if f := wantFailure(t, a, ReasonNotAllowed); !errors.Is(f, a.deny) {
		t.Errorf("failure %v does not say why", f)
	}
}

func TestForeignCredentialIsSilence(t *testing.T) {
	w, a, b := twoNodes(t)
	stranger := newNode(t, "stranger", 9)
	for name, cred := range map[string][]byte{
		"another authority": testCredential(stranger.cfg.Key, a.cfg.Key.Public().(edPub), 300),
		"another peer":      stranger.cred,
		"one byte off":      flip(a.cred, 40),
	} {
		t.Run(name, func(t *testing.T) {
			a.cred = cred
			a.failed, b.drops = nil, nil
			sent := len(w.messages(msgShareB))
			w.initiate(a, b)
			w.run(time.Minute)
			wantFailure(t, a, ReasonIncomplete)
			if len(w.messages(msgShareB)) != sent || len(b.done) != 0 || !slices.Contains(b.drops, DropCredential) {
				t.Errorf("drops %v", b.drops)
			}
		})
	}
}

func TestInitiatorWantsThePeerItAskedFor(t *testing.T) {
	// c answers at b's address in b's name, with a credential and key of its own.
	w, a, b := twoNodes(t)
	c := newNode(t, "gamma", 3)
	c.self, c.addr = b.PID(), b.addr
	w.nodes[b.addr] = c
	w.initiate(a, b)
	w.run(time.Minute)
	if f := wantFailure(t, a, ReasonIncomplete); !strings.Contains(f.Error(), "credential") {
		t.Errorf("failure %v", f)
	}
	if len(a.done) != 0 {
		t.Error("completed with an impostor")
	}
}

func TestImpostorsWithBorrowedCredentials(t *testing.T) {
	w, a, b := twoNodes(t)
	c := newNode(t, "gamma", 3)
	c.self, c.addr, c.cred = b.PID(), b.addr, b.cred // all of b but the key
	w.nodes[b.addr] = c
	w.initiate(a, b)
	w.run(time.Minute)
	if f := wantFailure(t, a, ReasonIncomplete); !strings.Contains(f.Error(), "signature") {
		t.Errorf("failure %v", f)
	}
	// And as an initiator.
	w, a, b = twoNodes(t)
	c = newNode(t, "gamma", 3)
	c.self, c.cred = a.PID(), a.cred
	w.nodes[c.addr] = c
	b.deny = errors.New("nobody") // a refusal must not be earned without a signature
	w.initiate(c, b)
	w.run(time.Minute)
	if len(b.done) != 0 || len(w.messages(msgShareB)) != 0 || !slices.Contains(b.drops, DropSignature) {
		t.Errorf("drops %v", b.drops)
	}
}

func TestUnknownPIDAndOwnPID(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b, func(x *Target) { x.PID = id.Hash("nobody") })
	w.run(time.Minute)
	wantFailure(t, a, ReasonNoAnswer)
	if len(b.sent) != 0 || !slices.Contains(b.drops, DropNotMine) {
		t.Errorf("drops %v", b.drops)
	}
	for name, f := range map[string]func(*Target){
		"ourselves": func(x *Target) { x.PID = a.PID() },
		"endpoint":  func(x *Target) { x.Paths = []Path{{}} },
		"epoch":     func(x *Target) { x.Epoch = 99 },
	} {
		a.failed = nil
		w.initiate(a, b, f)
		if f := wantFailure(t, a, ReasonLocal); !strings.Contains(f.Error(), name) {
			t.Errorf("%s: %v", name, f)
		}
	}
	a.failed, a.cred = nil, make([]byte, MaxCredential+1)
	w.initiate(a, b)
	wantFailure(t, a, ReasonLocal)
}

func TestWrongEpochKeyNeverCompletes(t *testing.T) {
	w, a, b := twoNodes(t)
	b.epochs[7] = [32]byte{1}
	w.initiate(a, b)
	w.run(time.Minute)
	if f := wantFailure(t, a, ReasonIncomplete); !strings.Contains(f.Error(), "keys differ") {
		t.Errorf("failure %v", f)
	}
}

// The epoch of M1's seal holds for the whole exchange.
func TestOtherEpochIsDropped(t *testing.T) {
	for msg, want := range map[uint8]Drop{1: DropTranscript, 2: DropEpoch, 3: DropTranscript, 4: DropEpoch} {
		w, a, b := twoNodes(t)
		w.bend = func(p packet) []packet {
			if p.msg() == msg {
				p.Epoch = 8
			}
			return []packet{p}
		}
		w.initiate(a, b)
		w.run(time.Minute)
		if len(a.done) != 0 || !slices.Contains(slices.Concat(a.drops, b.drops), want) {
			t.Errorf("message %d under another epoch: drops %v %v", msg, a.drops, b.drops)
		}
	}
	w, a, b := twoNodes(t)
	w.initiate(a, b, func(x *Target) { x.Epoch = 8 })
	w.run(time.Second)
	if a.only(t).Epoch != 8 || b.only(t).Epoch != 8 {
		t.Error("wrong epoch in the result")
	}
	delete(b.epochs, 8)
	w.initiate(a, b, func(x *Target) { x.Epoch = 8 })
	w.run(time.Minute)
	wantFailure(t, a, ReasonNoAnswer)
}

func TestRekeyMixesInTheOldPair(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b)
	w.run(time.Second)
	old := a.only(t)
	rekey := func(x *Target) { x.RekeyID = &old.RekeyID }
	for _, c := range []struct {
		name         string
		atA, atB     bool
		secretAtB    [32]byte
		rekeyOK, end bool
	}{
		{"both have it", true, true, old.Rekey, true, true},
		{"responder restarted", true, false, old.Rekey, false, true},
		{"initiator restarted", false, true, old.Rekey, false, true},
		{"secrets differ", true, true, [32]byte{1}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			clear(a.rekeys)
			clear(b.rekeys)
			if c.atA {
				a.rekeys[old.RekeyID] = old.Rekey
			}
			if c.atB {
				b.rekeys[old.RekeyID] = c.secretAtB
			}
			a.done, b.done, a.failed = nil, nil, nil
			n := len(w.log)
			w.initiate(a, b, rekey)
			w.run(time.Minute)
			var m2s []m2
			for _, p := range w.log[n:] {
				if p.msg() == msgHelloB {
					x, ok := parseM2(p.Payload[headerSize:])
					if !ok {
						t.Fatal("M2 does not parse")
					}
					m2s = append(m2s, x)
				}
			}
			if m2s[0].RekeyOK != c.rekeyOK {
				t.Errorf("rekeyOK is %t", m2s[0].RekeyOK)
			}
			if !c.end {
				wantFailure(t, a, ReasonIncomplete)
				return
			}
			agree(t, a.only(t), b.only(t))
			if a.done[0].RekeyID == old.RekeyID {
				t.Error("the new pair has the old pair's rekey ID")
			}
		})
	}
}

// rk changes the keys: two runs with equal randomness, with and without.
func TestRekeySecretChangesTheKeys(t *testing.T) {
	var confirm [2][]byte
	for i, rk := range [][32]byte{{}, {1}} {
		total := hash{2}
		s := newSchedule(testService, 7, &[32]byte{3}, &rk, []byte("dh"), id.ID{1}, id.ID{2}, total)
		confirm[i] = s.confirmation()
	}
	if bytes.Equal(confirm[0], confirm[1]) {
		t.Error("the rekey secret has no effect")
	}
}

func TestRekeySecretGoneByM3IsRefusedAndRetried(t *testing.T) {
	w, a, b := twoNodes(t)
	rk, rid := [32]byte{5}, [8]byte{6}
	a.rekeys[rid], b.rekeys[rid] = rk, rk
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA {
			delete(b.rekeys, rid)
		}
		return []packet{p}
	}
	w.initiate(a, b, func(x *Target) { x.RekeyID = &rid })
	w.run(time.Second)
	agree(t, a.only(t), b.only(t))
	if b.Stats().Drops(DropRefused) != 1 || a.Stats().Started.Load() != 1 {
		t.Errorf("refused %d", b.Stats().Drops(DropRefused))
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

func TestAnswersFromElsewhereAreDropped(t *testing.T) {
	for _, msg := range []uint8{msgHelloB, msgShareB} {
		w, a, b := twoNodes(t)
		w.bend = func(p packet) []packet {
			if p.msg() == msg {
				p.from = Path{Addr: netip.MustParseAddrPort("203.0.113.1:4500")}
			}
			return []packet{p}
		}
		w.initiate(a, b)
		w.run(time.Minute)
		if len(a.done) != 0 || !slices.Contains(a.drops, DropPath) {
			t.Errorf("message %d: drops %v", msg, a.drops)
		}
	}
}

func TestCookieIsForOnePath(t *testing.T) {
	for name, from := range map[string]Path{
		"address": {Addr: netip.MustParseAddrPort("192.0.2.77:4500")},
		"port":    {Addr: netip.MustParseAddrPort("192.0.2.1:4501")},
		"relay":   {Addr: netip.MustParseAddrPort("192.0.2.1:4500"), Relay: "x"},
	} {
		w, a, b := twoNodes(t)
		if a.addr.Addr.Addr() != netip.MustParseAddr("192.0.2.1") {
			a, b = b, a
		}
		w.bend = func(p packet) []packet {
			if p.msg() == msgShareA {
				p.from = from
			}
			return []packet{p}
		}
		w.initiate(a, b)
		w.run(time.Minute)
		if len(b.done) != 0 || b.halves.halves.len() != 0 || !slices.Contains(b.drops, DropCookie) {
			t.Errorf("%s: drops %v", name, b.drops)
		}
	}
}

func TestUnpaddedHelloIsDropped(t *testing.T) {
	for _, msg := range []uint8{1, 2} {
		for _, plain := range []int{0, HelloPlain - 1, HelloPlain + 1} {
			w, a, b := twoNodes(t)
			w.bend = func(p packet) []packet {
				if p.msg() == msg {
					p.Plain = plain
				}
				return []packet{p}
			}
			w.initiate(a, b)
			w.run(time.Second)
			if !slices.Contains(slices.Concat(a.drops, b.drops), DropPadding) || len(w.messages(msgShareA)) != 0 {
				t.Errorf("message %d with %d bytes of plaintext was taken", msg, plain)
			}
		}
	}
}

func TestInitiateIsOncePerPeerAndCancelEndsIt(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b)
	w.initiate(a, b)
	if len(a.sent) != 1 {
		t.Errorf("%d datagrams", len(a.sent))
	}
	a.Cancel(b.PID())
	a.Cancel(b.PID())
	a.idle(t)
	w.run(time.Minute)
	if len(a.done)+len(a.failed)+len(b.done) != 0 {
		t.Error("a cancelled exchange had an end")
	}
}

func TestCredentialCacheEnds(t *testing.T) {
	calls := 0
	var expires time.Time
	c := newCredentials(func(_ time.Time, cred []byte, _ uint32) (Peer, error) {
		calls++
		p, err := verifyTestCredential(time.Time{}, cred, 0)
		p.Expires = expires
		return p, err
	})
	n := newNode(t, "alpha", 1)
	ask := func(now time.Time, cred []byte, e uint32, want int) {
		t.Helper()
		if _, err := c.peer(now, cred, e); err != nil || calls != want {
			t.Errorf("VerifyCred called %d times, want %d (%v)", calls, want, err)
		}
	}
	now := testEpoch
	ask(now, n.cred, 7, 1)
	ask(now, n.cred, 7, 1)
	ask(now, n.cred, 8, 2)
	ask(now.Add(credentialLife), n.cred, 7, 3)
	c.known.clear()
	expires = now.Add(10 * time.Second)
	ask(now, n.cred, 7, 4)
	ask(now.Add(9*time.Second), n.cred, 7, 4)
	ask(now.Add(10*time.Second), n.cred, 7, 5)
	if _, err := c.peer(now, flip(n.cred, 3), 7); err == nil {
		t.Error("bad credential accepted")
	}
	c.verify = func(time.Time, []byte, uint32) (Peer, error) {
		return Peer{PID: id.Hash("x"), Key: n.cfg.Key.Public().(edPub)}, nil
	}
	if _, err := c.peer(now, []byte("x"), 7); !errors.Is(err, errForeignKey) {
		t.Errorf("a key that does not hash to the PID: %v", err)
	}
	c.verify = verifyTestCredential
	for i := range maxCredentials + 10 {
		m := newNode(t, "gamma", 3)
		ask2, err := c.peer(now, testCredential(authority, m.cfg.Key.Public().(edPub), 100+i%500), uint32(i))
		if err != nil || ask2.PID != m.PID() {
			t.Fatal(err)
		}
	}
	if c.known.len() > maxCredentials {
		t.Errorf("%d credentials remembered", c.known.len())
	}
}

func TestRevocationActsAtOnceAfterSetPolicy(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b)
	w.run(time.Second)
	a.only(t)
	revoked := false
	b.Machine.creds.verify = func(now time.Time, cred []byte, e uint32) (Peer, error) {
		if revoked {
			return Peer{}, errors.New("revoked")
		}
		return verifyTestCredential(now, cred, e)
	}
	revoked = true
	if err := b.SetPolicy([]Group{GroupHybrid}, []Suite{1}); err != nil {
		t.Fatal(err)
	}
	w.initiate(a, b)
	w.run(time.Minute)
	wantFailure(t, a, ReasonIncomplete)
	b.only(t)
}

// A choice that policy no longer allows by the time M3 comes is not honoured.
func TestPolicyChangeBetweenM2AndM3(t *testing.T) {
	w, a, b := twoNodes(t, withGroups(GroupHybrid, GroupX25519))
	b.SetPolicy([]Group{GroupX25519}, []Suite{1})
	changed := false
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA && !changed {
			changed = true
			if err := b.SetPolicy([]Group{GroupHybrid}, []Suite{1}); err != nil {
				t.Fatal(err)
			}
		}
		return []packet{p}
	}
	w.initiate(a, b)
	w.run(time.Minute)
	if r := a.only(t); r.Group != GroupHybrid || !slices.Contains(b.drops, DropNoCommon) {
		t.Errorf("agreed on %v", r.Group)
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	good := newNode(t, "alpha", 1).cfg
	for name, f := range map[string]func(*Config){
		"key":              func(c *Config) { c.Key = nil },
		"credential":       func(c *Config) { c.Credential = nil },
		"no suites":        func(c *Config) { c.Suites = nil },
		"seven suites":     func(c *Config) { c.Suites = []Suite{1, 2, 3, 4, 5, 6, 7} },
		"unknown suite":    func(c *Config) { c.Suites = []Suite{9} },
		"unknown group":    func(c *Config) { c.Groups = []Group{9} },
		"group twice":      func(c *Config) { c.Groups = []Group{1, 1} },
		"five groups":      func(c *Config) { c.Groups = []Group{1, 2, 3, 4, 5} },
		"empty group list": func(c *Config) { c.Groups = []Group{} },
	} {
		c := good
		f(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
