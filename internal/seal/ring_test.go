package seal

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
)

func TestMemberKeysCannotBeComputedBackwards(t *testing.T) {
	m := testMaster(t, 1, 5)
	k6 := member(t, m, 6)
	m.Next()
	if got := member(t, m, 6); !got.Equal(k6) {
		t.Error("K_6 differs before and after the ratchet")
	}
	if _, err := m.Member(5); !errors.Is(err, ErrEpochErased) {
		t.Errorf("Member of an erased epoch = %v", err)
	}
	if _, err := m.Member(6 + maxAhead + 1); !errors.Is(err, ErrEpochFar) {
		t.Errorf("Member of a far epoch = %v", err)
	}
	k := member(t, m, 6)
	k.Wipe()
	m.Wipe()
	if !bytes.Equal(k.Bytes(), make([]byte, keySize)) || !bytes.Equal(m.Bytes(), make([]byte, keySize)) {
		t.Error("Wipe leaves the key")
	}
}

func TestKeysOfWrongShapeAreRefused(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		if _, err := ParseMasterKey(1, make([]byte, n)); !errors.Is(err, ErrKeySize) {
			t.Errorf("ParseMasterKey of %d bytes = %v", n, err)
		}
		if _, err := ParseMemberKey(make([]byte, n)); !errors.Is(err, ErrKeySize) {
			t.Errorf("ParseMemberKey of %d bytes = %v", n, err)
		}
	}
	if _, err := ParseMasterKey(Newest, make([]byte, keySize)); !errors.Is(err, ErrEpoch) {
		t.Errorf("ParseMasterKey of epoch 0 = %v", err)
	}
	if _, err := NewMasterKey(1, bytes.NewReader(nil)); err == nil {
		t.Error("NewMasterKey without randomness succeeded")
	}
}

// TestEpochChange walks the clock through activation and grace.
func TestEpochChange(t *testing.T) {
	sender, r := newTestRing(t, "a"), newTestRing(t, "a")
	activate := start.Add(time.Hour)
	// A sender that sees 6 early, and one that still seals under 5.
	early := newTestRing(t, "a")
	early.cfg.Rand = &nonces{n: 1 << 30}
	if err := early.Activate(start, 6); err != nil {
		t.Fatal(err)
	}
	for i, s := range []struct {
		at       time.Duration
		current  uint32
		old, new Drop
	}{
		{0, 5, Passed, Passed},
		{-time.Millisecond, 5, Passed, Passed},
		{time.Hour - time.Millisecond, 5, Passed, Passed},
		{time.Hour, 6, Passed, Passed},
		{time.Hour + DefaultGrace - time.Millisecond, 6, Passed, Passed},
		{time.Hour + DefaultGrace, 6, DropEpoch, Passed},
	} {
		now := start.Add(s.at)
		// The sender of 5 has not heard of 6 at all.
		behind := NewRing(Config{Service: r.Service(), Rand: &nonces{n: uint64(i+1) << 40}})
		if err := behind.Install(sender.Epochs()[0]); err != nil {
			t.Fatal(err)
		}
		if got := r.Current(now); got != s.current {
			t.Fatalf("%v: current epoch %d, want %d", s.at, got, s.current)
		}
		wantDrop(t, r, now, mustSeal(t, behind, now, Newest, "old", 0), s.old)
		wantDrop(t, r, now, mustSeal(t, early, now, Newest, "new", 0), s.new)
		if _, ok := r.Key(now, 5); ok != (s.old == Passed) {
			t.Fatalf("%v: Key(5) = %v", s.at, ok)
		}
	}
	if d := newTestRing(t, "a").Deadline(start); !d.Equal(activate) {
		t.Errorf("Deadline = %v, want the activation", d)
	}
	if d := r.Deadline(activate); !d.Equal(activate.Add(DefaultGrace)) {
		t.Errorf("Deadline = %v, want the end of grace", d)
	}
	end := activate.Add(DefaultGrace)
	r.Tick(end)
	if e := r.Epochs(); len(e) != 1 || e[0].Number != 6 {
		t.Errorf("Tick left %v", e)
	}
	if d := r.Deadline(end); !d.IsZero() {
		t.Errorf("Deadline = %v, want never", d)
	}
	if err := r.Install(Epoch{Number: 4}); !errors.Is(err, ErrEpochPassed) {
		t.Errorf("Install of an old epoch = %v", err)
	}
}

