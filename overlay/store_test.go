package overlay

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/id"
)

var (
	day     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	source  = netip.MustParseAddr("192.0.2.1")
	source2 = netip.MustParseAddr("192.0.2.2")
)

func testStore() *store {
	return newStore(limits{items: 10, bytes: 8 << 10, perKey: 3, perSource: 4, expiry: time.Hour})
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
	if code := s.putChunk(day, make([]byte, MaxValue+1), source); code != codeTooBig {
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
	s.putChunk(day, chunk("chunk"), source)
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
	if n, b := s.size(); n != 0 || b != 0 || len(s.perKey) != 0 || len(s.perSource) != 0 {
		t.Errorf("left over: %d items, %d bytes, %v, %v", n, b, s.perKey, s.perSource)
	}
	// After the expiry of what was newer, an older one is taken: readers ask several
	// nodes, and the item's own content says when it ends.
	if code := s.putItem(day.Add(3*time.Hour), it, source); code != 0 {
		t.Errorf("code %d", code)
	}
}

func TestStoreQuotas(t *testing.T) {
	s := testStore()
	for i := range 3 {
		if code := s.putItem(day, signed(fmt.Sprint(i), 1, "x"), source); code != 0 {
			t.Fatalf("item %d: code %d", i, code)
		}
	}
	if code := s.putItem(day, signed("3", 1, "x"), source2); code != codeFull {
		t.Errorf("fourth item of a key: code %d", code)
	}
	if code := s.putItem(day, signed("0", 2, "y"), source2); code != 0 {
		t.Errorf("replacing within the quota: code %d", code)
	}
	if code := s.putItem(day, signed("3", 1, "x"), own); code != 0 {
		t.Errorf("own item: code %d", code)
	}
	if code := s.putChunk(day, chunk("1"), source); code != 0 {
		t.Errorf("fourth entry of a source: code %d", code)
	}
	if code := s.putChunk(day, chunk("2"), source); code != codeFull {
		t.Errorf("fifth entry of a source: code %d", code)
	}
	for i := range 5 {
		if code := s.putChunk(day, chunk(fmt.Sprint("own", i)), own); code != 0 {
			t.Fatalf("own chunk %d: code %d", i, code)
		}
	}
	if code := s.putChunk(day, chunk("own6"), own); code != codeFull {
		t.Errorf("beyond the item limit: code %d", code)
	}
	if n, _ := s.size(); n != 10 {
		t.Errorf("%d items", n)
	}
}

func TestStoreBoundsBytes(t *testing.T) {
	s := newStore(limits{items: 100, bytes: 4 * (MaxValue + entryOverhead), perKey: 100, perSource: 100, expiry: time.Hour})
	for i := range 8 {
		s.putItem(day, SignItem(testKey, []byte{byte(i)}, 1, make([]byte, MaxValue-1)), source)
	}
	if n, b := s.size(); n != 4 || b > s.limits.bytes {
		t.Errorf("%d items, %d bytes", n, b)
	}
	// Growing an item counts too.
	s = newStore(limits{items: 100, bytes: 300, perKey: 100, perSource: 100, expiry: time.Hour})
	s.putItem(day, signed("", 1, "x"), source)
	if code := s.putItem(day, SignItem(testKey, nil, 2, make([]byte, 100)), source); code != codeFull {
		t.Errorf("growing beyond the limit: code %d", code)
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
	s.putChunk(day, c, source)
	got, ok := s.get(day, id.ID(unhex(t, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c")))
	if !ok || string(got.Value) != "hello" || got.Key != nil {
		t.Errorf("get = %+v, %v", got, ok)
	}
}
