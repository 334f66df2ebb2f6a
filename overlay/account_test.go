package overlay

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/id"
)

func checkEmpty(t *testing.T, s *store) {
	t.Helper()
	if n, b := s.size(); n != 0 || b != 0 || s.books.classes != [numClasses]usage{} ||
		len(s.books.accounts) != 0 || len(s.books.wider) != 0 || len(s.kept) != 0 {
		t.Errorf("left over: %d items, %d bytes, %+v, %v", n, b, s.books, s.kept)
	}
}

// checkBooks counts everything again.
func checkBooks(t *testing.T, s *store) {
	t.Helper()
	again := newBooks(s.books.limits)
	keepers := make(map[id.ID]int)
	for a, chunks := range s.kept {
		for target := range chunks {
			again.enter(a, 1, s.entries[target].size())
			keepers[target]++
		}
	}
	for target, e := range s.entries {
		if !e.isChunk() {
			again.enter(e.account, 1, e.size())
		} else if e.keepers != keepers[target] || e.keepers == 0 {
			t.Fatalf("%d keepers counted, %d are", e.keepers, keepers[target])
		}
	}
	if fmt.Sprint(again) != fmt.Sprint(s.books) {
		t.Fatalf("books\n%+v\nbut there are\n%+v", s.books, again)
	}
}

func testNode(t *testing.T, change func(*Config)) *Machine {
	t.Helper()
	cfg := Config{Self: id.Hash("self")}
	if change != nil {
		change(&cfg)
	}
	m, err := NewMachine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.at(day)
	return m
}

func keyOf(i int) ed25519.PrivateKey {
	seed := id.Hash("key", fmt.Append(nil, i))
	return ed25519.NewKeyFromSeed(append(seed[:], make([]byte, ed25519.SeedSize-id.Size)...))
}

// putFrom is a put as it comes from the network, token and all.
func putFrom(o *Machine, m message, from netip.AddrPort) (code int64) {
	m.token = o.proofs.writeToken(o.now, from)
	code, _ = o.keep(&m, from)
	return code
}

func itemPut(it Item) message {
	m := message{q: put, salt: it.Salt}
	m.setItem(it)
	return m
}

func chunkPut(text string) message { return message{q: put, has: hasValue, value: []byte(text)} }

// flood puts items under keys of its own from that many addresses, counted up in
// the given byte, and returns how many were taken.
func flood(o *Machine, from string, at, addresses, each int) (taken int) {
	base := netip.MustParseAddr(from)
	for i := range addresses {
		b := base.AsSlice()
		b[at] += byte(i)
		b[at-1] += byte(i >> 8)
		a, _ := netip.AddrFromSlice(b)
		for j := range each {
			it := SignItem(keyOf(i), fmt.Append(nil, from, j), 1, []byte("x"))
			if putFrom(o, itemPut(it), netip.AddrPortFrom(a, 4500)) == 0 {
				taken++
			}
		}
	}
	return taken
}

func TestQuotaIsOfAPrefixAndNotOfAnAddress(t *testing.T) {
	small := func(c *Config) { c.StorePerReplica, c.StorePerSource = 20, 20 }
	for _, f := range []struct {
		name, from string
		at, want   int
	}{
		{"addresses of a /128 each in one /64", "2001:db8::1", 15, 20},
		{"/64s of one /56", "2001:db8:0:1::1", 7, 40},
		{"addresses of one /24", "192.0.2.1", 3, 40},
		{"/56s", "2001:db8::1", 6, 200},
	} {
		t.Run(f.name, func(t *testing.T) {
			o := testNode(t, small)
			if n := flood(o, f.from, f.at, 40, 5); n != f.want {
				t.Errorf("%d items taken, want %d", n, f.want)
			}
			checkBooks(t, o.store)
		})
	}
}

