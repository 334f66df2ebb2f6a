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
		GroupHybrid: {0, 1, 1, 2, 2}, GroupX25519: {0, 1, 1, 1, 1}, GroupMODP3072: {0, 1, 1, 2, 2}, GroupMODP2048: {0, 1, 1, 1, 1},
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
		if n != want {
			t.Errorf("%v: datagrams by message %v, want %v", g, n, want)
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
