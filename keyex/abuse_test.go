package keyex

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
)

func (n *node) remembers() int {
	return len(n.own) + len(n.awaiting) + len(n.timers) + len(n.spis) + n.halves.halves.len() + len(n.halves.perSrc) +
		len(n.halves.perRelay) + n.quota.seen.len() + len(n.quota.perRelay) + n.answers.len() + len(n.perPeer) + n.creds.known.len()
}

func ipv4(i int) Path {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 0x0a000000+uint32(i))
	return Path{Addr: netip.AddrPortFrom(netip.AddrFrom4(a), 4500)}
}

func TestFloodLeavesNothingBehind(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b)
	w.run(time.Second)
	a.only(t)
	w.run(time.Hour) // everything of that exchange is forgotten
	m1 := w.messages(msgHelloA)[0].Payload
	hello, _ := parseM1(m1[headerSize:])
	m3 := bytes.Clone(w.messages(msgShareA)[0].Payload)
	if b.remembers() != 0 {
		t.Fatalf("%d things are remembered after an hour", b.remembers())
	}
	raw := bytes.Clone(m1[headerSize:])
	at := bytes.Index(raw, hello.NonceA[:])
	const flood = 100_000 / slow
	answers := 0
	for i := range flood {
		binary.BigEndian.PutUint32(raw[at:], uint32(i))
		x := addMessage(startHash(testService, 7), tagM1, raw)
		out := b.Receive(w.now, Input{From: ipv4(i), Epoch: 7, Plain: HelloPlain, Payload: fragment(msgHelloA, x, cookie{}, raw)[0]})
		answers += len(out.Send)
		binary.BigEndian.PutUint32(m3[3:], uint32(i))  // X
		binary.BigEndian.PutUint32(m3[36:], uint32(i)) // cookie
		m3[35] = byte(i)                               // its key
		if out := b.Receive(w.now, Input{From: ipv4(i), Epoch: 7, Payload: m3}); out.Drop != DropCookie {
			t.Fatalf("M3 with a bad cookie: %v", out.Drop)
		}
	}
	if answers != flood || b.remembers() != 0 {
		t.Errorf("%d answers; %d things are remembered", answers, b.remembers())
	}
	if !b.Deadline().IsZero() {
		t.Error("a timer is left")
	}
}

// half sends b the first half of an M3 with a cookie for X from path, as
// somebody would who has shown that he receives there.
func (n *node) half(now time.Time, path Path, i int) Drop {
	x := hash{}
	binary.BigEndian.PutUint32(x[:], uint32(i))
	p := fragment(msgShareA, x, n.cookies.issue(now, path, x), make([]byte, fragmentSize+1))[0]
	return n.Receive(now, Input{From: path, Epoch: 7, Payload: p}).Drop
}

func TestFragmentBuffersAreBounded(t *testing.T) {
	v6 := func(i int) Path {
		return Path{Addr: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 12: byte(i >> 8), 15: byte(i)}), uint16(i+1))}
	}
	relay := func(host int) func(int) Path {
		return func(int) Path { p := ipv4(host); p.Relay = "allocation"; return p }
	}
	for _, c := range []struct {
		name string
		path func(int) Path
		want int
	}{
		{"one IPv4 address", func(i int) Path { p := ipv4(1); p.Addr = netip.AddrPortFrom(p.Addr.Addr(), uint16(i+1)); return p }, fragmentsPerSource},
		{"one IPv6 /64", v6, fragmentsPerSource},
		{"one relay allocation", relay(1), fragmentsPerRelay},
		{"one relay, many allocations", func(i int) Path { p := ipv4(1); p.Relay = fmt.Sprint(i); return p }, fragmentsPerRelayHost},
		{"everybody", ipv4, fragmentsTotal},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, b := twoNodes(t)
			now := testEpoch
			for i := range c.want {
				if d := b.half(now, c.path(i), i); d != DropNone {
					t.Fatalf("half %d: %v", i, d)
				}
			}
			if d := b.half(now, c.path(0), 0); d != DropDuplicate {
				t.Errorf("first half again: %v", d)
			}
			if d := b.half(now, c.path(c.want), c.want); d != DropFragmentQuota {
				t.Errorf("one more: %v", d)
			}
			if got := b.Deadline(); !got.Equal(now.Add(fragmentLife)) {
				t.Errorf("deadline %v", got)
			}
			b.Tick(now.Add(fragmentLife))
			if b.remembers() != 0 {
				t.Errorf("%d things are remembered", b.remembers())
			}
			if d := b.half(now.Add(fragmentLife), c.path(c.want), c.want); d != DropNone {
				t.Errorf("after the buffers' end: %v", d)
			}
		})
	}
}

