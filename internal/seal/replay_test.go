package seal

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestOpenRejectsReplay(t *testing.T) {
	r := newTestRing(t, "a")
	b := mustSeal(t, r, start, Newest, "x", 0)
	wantDrop(t, r, start, b, Passed)
	for _, after := range []time.Duration{0, time.Second, Window, -Window} {
		wantDrop(t, r, start.Add(after), b, DropReplay)
	}
	wantDrop(t, r, start.Add(Window+time.Millisecond), b, DropTime)
}

func TestOpenRejectsReplayOfFutureStampUntilItLeavesTheWindow(t *testing.T) {
	sender, r := newTestRing(t, "a"), newTestRing(t, "a")
	b := mustSeal(t, sender, start.Add(Window), Newest, "x", 0)
	wantDrop(t, r, start, b, Passed)
	// 240 seconds of other traffic, so that generations roll over meanwhile.
	for s := range 241 {
		now := start.Add(time.Duration(s) * time.Second)
		wantDrop(t, r, now, mustSeal(t, sender, now, Newest, "y", 0), Passed)
		if s <= 240 {
			wantDrop(t, r, now, b, DropReplay)
		}
	}
	wantDrop(t, r, start.Add(2*Window+time.Millisecond), b, DropTime)
}

func TestReplayRejectsConcurrentCopies(t *testing.T) {
	r := newTestRing(t, "a")
	b := mustSeal(t, r, start, Newest, "x", 0)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { open(r, start, b) })
	}
	wg.Wait()
	if n, m := r.Stats().Opened(), r.Stats().Dropped(DropReplay); n != 1 || m != 15 {
		t.Errorf("%d passed and %d were replays, want 1 and 15", n, m)
	}
}

func TestFullSetShedsAllButAnswers(t *testing.T) {
	sender, r := newTestRing(t, "a"), newTestRing(t, "a")
	r.seen[TypeDHT].limit = 100
	r.cfg.IsAnswer = func(typ Type, p []byte) bool { return typ == TypeDHT && strings.HasPrefix(string(p), "answer") }
	for i := range 100 {
		from := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		if _, d := r.Open(start, mustSeal(t, sender, start, Newest, "query", 0), from); d != Passed {
			t.Fatalf("query %d of as many sources: %v", i, d)
		}
	}
	wantDrop(t, r, start, mustSeal(t, sender, start, Newest, "query", 0), DropBusy)
	wantDrop(t, r, start, mustSeal(t, sender, start, Newest, "answer", 0), Passed)
	// The other generation has room of its own, and time heals.
	later := start.Add(generationSpan)
	wantDrop(t, r, later, mustSeal(t, sender, later, Newest, "query", 0), Passed)
	later = later.Add(generationSpan)
	wantDrop(t, r, later, mustSeal(t, sender, later, Newest, "query", 0), Passed)
}