func TestAnswersGoUnderTheQuerysEpoch(t *testing.T) {
	r := newTestRing(t, "a")
	o, _ := open(r, start, mustSeal(t, r, start, 6, "query of a fast clock", 0))
	if o.Epoch != 6 {
		t.Fatalf("opened under %d", o.Epoch)
	}
	o, d := open(r, start, mustSeal(t, r, start, o.Epoch, "answer", 0))
	if d != Passed || o.Epoch != 6 || r.Current(start) != 5 {
		t.Fatalf("answer under %d, %v; newest is %d", o.Epoch, d, r.Current(start))
	}
}

func TestEmergencyEpochHasNoGrace(t *testing.T) {
	r := newTestRing(t, "a")
	b := mustSeal(t, r, start, 5, "x", 0)
	e := r.Epochs()[1]
	e.ActivateAt, e.Grace = start, 0
	if err := r.Install(e); err != nil {
		t.Fatal(err)
	}
	wantDrop(t, r, start, b, DropEpoch)
	if _, err := r.Seal(nil, start, TypeDHT, 5, nil, 0); !errors.Is(err, ErrEpoch) {
		t.Errorf("Seal under the old epoch = %v", err)
	}
}

func TestNewestEpochNeverFallsWithTheClock(t *testing.T) {
	r := newTestRing(t, "a")
	if got := r.Current(start.Add(time.Hour)); got != 6 {
		t.Fatalf("current = %d", got)
	}
	if got := r.Current(start); got != 6 {
		t.Fatalf("current after the clock was set back = %d", got)
	}
}

