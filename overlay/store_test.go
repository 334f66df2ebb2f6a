package overlay

import (
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/id"
)

var (
	day     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	source  = sourceAccount(netip.MustParseAddr("192.0.2.1"))
	source2 = sourceAccount(netip.MustParseAddr("192.0.2.2"))
)

// testStore has room for 20 entries of strangers, 10 of members, 20 of super peers.
func testStore() *store {
	return newStore(limits{usage: usage{40, 32 << 10}, perKey: 3, perReplica: 4, perSource: 4}, time.Hour)
}

func signed(salt string, seq int64, value string) Item {
	return SignItem(testKey, []byte(salt), seq, []byte(value))
}

func TestStoreTakesOnlyNewerItems(t *testing.T) {
	s := testStore()
	forged := signed("", 9, "forged")
	forged.Sig[0] ^= 1
	foreign := signed("", 9, "x")
	foreign.Salt = []byte("other")
	for i, step := range []struct {
		it   Item
		want int64
		seq  int64 // stored afterwards
	}{
		{signed("", 2, "two"), 0, 2},
		{signed("", 2, "two"), 0, 2},              // again: refreshes
		{signed("", 1, "one"), codeSequence, 2},   // rollback
		{signed("", 2, "twin"), codeSequence, 2},  // same number, other value
		{forged, codeSignature, 2},                // forged
		{foreign, codeSignature, 2},               // signed for another salt
		{signed("", 3, "three"), 0, 3},            // newer
		{signed("", 4, ""), 0, 4},                 // withdrawn
		{signed("", 3, "three"), codeSequence, 4}, // and not back
	} {
		if code := s.putItem(day, step.it, source); code != step.want {
			t.Errorf("step %d: code %d, want %d", i, code, step.want)
		}
		if it, _ := s.get(day, Target(step.it.Key, nil)); it.Seq != step.seq {
			t.Errorf("step %d: seq %d stored, want %d", i, it.Seq, step.seq)
		}
	}
}

func TestStoreRefusesWhatIsTooLong(t *testing.T) {
	s := testStore()
	if code := s.putItem(day, SignItem(testKey, nil, 1, make([]byte, MaxValue+1)), source); code != codeTooBig {
		t.Errorf("value: code %d", code)
	}
	if code := s.putItem(day, SignItem(testKey, make([]byte, MaxSalt+1), 1, nil), source); code != codeSalt {
		t.Errorf("salt: code %d", code)
	}
	if code := s.putItem(day, Item{Key: []byte("short")}, source); code != codeProtocol {
		t.Errorf("key: code %d", code)
	}
	if code := s.putChunk(day, make([]byte, MaxValue+1), source, 0); code != codeTooBig {
		t.Errorf("chunk: code %d", code)
	}
	if n, b := s.size(); n != 0 || b != 0 {
		t.Errorf("%d items, %d bytes stored", n, b)
	}
}

func TestStoreExpires(t *testing.T) {
	s := testStore()
	it := signed("", 1, "x")
	s.putItem(day, it, source)
	s.putChunk(day, chunk("chunk"), source, 0)
	s.putItem(day.Add(40*time.Minute), it, source2) // refreshed
	if _, ok := s.get(day.Add(61*time.Minute), Target(it.Key, nil)); !ok {
		t.Error("a refreshed item expired")
	}
	s.sweep(day.Add(61 * time.Minute))
	if n, _ := s.size(); n != 1 {
		t.Errorf("%d items after the chunk's expiry, want 1", n)
	}
	if _, ok := s.get(day.Add(100*time.Minute), Target(it.Key, nil)); ok {
		t.Error("an expired item was returned")
	}
	s.sweep(day.Add(100 * time.Minute))
	checkEmpty(t, s)
	// After the expiry of what was newer, an older one is taken: readers ask several
	// nodes, and the item's own content says when it ends.
	if code := s.putItem(day.Add(3*time.Hour), it, source); code != 0 {
		t.Errorf("code %d", code)
	}
}

func TestStoreKeepsCopies(t *testing.T) {
	s := testStore()
	it := signed("salt", 1, "value")
	target := Target(it.Key, it.Salt)
	s.putItem(day, it, source)
	it.Value[0], it.Salt[0] = 'X', 'X'
	if got, _ := s.get(day, target); !got.Verify() {
		t.Error("the store kept the caller's slices")
	}
}

func TestChunkIsStoredUnderItsHash(t *testing.T) {
	s := testStore()
	c := chunk("hello")
	s.putChunk(day, c, source, 0)
	got, ok := s.get(day, id.ID(unhex(t, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c")))
	if !ok || string(got.Value) != "hello" || got.Key != nil {
		t.Errorf("get = %+v, %v", got, ok)
	}
}
