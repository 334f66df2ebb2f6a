package overlay

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/id"
)

// peerOf is another machine at the other end of a wire without delay.
func peerOf(t testing.TB, name string, boot ...netip.AddrPort) *Machine {
	t.Helper()
	m, err := NewMachine(Config{
		Self: id.Hash(name), Bootstrap: func() []netip.AddrPort { return boot },
		Rand: rand.NewPCG(1, 2),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// exchange passes datagrams on until there are none.
func exchange(now time.Time, machines map[netip.AddrPort]*Machine) (passed int) {
	type flight struct {
		pkt      []byte
		from, to netip.AddrPort
	}
	addrs := []netip.AddrPort{}
	for a := range machines {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	for {
		var air []flight
		for _, a := range addrs {
			machines[a].Tick(now)
			machines[a].Flush(func(d Datagram) error {
				air = append(air, flight{slices.Clone(d.Pkt), a, d.To})
				return nil
			})
		}
		if len(air) == 0 {
			return passed
		}
		for _, f := range air {
			passed++
			if to := machines[f.to]; to != nil {
				to.Receive(now, f.pkt, f.from, nil)
			}
		}
	}
}

func TestMachinesMeetAndServeEachOther(t *testing.T) {
	a, b := peerOf(t, "a", at(2)), peerOf(t, "b")
	both := map[netip.AddrPort]*Machine{at(1): a, at(2): b}
	a.Start(day)
	b.Start(day)
	exchange(day, both)
	if !a.Reached() || !b.Reached() || len(a.Nodes()) != 1 || len(b.Nodes()) != 1 {
		t.Fatalf("a knows %v, b %v", a.Nodes(), b.Nodes())
	}
	it := signed("", 1, "x")
	acks := 0
	a.Put(it, func(n int, err error) {
		if acks = n; err != nil {
			t.Error(err)
		}
	})
	exchange(day, both)
	if acks != 2 {
		t.Errorf("%d acknowledgements", acks)
	}
	found := false
	b.Get(it.Key, nil, func(got Item, hops int, err error) { found = got.equal(it) && err == nil })
	exchange(day, both)
	exchange(day.Add(time.Second), both)
	if !found {
		t.Error("not found")
	}
}

// A machine takes the same steps again for the same events and seed.
func TestMachineIsDeterministic(t *testing.T) {
	run := func() (sent [][]byte) {
		m := peerOf(t, "m", at(2), at(3), at(4))
		m.Start(day)
		for i := range 200 {
			now := day.Add(time.Duration(i) * time.Second)
			m.Tick(now)
			for j := range byte(9) {
				msg := message{kind: query, q: get, t: []byte{j}, id: id.Hash("n", []byte{j}), target: testTarget, has: hasArgs | hasID | hasTarget}
				m.Receive(now, msg.append(nil), at(10+j), nil)
			}
			m.Flush(func(d Datagram) error {
				sent = append(sent, slices.Clone(d.Pkt))
				return nil
			})
		}
		return sent
	}
	if one, two := run(), run(); !slices.EqualFunc(one, two, slices.Equal) || len(one) < 1000 {
		t.Errorf("%d and %d datagrams, not the same", len(one), len(two))
	}
}

func TestCallsOfAMachineThatDoesNotRun(t *testing.T) {
	m := peerOf(t, "m", at(2)) // who is silent
	ended := 0
	check := func(err error) {
		if ended++; !errors.Is(err, ErrNotRunning) {
			t.Errorf("call %d: %v", ended, err)
		}
	}
	calls := func() {
		m.Get(testKey.Public().(ed25519.PublicKey), nil, func(_ Item, _ int, err error) { check(err) })
		m.Put(signed("", 1, "x"), func(_ int, err error) { check(err) })
		m.GetObject(testKey.Public().(ed25519.PublicKey), []byte("object"), -1, func(_ []byte, _ Item, err error) { check(err) })
		m.PutObject(Object{Root: signed("", 1, "x")}, func(_ int, err error) { check(err) })
		m.Ping(at(2), func(_ id.ID, err error) { check(err) })
	}
	calls()
	m.Start(day)
	m.AddNode(at(3))
	calls()
	if ended != 5 {
		t.Errorf("%d calls ended", ended)
	}
	m.Stop(day)
	calls()
	if ended != 15 {
		t.Errorf("%d calls ended", ended)
	}
	m.Tick(day.Add(time.Hour))
	sent := 0
	m.Flush(func(Datagram) error { sent++; return nil })
	if sent > 0 || len(m.timers.heap) > 0 || len(m.calls) > 0 {
		t.Errorf("after Stop: %d datagrams, %d timers, %d calls", sent, len(m.timers.heap), len(m.calls))
	}
	if m.Unpublish(nil, nil) {
		t.Error("a publication that never was")
	}
}

// What comes after its query was given up shows that the node lives.
func TestLateAnswerCountsAsHeard(t *testing.T) {
	m := peerOf(t, "m")
	m.Start(day)
	err := error(nil)
	m.Ping(at(2), func(_ id.ID, e error) { err = e })
	var asked message
	m.Flush(func(d Datagram) error { asked, _ = parse(slices.Clone(d.Pkt)); return nil })
	for range 5 {
		now := m.Wake()
		m.Tick(now)
		if now.Sub(day) > m.cfg.Resend*2 {
			break
		}
	}
	if !errors.Is(err, ErrUnreachable) {
		t.Fatalf("Ping: %v", err)
	}
	late := message{kind: response, t: asked.t, id: testID, has: hasResults | hasID}
	m.Receive(m.now, late.append(nil), at(2), nil)
	if nodes := m.Nodes(); len(nodes) != 1 || nodes[0] != (Node{testID, at(2)}) {
		t.Errorf("contacts %v", nodes)
	}
	m.Receive(m.now, late.append(nil), at(3), nil)
	if m.stats.Dropped(DropUnasked) != 1 {
		t.Error("an answer from elsewhere was taken")
	}
}

func TestTimersFireInOrderAndOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var ts timers
	var fired []int
	var all []*timer
	for i := range 1000 {
		all = append(all, ts.at(day.Add(time.Duration(r.IntN(50))*time.Second), func() { fired = append(fired, i) }))
	}
	stopped := map[int]bool{}
	for range 300 {
		i := r.IntN(len(all))
		stopped[i] = true
		ts.stop(all[i])
	}
	for now := day; len(ts.heap) > 0; now = now.Add(time.Second) {
		for x := ts.due(now); x != nil; x = ts.due(now) {
			x.fire()
		}
	}
	if len(fired) != 1000-len(stopped) {
		t.Errorf("%d fired", len(fired))
	}
	for i, n := range fired {
		if stopped[n] || i > 0 && (all[n].at.Before(all[fired[i-1]].at) || all[n].at.Equal(all[fired[i-1]].at) && n < fired[i-1]) {
			t.Fatalf("timer %d at place %d", n, i)
		}
	}
	ts.stop(nil)
	ts.stop(all[0])
}

// A contact is asked the less often the longer it has answered, a failing one soon.
func TestContactsAreAskedLessOftenWithTime(t *testing.T) {
	const shortest, longest = time.Minute, 15 * time.Minute
	tab := newTable(id.ID{}, bucketSize)
	n := Node{id.ID{0x80, 19: 128}, at(1)} // the part that depends on the ID is 1
	now := day
	tab.onAnswer(now, n)
	var waits []time.Duration
	for range 8 {
		asked := now
		for len(tab.due(now, shortest, longest, 8)) == 0 {
			now = now.Add(time.Second)
		}
		waits = append(waits, now.Sub(asked))
		tab.onAnswer(now, n)
	}
	minutes := []float64{1, 1, 2, 4, 8, 15, 15, 15}
	for i := range waits {
		if waits[i].Round(time.Minute).Minutes() != minutes[i] {
			t.Errorf("waits %v, want about %v minutes", waits, minutes)
			break
		}
	}
	tab.onAsked(n, now)
	tab.onSilence(now, n.Addr, now, true)
	if len(tab.due(now.Add(shortest/4), shortest, longest, 8)) != 1 {
		t.Error("a failing contact is not asked soon")
	}
	tab.onAnswer(now, n)
	if len(tab.due(now.Add(shortest+time.Second), shortest, longest, 8)) != 1 {
		t.Error("after a silence a contact is trusted as before")
	}
}

// A query from its proved address counts as heard, though not for ever, and not
// from another address.
func TestQueriesOfAContactCountAsHeard(t *testing.T) {
	const shortest, longest = time.Minute, 15 * time.Minute
	tab := newTable(id.ID{}, bucketSize)
	n := Node{far(1), at(1)}
	tab.onAnswer(day, n)
	now := day
	for now.Sub(day) < 29*time.Minute {
		now = now.Add(50 * time.Second)
		if len(tab.due(now, shortest, longest, 8)) > 0 {
			t.Fatalf("asked after %v although it was heard", now.Sub(day))
		}
		if !tab.onQuery(now, n) || tab.onQuery(now, Node{far(1), at(2)}) || tab.onQuery(now, Node{far(2), at(1)}) {
			t.Fatal("known by its ID or address alone")
		}
	}
	if len(tab.due(day.Add(31*time.Minute), shortest, longest, 8)) != 1 {
		t.Error("never asked again")
	}
}

// Buckets without a walk are walked through, and the walk goes where they are; those
// that were filled at once later than those that were not.
func TestUntouchedBucketsAreRefreshed(t *testing.T) {
	m := peerOf(t, "m")
	for i := range 40 {
		m.table.onAnswer(day, Node{id.Hash("n", []byte{byte(i)}), at(byte(i))})
	}
	if i, ok := m.table.untouched(day.Add(-time.Hour)); !ok || len(m.table.buckets[i].contacts) >= bucketSize {
		t.Errorf("first bucket %d", i)
	}
	seen := map[int]bool{}
	for range 160 {
		i, ok := m.table.untouched(day)
		if !ok {
			break
		}
		target := m.idInBucket(i)
		if at := m.cfg.Self.Distance(target).LeadingZeros(); at != i {
			t.Fatalf("an ID for bucket %d is in %d", i, at)
		}
		m.table.touch(day.Add(time.Second), target)
		seen[i] = true
	}
	if !seen[0] || !seen[1] || len(seen) > 6 {
		t.Errorf("buckets %v", seen)
	}
	if _, ok := m.table.untouched(day.Add(time.Minute)); !ok {
		t.Error("never again")
	}
	for i := range 160 {
		if at := m.cfg.Self.Distance(m.idInBucket(i)).LeadingZeros(); at != i {
			t.Errorf("an ID for bucket %d is in %d", i, at)
		}
	}
}

// When many are silent the others are asked more often.
func TestPatienceEndsWhenManyAreSilent(t *testing.T) {
	m := peerOf(t, "m")
	if p := m.patience(); p != maxPatience*m.cfg.Revalidate {
		t.Errorf("patience %v while all answer", p)
	}
	m.upkeep.silence = 0.25
	if p := m.patience(); p != m.cfg.Revalidate {
		t.Errorf("patience %v while a quarter is silent", p)
	}
}

func TestStatsCountByType(t *testing.T) {
	a, b := peerOf(t, "a", at(2)), peerOf(t, "b")
	both := map[netip.AddrPort]*Machine{at(1): a, at(2): b}
	a.Start(day)
	b.Start(day)
	exchange(day, both)
	a.Put(signed("", 1, "x"), func(int, error) {})
	exchange(day, both)
	for _, typ := range MessageTypes() {
		out, in := a.stats.Sent(typ), b.stats.ReceivedOf(typ)
		if out.Messages.Load() != in.Messages.Load() || out.Bytes.Load() != in.Bytes.Load() {
			t.Errorf("%v: %d sent, %d received", typ, out.Messages.Load(), in.Messages.Load())
		}
		if sent := out.Messages.Load(); (sent == 0) != (typ == MessageRefusal) {
			t.Errorf("%v: %d sent", typ, sent)
		}
	}
	if n := a.stats.Sent(MessageGet); n.Bytes.Load() != n.Messages.Load()*MaxPayload {
		t.Errorf("%d gets are %d bytes", n.Messages.Load(), n.Bytes.Load())
	}
	c := peerOf(t, "c", at(2))
	both[at(3)] = c
	c.Start(day)
	exchange(day, both)
	hops := 0
	c.Get(testKey.Public().(ed25519.PublicKey), nil, func(_ Item, h int, _ error) { hops = h })
	exchange(day, both)
	exchange(day.Add(time.Second), both)
	if h := c.stats.Hops(); hops != 1 || h[0] != 1 {
		t.Errorf("found after %d hops, counted %v", hops, h)
	}
}

// A node that loses its contacts does not wait for a bootstrap planned in better
// times.
func TestLostContactsHurryTheBootstrap(t *testing.T) {
	for left, most := range map[int]time.Duration{0: 2 * lastRetry, 3: 2 * time.Minute, 30: 20 * time.Minute} {
		m := peerOf(t, "m")
		m.Start(day)
		for i := range left {
			m.table.onAnswer(day, Node{id.Hash("n", []byte{byte(i)}), at(byte(i))})
		}
		m.timers.stop(m.upkeep.timer)
		m.upkeep.timer = m.after(20*time.Minute, m.bootstrap)
		m.hurry()
		if wait := m.upkeep.timer.at.Sub(day); wait > most || left == 30 && wait < most {
			t.Errorf("with %d contacts in %v", left, wait)
		}
	}
}

// Whatever comes from wherever, a machine in the middle of everything neither
// panics nor sends a stranger more than he sent.
func FuzzMachine(f *testing.F) {
	for _, m := range largest() {
		f.Add(m.append(nil), byte(2))
	}
	f.Add([]byte("d1:q3:put1:t2:aa1:y1:qe"), byte(1))
	f.Fuzz(func(t *testing.T, pkt []byte, from byte) {
		m := peerOf(t, "m", at(2), at(3))
		m.Start(day)
		m.table.onAnswer(day, Node{testID, at(4)})
		obj, err := NewObject(testKey, nil, 1, make([]byte, 2000))
		if err != nil {
			t.Fatal(err)
		}
		m.Get(testKey.Public().(ed25519.PublicKey), nil, func(Item, int, error) {})
		m.PutObject(obj, func(int, error) {})
		m.GetObject(testKey.Public().(ed25519.PublicKey), []byte("x"), -1, func([]byte, Item, error) {})
		// As it is, and as the answer to each query in flight.
		pkts := [][]byte{pkt}
		if msg, why := parse(pkt); why == DropNone {
			m.Flush(func(d Datagram) error {
				q, _ := parse(d.Pkt)
				answer := msg
				answer.t = slices.Clone(q.t)
				pkts = append(pkts, answer.append(nil))
				return nil
			})
		}
		now := day
		for _, p := range pkts {
			now = now.Add(time.Millisecond)
			m.Flush(func(Datagram) error { return nil })
			m.Receive(now, p, at(from), nil)
			m.Receive(now, p, at(2), nil)
			for i, s := range m.out.sends {
				begin := 0
				if i > 0 {
					begin = m.out.sends[i-1].end
				}
				if s.answer && s.end-begin > PaddedLen(p) {
					t.Errorf("%d bytes answer %q", s.end-begin, p)
				}
			}
		}
		for range 100 {
			m.Tick(m.Wake())
		}
		m.Stop(m.now)
	})
}

// A running node is one goroutine, however much it has to do.
func TestOverlayIsOneGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := New(Config{Self: testID, Transport: nowhere{}, Bootstrap: func() []netip.AddrPort { return []netip.AddrPort{at(2), at(3)} }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		before := goroutinesHere()
		done := make(chan error)
		go func() { done <- o.Run(ctx) }()
		for i := range 50 {
			if err := o.Publish(SignItem(testKey, []byte{byte(i)}, 1, nil)); err != nil {
				t.Error(err)
			}
			o.AddNode(at(byte(i)))
		}
		time.Sleep(time.Minute)
		if n := goroutinesHere() - before; n != 1 {
			t.Errorf("%d goroutines", n)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// goroutinesHere counts those of this bubble: others may be ending meanwhile.
func goroutinesHere() int {
	all := make([]byte, 1<<20)
	return bytes.Count(all[:runtime.Stack(all, true)], []byte("synctest bubble"))
}

// A member that queries from ever new addresses, which stay silent, neither takes
// the places of upkeep nor has anybody pinged more than once for it.
func TestSilentVisitorsLeavePlacesForUpkeep(t *testing.T) {
	m := peerOf(t, "a")
	m.Start(day)
	for i := range 4 * verifyQueue {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i / 4), byte(i)}), 4500)
		q := message{kind: query, q: ping, id: id.ID{1, byte(i), byte(i >> 8)}, has: hasArgs | hasID, t: []byte("t")}
		m.Receive(day, q.append(nil), from, nil)
	}
	if len(m.verifying) != verifyQueue/2 {
		t.Errorf("%d of %d places taken, want half", len(m.verifying), verifyQueue)
	}
	for p, n := range m.visits {
		if n > visitsPerPrefix {
			t.Errorf("%d visits in %v", n, p)
		}
	}
	pings := map[netip.AddrPort]int{}
	for at := day; at.Before(day.Add(20 * time.Second)); at = at.Add(100 * time.Millisecond) {
		m.Tick(at)
		m.Flush(func(d Datagram) error {
			if bytes.Contains(d.Pkt, []byte("4:ping")) {
				pings[d.To]++
			}
			return nil
		})
	}
	for to, n := range pings {
		if n != 1 {
			t.Errorf("%v was pinged %d times", to, n)
		}
	}
	if len(pings) != verifyQueue/2 || len(m.visits) != 0 || m.visiting != 0 {
		t.Errorf("%d pinged, %d visits left", len(pings), m.visiting)
	}
}