// A source whose M3s carry a good cookie and a bad signature costs a bounded
// number of signature checks.
func TestSourceQuotaBoundsSignatureChecks(t *testing.T) {
	for relay, limit := range map[string]int{"": requestsPerSource, "x": requestsPerRelay} {
		w, a, b := twoNodes(t, small)
		delete(w.nodes, a.addr)
		a.addr.Relay = relay
		w.nodes[a.addr] = a
		w.bend = func(p packet) []packet {
			if p.msg() == msgShareA {
				return nil
			}
			return []packet{p}
		}
		w.initiate(a, b)
		w.run(200 * time.Millisecond)
		m3 := w.messages(msgShareA)[0]
		for i := range 200 {
			p := m3
			p.Payload = flip(p.Payload, len(p.Payload)-1-i%60)
			p.Payload[len(p.Payload)-61] = byte(i)
			w.deliver(p)
		}
		if n := b.Stats().Drops(DropSignature); n != uint64(limit) || b.Stats().Drops(DropSourceQuota) != uint64(200-limit) {
			t.Errorf("%d signatures checked, want %d", n, limit)
		}
		w.bend = nil
		w.run(sourceWindow + 10*time.Second) // a tries on
		agree(t, a.only(t), b.only(t))
	}
	q := newRequestQuota()
	for i := range maxSources {
		if !q.allow(testEpoch, ipv4(i).source()) {
			t.Fatal("quota refuses the first of a source")
		}
	}
	if q.allow(testEpoch, ipv4(maxSources).source()) || !q.allow(testEpoch.Add(sourceWindow), ipv4(maxSources).source()) {
		t.Error("the table of sources is not bounded, or does not empty")
	}
}

// A relay that lies sees the cookies of all allocations that it makes up. They
// cost no more signatures than one relay may, and none of the table that others need.
func TestRelayWithMadeUpAllocationsDoesNotTakeTheQuotaOfAll(t *testing.T) {
	q, now := newRequestQuota(), testEpoch
	via := func(host, allocation int) source {
		p := ipv4(host)
		p.Relay = fmt.Sprint(allocation)
		return p.source()
	}
	const relays = 16
	for host := range relays {
		passed := 0
		for i := range maxSources {
			if q.allow(now, via(host, i)) {
				passed++
			}
		}
		if passed != requestsPerRelayHost {
			t.Errorf("%d M3s through relay %d get as far as a signature, want %d", passed, host, requestsPerRelayHost)
		}
	}
	for i := range maxSources / 2 {
		if !q.allow(now, ipv4(1000+i).source()) {
			t.Fatalf("direct peer %d is refused: relays have filled the table", i)
		}
	}
	// Many M3s of few allocations count as much as one each of many.
	now = now.Add(sourceWindow)
	passed := 0
	for i := range 2 * requestsPerRelayHost {
		if q.allow(now, via(1, i/requestsPerRelay)) {
			passed++
		}
	}
	if passed != requestsPerRelayHost {
		t.Errorf("%d M3s in the next window, want %d", passed, requestsPerRelayHost)
	}
	if q.seen.expire(now.Add(sourceWindow)); len(q.perRelay) != 0 {
		t.Errorf("%d relays are remembered", len(q.perRelay))
	}
}