// Whatever strangers bring, super peers, members and the node itself find room.
func TestStrangersCrowdNobodyOut(t *testing.T) {
	member, super := keyOf(10001), keyOf(10002)
	replica := netip.MustParseAddrPort("203.0.113.9:4500")
	o := testNode(t, func(c *Config) {
		c.StoreItems, c.StorePerReplica, c.StorePerSource = 80, 10, 10
		c.Replicas = func() []netip.AddrPort { return []netip.AddrPort{replica} }
		c.Class = func(k ed25519.PublicKey) Class {
			switch {
			case k.Equal(member.Public()):
				return ClassMember
			case k.Equal(super.Public()):
				return ClassSuper
			}
			return ClassStranger
		}
	})
	there := func(it Item) bool { _, ok := o.store.get(day, Target(it.Key, it.Salt)); return ok }
	before := SignItem(member, []byte("before"), 1, []byte("x"))
	// From an address that floods as well, as behind one NAT.
	from := netip.MustParseAddrPort("10.0.0.1:9")
	if code := putFrom(o, itemPut(before), from); code != 0 {
		t.Fatalf("code %d", code)
	}
	if n := flood(o, "10.0.0.1", 2, 60, 10); n != 80/4 {
		t.Errorf("strangers have %d items, want their quarter", n)
	}
	for i := range 80 {
		putFrom(o, chunkPut(fmt.Sprint("flood", i)), netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(i), 0, 1}), 4500))
	}
	for what, it := range map[string]Item{
		"member's": SignItem(member, []byte("after"), 1, []byte("x")),
		"super's":  SignItem(super, []byte("after"), 1, []byte("x")),
	} {
		if code := putFrom(o, itemPut(it), from); code != 0 || !there(it) {
			t.Errorf("%s item: code %d", what, code)
		}
	}
	if !there(before) {
		t.Error("the member's item is gone")
	}
	for i := range 10 {
		if code := putFrom(o, chunkPut(fmt.Sprint("directory", i)), replica); code != 0 {
			t.Errorf("replica's chunk %d: code %d", i, code)
		}
	}
	for i := range 200 {
		it := SignItem(keyOf(i), []byte("own"), 1, []byte("x"))
		if code := o.store.putItem(day, it, own); code != 0 || !there(it) {
			t.Fatalf("own item %d: code %d", i, code)
		}
		if code := o.store.putChunk(day, chunk(fmt.Sprint("own", i)), own, 0); code != 0 {
			t.Fatalf("own chunk %d: code %d", i, code)
		}
	}
	// More items than a store has room for leave room for one chunk at a time.
	if n := o.store.books.classes[classOwn].items; n != 201 {
		t.Errorf("%d own entries, want 200 items and a chunk", n)
	}
	checkBooks(t, o.store)
}

// Members have a quota each, and a super peer's does not suffer from what others
// put again of it.
func TestQuotasOfListedKeys(t *testing.T) {
	replica := netip.MustParseAddrPort("203.0.113.9:4500")
	other := netip.MustParseAddrPort("203.0.113.9:4501")
	class := ClassMember
	o := testNode(t, func(c *Config) {
		c.StorePerKey = 10
		c.Replicas = func() []netip.AddrPort { return []netip.AddrPort{replica} }
		c.Class = func(ed25519.PublicKey) Class { return class }
	})
	puts := func(key int, n int, from netip.AddrPort) (taken int) {
		for i := range n {
			if putFrom(o, itemPut(SignItem(keyOf(key), fmt.Append(nil, from, i), 1, []byte("x"))), from) == 0 {
				taken++
			}
		}
		return taken
	}
	if n := puts(1, 20, other); n != perMember {
		t.Errorf("%d items of one member", n)
	}
	if n := puts(2, 1, other); n != 1 {
		t.Error("a second member at the same address is refused")
	}
	class = ClassSuper
	if n := puts(3, 20, other); n != 10 {
		t.Errorf("%d items under a super peer's key from elsewhere", n)
	}
	if n := puts(3, 20, replica); n != 10 {
		t.Errorf("%d items under a super peer's key from itself", n)
	}
	class = classOwn // no class of ours
	o.store = newStore(o.cfg.limits(), time.Hour)
	puts(4, 1, other)
	if o.store.books.classes[ClassStranger].items != 1 {
		t.Error("a class that does not exist is more than a stranger's")
	}
}

// A node that is told of no classes keeps as much for strangers as for super peers.
func TestWithoutClassesMembersRoomIsStrangers(t *testing.T) {
	l := testNode(t, func(c *Config) { c.StoreItems = 80 }).cfg.limits()
	if l.share(ClassStranger).items != 40 || l.share(ClassSuper).items != 40 {
		t.Errorf("%+v", l)
	}
	l = testNode(t, func(c *Config) {
		c.StoreItems = 80
		c.Class = func(ed25519.PublicKey) Class { return ClassStranger }
	}).cfg.limits()
	if l.share(ClassStranger).items != 20 || l.share(ClassMember).items != 20 || l.share(ClassSuper).items != 40 {
		t.Errorf("%+v", l)
	}
}