func TestInstallRefusals(t *testing.T) {
	r := newTestRing(t, "a")
	if err := r.Install(Epoch{Number: 5}); !errors.Is(err, ErrEpochKey) {
		t.Errorf("another key for epoch 5 = %v", err)
	}
	if err := r.Install(Epoch{}); !errors.Is(err, ErrEpoch) {
		t.Errorf("epoch 0 = %v", err)
	}
	if err := r.Activate(start, 9); !errors.Is(err, ErrEpoch) {
		t.Errorf("Activate of an unknown epoch = %v", err)
	}
	for e := uint32(7); e <= 8; e++ {
		if err := r.Install(Epoch{Number: e, ActivateAt: start.Add(24 * time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Install(Epoch{Number: 9}); !errors.Is(err, ErrEpochCount) {
		t.Errorf("a fifth epoch = %v", err)
	}
	if r.Current(start) != 5 {
		t.Error("the current epoch was pushed out")
	}
}

func TestMemberThatWasAwayJumpsAhead(t *testing.T) {
	r := newTestRing(t, "a")
	old := mustSeal(t, r, start, Newest, "x", 0)
	if err := r.Install(Epoch{Number: 9, ActivateAt: start, Grace: DefaultGrace}); err != nil {
		t.Fatal(err)
	}
	// 5 is not 9-1: its grace is over, whatever the record of 9 says.
	wantDrop(t, r, start, old, DropEpoch)
	if r.Current(start) != 9 {
		t.Errorf("current = %d", r.Current(start))
	}
}

func TestRingWithoutActiveEpochOpensOnlyTheFirst(t *testing.T) {
	r := NewRing(Config{})
	if _, err := r.Seal(nil, start, TypeDHT, Newest, nil, 0); !errors.Is(err, ErrEpoch) {
		t.Errorf("Seal without keys = %v", err)
	}
	if _, d := r.Open(start, make([]byte, Overhead+1), testSource); d != DropType {
		t.Errorf("Open without keys = %v", d)
	}
	for e := uint32(1); e <= 2; e++ {
		if err := r.Install(Epoch{Number: e, ActivateAt: start.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := r.Key(start, 1); !ok {
		t.Error("the first epoch is not usable")
	}
	if _, ok := r.Key(start, 2); ok {
		t.Error("the second epoch is usable")
	}
	if err := r.Activate(start, 1); err != nil || r.Current(start) != 1 {
		t.Errorf("Activate = %v, current %d", err, r.Current(start))
	}
}

func TestRingsSelectByKid(t *testing.T) {
	a, b := newTestRing(t, "a"), newTestRing(t, "b")
	var s Rings
	if _, d := open(&s, start, mustSeal(t, a, start, Newest, "x", 0)); d != DropUnknown {
		t.Fatalf("empty Rings: %v", d)
	}
	s.Add(a)
	s.Add(b)
	for _, r := range []*Ring{a, b} {
		o, d := open(&s, start, mustSeal(t, r, start, Newest, "x", 0))
		if d != Passed || o.Service != r.Service() {
			t.Fatalf("Open = %+v, %v", o, d)
		}
		if s.Ring(r.Service()) != r || r.Stats().Opened() != 1 {
			t.Error("the Ring did not count its datagram")
		}
	}
	if _, d := open(&s, start, nil); d != DropLength || s.Stats().Dropped(DropLength) != 1 {
		t.Errorf("empty datagram: %v", d)
	}
	s.Tick(start.Add(2 * time.Hour))
	s.Remove(a.Service())
	if s.Ring(a.Service()) != nil || s.Ring(b.Service()) != b {
		t.Error("Remove took the wrong one")
	}
}

// TestRingsTryEveryMatch gives two services the same kid: each must still get
// its own datagrams, whichever is tried first.
func TestRingsTryEveryMatch(t *testing.T) {
	a, b := newTestRing(t, "a"), newTestRing(t, "b")
	forceKid(b, [4]byte{1, 2, 3, 4})
	forceKid(a, [4]byte{1, 2, 3, 4})
	var s Rings
	s.Add(a)
	s.Add(b)
	for _, r := range []*Ring{a, b, b, a} {
		datagram := mustSeal(t, r, start, Newest, "mine", 0)
		o, d := open(&s, start, datagram)
		if d != Passed || o.Service != r.Service() || string(o.Payload) != "mine" {
			t.Fatalf("Open = %+v, %v", o, d)
		}
		if _, d := open(&s, start, datagram); d != DropReplay {
			t.Fatalf("replay: %v", d)
		}
		datagram[len(datagram)-1] ^= 1
		if _, d := open(&s, start, datagram); d != DropForged {
			t.Fatalf("forged: %v", d)
		}
	}
	if n := s.Stats().Dropped(DropForged); n != 4 {
		t.Errorf("%d forgeries counted, want 4", n)
	}
}

func TestRingTriesEveryEpochOfOneKid(t *testing.T) {
	r := newTestRing(t, "a")
	forceKid(r, [4]byte{1, 2, 3, 4})
	for _, e := range []uint32{5, 6} {
		o, d := open(r, start, mustSeal(t, r, start, e, "x", 0))
		if d != Passed || o.Epoch != e {
			t.Fatalf("Open = %+v, %v", o, d)
		}
	}
}

// forceKid makes every key of r have the same kid.
func forceKid(r *Ring, kid [4]byte) {
	keys := slices.Clone(*r.keys.Load())
	for i, k := range keys {
		c := *k
		for t := range c.kid {
			c.kid[t] = kid
		}
		keys[i] = &c
	}
	r.keys.Store(&keys)
}

func TestTypesAndServicesHaveKeysOfTheirOwn(t *testing.T) {
	k := member(t, testMaster(t, 1, 1), 1)
	seen := map[string]bool{}
	for typ := TypeDHT; typ < typeEnd; typ++ {
		for _, svc := range []string{"a", "b"} {
			for e := uint32(1); e < 3; e++ {
				for _, label := range []string{"icvpn/1 seal", "icvpn/1 kid"} {
					seen[string(k.subkey(label, typ, id.Hash("test", []byte(svc)), e, 4))] = true
				}
			}
		}
	}
	if len(seen) != 6*2*2*2 {
		t.Errorf("%d different keys, want 48", len(seen))
	}
}

func TestNamesOfTypesAndDropsAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Drops() {
		seen[d.String()] = true
	}
	for typ := TypeDHT; typ < typeEnd; typ++ {
		seen[typ.String()] = true
	}
	if len(seen) != int(dropEnd)-1+6 || seen[""] || seen["unknown"] {
		t.Errorf("names: %v", seen)
	}
	if Type(9).String() != "unknown" || Drop(99).String() != "unknown" {
		t.Error("unknown values have names")
	}
}

func TestConcurrentUse(t *testing.T) {
	r := newTestRing(t, "a")
	r.cfg = Config{Service: r.cfg.Service}.withDefaults()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			r.Tick(start.Add(time.Duration(i) * time.Second))
			_ = r.Install(r.Epochs()[0])
			r.SetClockOffset(time.Duration(i) * time.Millisecond)
		}
	}()
	for range 200 {
		b, err := r.Seal(nil, start, TypeKE, Newest, []byte("x"), PadHello)
		if err != nil {
			t.Fatal(err)
		}
		if _, d := r.Open(start, b, testSource); d != Passed {
			t.Fatal(d)
		}
	}
	<-done
}