// TestFloodOfOneMemberShutsOutItself: it may use every address of its /64, and
// datagrams of every type.
func TestFloodOfOneMemberShutsOutItself(t *testing.T) {
	sender, r := newTestRing(t, "a"), newTestRing(t, "a")
	r.seen[TypeDHT].limit, r.seen[TypeKE].limit = 160, 160
	flood := netip.MustParseAddr("2001:db8:0:1::1")
	passed := 0
	for range 1000 {
		if _, d := r.Open(start, mustSeal(t, sender, start, Newest, "query", 0), flood); d == Passed {
			passed++
		}
		flood = flood.Next()
	}
	if passed != 80 {
		t.Errorf("%d datagrams of the flood passed, want 80: half of the set", passed)
	}
	for i := range 8 {
		if _, d := r.Open(start, mustSeal(t, sender, start, Newest, "query", 0), netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})); d != Passed {
			t.Errorf("another source: %v", d)
		}
	}
	ke, err := sender.Seal(nil, start, TypeKE, Newest, []byte("hello"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, d := r.Open(start, ke, flood); d != Passed {
		t.Errorf("a datagram of another type: %v", d)
	}
}

func TestDefaultSetHolds65536NoncesInEachGeneration(t *testing.T) {
	r := NewRing(Config{})
	var nonce [nonceSize]byte
	span := uint64(generationSpan.Milliseconds())
	for g := range uint64(2) {
		for i := range uint64(65537) {
			binary.BigEndian.PutUint64(nonce[:], i)
			want := nonceNew
			if i == 65536 {
				want = nonceFull
			}
			if got := r.seen[TypeDHT].add(g*span, nonce[:], source{of: i}); got != want {
				t.Fatalf("nonce %d of generation %d: %v", i, g, got)
			}
		}
	}
}

func TestNonceSetKeepsTheLaterGeneration(t *testing.T) {
	s := nonceSet{limit: 10}
	span := uint64(generationSpan.Milliseconds())
	nonce := make([]byte, nonceSize)
	for i, step := range []struct {
		at   uint64
		want nonceVerdict
	}{
		{5 * span, nonceNew}, {5 * span, nonceSeen}, {6 * span, nonceNew}, {6*span - 1, nonceSeen},
		{7 * span, nonceNew},  // takes the place of generation 5
		{5 * span, nonceLate}, // a concurrent caller whose clock lags
		{7 * span, nonceSeen}, // nothing was lost by it
		{6 * span, nonceSeen},
		{1 * span, nonceNew}, // the clock was set back by 20 minutes: start anew
		{1 * span, nonceSeen},
	} {
		if got := s.add(step.at, nonce, source{}); got != step.want {
			t.Fatalf("step %d: %v, want %v", i, got, step.want)
		}
	}
}

// TestNonceSetAgainstDumbTwin plays a forward-moving clock against a set that
// never forgets: within the window both must agree.
func TestNonceSetAgainstDumbTwin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	s := nonceSet{limit: 1 << 20}
	twin := map[[2]uint64]bool{}
	var sent [][2]uint64
	w := uint64(Window.Milliseconds())
	clock := uint64(1_700_000_000_000)
	nonce := make([]byte, nonceSize)
	for range 50000 {
		clock += rnd.Uint64N(200)
		e := [2]uint64{clock - w + rnd.Uint64N(2*w+1), rnd.Uint64()}
		if len(sent) > 0 && rnd.IntN(2) == 0 {
			e = sent[len(sent)-1-rnd.IntN(min(len(sent), 4000))]
		}
		if !fresh(e[0], clock) {
			continue
		}
		binary.BigEndian.PutUint64(nonce, e[1])
		want := nonceNew
		if twin[e] {
			want = nonceSeen
		}
		if got := s.add(e[0], nonce, source{}); got != want {
			t.Fatalf("at %d, stamp %d: %v, want %v", clock, e[0], got, want)
		}
		twin[e] = true
		sent = append(sent, e)
	}
}

// Peers behind relays have addresses of one prefix. Each is a source of its own, and all
// of them together, whom a relay that lies can invent, have a part.
func TestFloodThroughARelayShutsOutItself(t *testing.T) {
	s := nonceSet{limit: 16384}
	n := uint64(0)
	add := func(from netip.Addr) nonceVerdict {
		n++
		return s.add(1_700_000_000_000, binary.BigEndian.AppendUint64(nil, n), sourceOf(from))
	}
	behind := func(allocation uint64) netip.Addr {
		var a [16]byte
		a[0] = 1
		binary.BigEndian.PutUint64(a[8:], allocation)
		return netip.AddrFrom16(a)
	}
	direct := netip.MustParseAddr("203.0.113.5")
	for range s.limit {
		add(behind(1))
	}
	if v := add(behind(2)); v != nonceNew {
		t.Errorf("another peer behind a relay: verdict %d, want %d", v, nonceNew)
	}
	for i := range uint64(s.limit) {
		add(behind(3 + i))
	}
	if got := s.gens[0].relayed + s.gens[1].relayed; got != s.limit/relayedShare {
		t.Errorf("%d of %d came through relays, want %d", got, s.limit, s.limit/relayedShare)
	}
	if v := add(direct); v != nonceNew {
		t.Errorf("a peer that comes directly: verdict %d, want %d", v, nonceNew)
	}
	if sourceOf(behind(uint64(203<<24|113<<8|5))) == sourceOf(direct) {
		t.Error("a peer behind a relay shares a place with a direct one")
	}
}