// A publisher whose chunks are new each time displaces its own oldest ones.
func TestNewChunksDisplaceOwnOldest(t *testing.T) {
	s := testStore()
	other := chunk("other's")
	s.putChunk(day, other, source2, 0)
	for i := range 50 {
		if code := s.putChunk(day.Add(time.Duration(i)*time.Second), chunk(fmt.Sprint(i)), source, 0); code != 0 {
			t.Fatalf("chunk %d: code %d", i, code)
		}
	}
	now := day.Add(time.Minute)
	for i := range 50 {
		if _, ok := s.get(now, chunkTarget(chunk(fmt.Sprint(i)).name())); ok != (i >= 46) {
			t.Errorf("chunk %d: %v", i, ok)
		}
	}
	if _, ok := s.get(now, chunkTarget(other.name())); !ok {
		t.Error("another source's chunk was displaced")
	}
	// What was put again is young, and no further entry.
	s.putChunk(now, chunk("46"), source, 0)
	s.putChunk(now, chunk("50"), source, 0)
	if _, ok := s.get(now, chunkTarget(chunk("46").name())); !ok {
		t.Error("a refreshed chunk was displaced")
	}
	if _, ok := s.get(now, chunkTarget(chunk("47").name())); ok {
		t.Error("the oldest chunk stayed")
	}
	checkBooks(t, s)
}

// Items are not displaced, not even by their own source, and a forgery displaces
// nothing.
func TestOnlyChunksAreDisplaced(t *testing.T) {
	s := testStore()
	for i := range 3 {
		s.putItem(day, signed(fmt.Sprint(i), 1, "x"), source)
	}
	s.putChunk(day, chunk("1"), source, 0)
	forged := signed("3", 1, "x")
	forged.Sig[0] ^= 1
	if code := s.putItem(day, forged, source); code != codeSignature {
		t.Errorf("forged: code %d", code)
	}
	if _, ok := s.get(day, chunkTarget(chunk("1").name())); !ok {
		t.Error("a forgery displaced a chunk")
	}
	if code := s.putItem(day, signed("3", 1, "x"), source); code != 0 {
		t.Errorf("in the place of a chunk: code %d", code)
	}
	if code := s.putItem(day, signed("4", 1, "x"), source); code != codeFull {
		t.Errorf("fifth item: code %d", code)
	}
	if code := s.putChunk(day, chunk("2"), source, 0); code != codeFull {
		t.Errorf("chunk in the place of an item: code %d", code)
	}
	if code := s.putItem(day, signed("0", 2, "y"), source); code != 0 {
		t.Errorf("replacing within the quota: code %d", code)
	}
	checkBooks(t, s)
}

// Who puts another's chunks as well, first or later, cannot take them down by
// displacing his own.
func TestSharedChunkStaysForItsOtherKeeper(t *testing.T) {
	for _, order := range [][]account{{source, source2}, {source2, source}} {
		s := testStore()
		shared := chunk("shared")
		for _, a := range order {
			s.putChunk(day, shared, a, 0)
		}
		for i := range 10 {
			s.putChunk(day.Add(time.Second), chunk(fmt.Sprint(i)), source2, 0)
		}
		if _, ok := s.get(day, chunkTarget(shared.name())); !ok {
			t.Errorf("%v: displaced", order)
		}
		checkBooks(t, s)
		s.sweep(day.Add(2 * time.Hour))
		checkEmpty(t, s)
	}
}

func TestChunkLivesAsLongAsItsPublisherSays(t *testing.T) {
	s := testStore()
	c, d := chunk("short"), chunk("long")
	s.putChunk(day, c, source, 10*time.Minute)
	s.putChunk(day, d, source, 10000*time.Hour)
	there := func(c chunk, after time.Duration) bool {
		_, ok := s.get(day.Add(after), chunkTarget(c.name()))
		return ok
	}
	if !there(c, 9*time.Minute) || there(c, 10*time.Minute) {
		t.Error("the short life is not kept")
	}
	if !there(d, 59*time.Minute) || there(d, time.Hour) {
		t.Error("a life beyond the expiry is taken")
	}
	// Nobody shortens a life, his own or another's.
	s.putChunk(day, d, source2, time.Second)
	s.putChunk(day, d, source, time.Second)
	s.sweep(day.Add(time.Minute))
	if !there(d, 59*time.Minute) {
		t.Error("the life of a chunk was shortened")
	}
	checkBooks(t, s)
	// What ends first goes first, however new it is.
	for i := range 8 {
		s.putChunk(day.Add(time.Minute), chunk(fmt.Sprint(i)), source, 5*time.Minute)
	}
	if !there(d, 2*time.Minute) {
		t.Error("a chunk of long life was displaced by newer ones of short life")
	}
	s.sweep(day.Add(time.Hour))
	checkEmpty(t, s)
}