func TestPeerQuotaIsRefusedAsBusy(t *testing.T) {
	w, a, b := twoNodes(t, small)
	for range maxAnswersPerPeer {
		w.initiate(a, b)
		w.run(time.Second)
	}
	if len(a.done) != maxAnswersPerPeer {
		t.Fatalf("%d completed: %v", len(a.done), a.failed)
	}
	w.initiate(a, b)
	w.run(time.Second)
	if f := wantFailure(t, a, ReasonRefused); f.Status != StatusBusy {
		t.Errorf("%v", f)
	}
	c := newNode(t, "gamma", 3, small)
	w.nodes[c.addr] = c
	w.initiate(c, b)
	w.run(time.Second)
	c.only(t)
	w.run(answerLife)
	w.initiate(a, b)
	w.run(time.Second)
	if len(a.done) != maxAnswersPerPeer+1 {
		t.Errorf("still refused: %v", a.failed)
	}
	w.checkPairs()
}

func TestFullAnswerTableRefusesAndEvictsNothing(t *testing.T) {
	w, a, b := twoNodes(t, small)
	w.initiate(a, b)
	w.run(time.Second)
	for i := 0; b.answers.len() < maxAnswers; i++ {
		var x hash
		binary.BigEndian.PutUint32(x[:], uint32(i))
		r := &request{h3: x}
		r.hello.PIDA = id.ID{1, byte(i >> 8), byte(i)}
		b.keepAnswer(w.now, r, [][]byte{{1}})
	}
	c := newNode(t, "gamma", 3, small)
	w.nodes[c.addr] = c
	w.initiate(c, b)
	w.run(time.Second)
	if f := wantFailure(t, c, ReasonRefused); f.Status != StatusBusy {
		t.Errorf("%v", f)
	}
	n := len(b.sent)
	for _, p := range w.messages(msgShareA)[:1] {
		w.deliver(p)
	}
	if len(b.sent) == n {
		t.Error("an answer was evicted")
	}
}

func TestOwnExchangesAreBounded(t *testing.T) {
	_, a, b := twoNodes(t)
	for i := range maxOwn {
		out := a.Initiate(testEpoch, Target{PID: id.Hash(fmt.Sprint(i)), Paths: []Path{b.addr}, Epoch: 7})
		if len(out.Failed) != 0 {
			t.Fatal(out.Failed)
		}
	}
	if out := a.Initiate(testEpoch, Target{PID: b.PID(), Paths: []Path{b.addr}, Epoch: 7}); len(out.Failed) != 1 || out.Failed[0].Reason != ReasonLocal {
		t.Errorf("%v", out)
	}
	var failed int
	for now := testEpoch; !a.Deadline().IsZero(); now = a.Deadline() {
		failed += len(a.Tick(now).Failed)
	}
	if failed != maxOwn || a.remembers() != 0 {
		t.Errorf("%d failed, %d things remembered", failed, a.remembers())
	}
}

func TestSPIsOfExchangesUnderWayAreKeptApart(t *testing.T) {
	spis := []uint32{0, 255, 1000, 1000, 1000, 1001}
	next := func() uint32 { s := spis[0]; spis = append(spis[1:], spis[0]); return s }
	w, a, b := twoNodes(t, func(c *Config) { c.NewSPI = next })
	c := newNode(t, "gamma", 3)
	w.nodes[c.addr] = c
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA {
			return nil
		}
		return []packet{p}
	}
	w.initiate(a, b)
	w.initiate(a, c)
	w.run(200 * time.Millisecond)
	if got := slices.Sorted(maps.Keys(a.spis)); !slices.Equal(got, []uint32{1000, 1001}) {
		t.Errorf("SPIs %v", got)
	}
	w, a, b = twoNodes(t, func(c *Config) { c.NewSPI = func() uint32 { return 1 } })
	w.initiate(a, b)
	w.run(time.Second)
	if !slices.Contains(a.drops, DropLocal) {
		t.Errorf("drops %v", a.drops)
	}
}

func TestNamesOfDropsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range DropReasons() {
		if d.String() == "" || d.String() == "none" || seen[d.String()] {
			t.Errorf("reason %d is called %q", d, d)
		}
		seen[d.String()] = true
	}
	if Drop(200).String() != "unknown drop" || new(Stats).Drops(200) != 0 {
		t.Error("an unknown reason")
	}
}