// An item is counted on who put it last, and a node's own stays its own.
func TestItemMovesWithWhoPutsIt(t *testing.T) {
	s := testStore()
	it := signed("", 1, "x")
	s.putItem(day, it, source)
	s.putItem(day, it, source2)
	if s.books.accounts[source] != 0 || s.books.accounts[source2] != 1 {
		t.Errorf("accounts %v", s.books.accounts)
	}
	s.putItem(day, it, own)
	if code := s.putItem(day.Add(50*time.Minute), it, source); code != 0 || s.books.accounts[own] != 1 {
		t.Errorf("code %d, accounts %v", code, s.books.accounts)
	}
	// Others do not keep it alive on our account, but may keep it on theirs.
	if _, ok := s.get(day.Add(time.Hour), Target(it.Key, nil)); ok {
		t.Error("an own item outlives its last own put")
	}
	for i := range 4 {
		s.putItem(day, signed(fmt.Sprint(i), 1, "x"), source2)
	}
	s.putItem(day, it, source)
	if code := s.putItem(day.Add(time.Minute), it, source2); code != codeFull {
		t.Errorf("moving to a full account: code %d", code)
	}
	if s.books.accounts[source] != 1 {
		t.Errorf("accounts %v", s.books.accounts)
	}
	checkBooks(t, s)
}

func TestStoreBoundsBytes(t *testing.T) {
	const room = 4 * (MaxValue + entryOverhead)
	l := limits{usage: usage{800, 2 * room}, perKey: 100, perReplica: 100, perSource: 100}
	s := newStore(l, time.Hour)
	for i := range 8 {
		s.putItem(day, SignItem(testKey, []byte{byte(i)}, 1, make([]byte, MaxValue-1)), source)
	}
	if n, b := s.size(); n != 4 || b > room {
		t.Errorf("%d items, %d bytes", n, b)
	}
	// Growing an item counts too.
	l.bytes = 600
	s = newStore(l, time.Hour)
	s.putItem(day, signed("", 1, "x"), source)
	if code := s.putItem(day, SignItem(testKey, nil, 2, make([]byte, 100)), source); code != codeFull {
		t.Errorf("growing beyond the limit: code %d", code)
	}
	if it, _ := s.get(day, Target(signed("", 1, "").Key, nil)); it.Seq != 1 {
		t.Error("the refused version took the place of the stored one")
	}
	checkBooks(t, s)
}

// The books agree with the entries after anything.
func TestBooksAgreeWithEntries(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := newStore(limits{usage: usage{24, 9000}, perKey: 3, perReplica: 5, perSource: 5, listed: true}, time.Hour)
	accounts := []account{
		own, source, source2, sourceAccount(netip.MustParseAddr("2001:db8::1")),
		{class: ClassMember, key: [32]byte{1}}, {class: ClassSuper, key: [32]byte{2}},
		superAccount(netip.MustParseAddrPort("192.0.2.3:4500")),
	}
	now := day
	for range 5000 {
		now = now.Add(time.Duration(r.IntN(120)) * time.Second)
		a := accounts[r.IntN(len(accounts))]
		value := make([]byte, r.IntN(MaxValue))
		switch r.IntN(8) {
		case 0:
			s.sweep(now)
		case 1, 2, 3:
			s.putItem(now, SignItem(testKey, []byte{byte(r.IntN(12))}, int64(r.IntN(5)), value), a)
		default:
			s.putChunk(now, value[:len(value)/20*20], a, time.Duration(r.IntN(90))*time.Minute)
		}
		checkBooks(t, s)
		for c := ClassStranger; c < classOwn; c++ {
			if u, share := s.books.classes[c], s.books.limits.share(c); u.items > share.items || u.bytes > share.bytes {
				t.Fatalf("class %d: %+v of %+v", c, u, share)
			}
		}
	}
	s.sweep(now.Add(time.Hour))
	checkEmpty(t, s)
}

// TestReplicaThatIsNoSuperPeerHasItsSourcesRoom: a helper is a replica, but what it
// puts takes no room from the super peers.
func TestReplicaThatIsNoSuperPeerHasItsSourcesRoom(t *testing.T) {
	super, helper := netip.MustParseAddrPort("203.0.113.9:4500"), netip.MustParseAddrPort("198.51.100.7:4500")
	o := testNode(t, func(c *Config) {
		c.Replicas = func() []netip.AddrPort { return []netip.AddrPort{super, helper} }
		c.Supers = func() []netip.AddrPort { return []netip.AddrPort{super} }
		c.Class = func(ed25519.PublicKey) Class { return ClassSuper }
	})
	if got := o.chunkAccount(helper); got != sourceAccount(helper.Addr()) {
		t.Errorf("a helper's chunk is on %+v", got)
	}
	if got := o.chunkAccount(super); got != superAccount(super) {
		t.Errorf("a super peer's chunk is on %+v", got)
	}
	key := keyOf(1).Public().(ed25519.PublicKey)
	if got, others := o.itemAccount(key, helper), o.itemAccount(key, netip.MustParseAddrPort("192.0.2.1:9")); got != others {
		t.Errorf("a super peer's item that a helper puts is on %+v, others' on %+v", got, others)
	}
}
