package directory

import (
	"bytes"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

func newTable(all ...service.SuperPeer) *Table {
	t := NewTable(id.ID{7}, id.ID{})
	t.SetIssuers(all)
	return t
}

// listing is a shard with members at hosts of a block.
func listing(number uint32, ms ...service.Member) *Shard { return &Shard{Number: number, Members: ms} }

func TestTableFollowsAShard(t *testing.T) {
	sp := superPeer(1, blockA)
	tb := newTable(sp)
	a, b := fake(blockA, 1, 1, "web"), fake(blockA, 2, 2, "app")
	if d := tb.Replace(sp.PID(), listing(0, a, b)); len(d.Joined) != 2 || tb.Len() != 2 {
		t.Fatalf("joined %d, %d in all", len(d.Joined), tb.Len())
	}
	if d := tb.Replace(sp.PID(), listing(0, a, b)); !d.Empty() {
		t.Errorf("the same shard again changes %+v", d)
	}
	e, issuer, shard, ok := tb.At(a.Addr4())
	if !ok || e == nil || e.PID() != a.PID() || issuer != sp.PID() || shard != 0 || e.Member().Name != a.Name {
		t.Errorf("at %s: %v, %v, %d", a.Addr4(), e, issuer, shard)
	}
	if _, _, shard, ok := tb.At(netip.MustParseAddr("10.42.1.7")); !ok || shard != 4 {
		t.Errorf("an address without a member leads to shard %d, %v", shard, ok)
	}
	if _, _, _, ok := tb.At(netip.MustParseAddr("10.41.255.255")); ok {
		t.Error("an address in nobody's block leads to a shard")
	}
	renamed := a
	renamed.Name = "other"
	if d := tb.Replace(sp.PID(), listing(0, renamed)); len(d.Changed) != 1 || len(d.Gone) != 1 || tb.Has(b.PID()) || tb.Len() != 1 {
		t.Errorf("changed %d, gone %d", len(d.Changed), len(d.Gone))
	}
	reused := fake(blockA, 1, 3, "web")
	if d := tb.Replace(sp.PID(), listing(0, reused)); len(d.Joined) != 1 || len(d.Gone) != 1 || tb.Has(a.PID()) {
		t.Errorf("a lease that went to another: joined %d, gone %d", len(d.Joined), len(d.Gone))
	}
	if d := tb.Expire(t0.Add(25 * time.Hour)); len(d.Gone) != 1 || tb.Len() != 0 {
		t.Errorf("%d are gone after their end, %d left", len(d.Gone), tb.Len())
	}
	if len(tb.labels) != 0 || len(tb.chains) != 0 {
		t.Errorf("an empty table keeps %d label sets and %d chains", len(tb.labels), len(tb.chains))
	}
}

// TestFirstListingHolds: another super peer's word on a machine comes after that
// of the one that listed it first, until that one is silent or the machine has
// proved otherwise.
func TestFirstListingHolds(t *testing.T) {
	one, two := superPeer(1, blockA), superPeer(2, blockB)
	tb := newTable(one, two)
	first, lie := fake(blockA, 1, 1, "web"), fake(blockB, 1, 1, "app")
	tb.Replace(one.PID(), listing(0, first))
	tb.Replace(two.PID(), listing(0, lie))
	holder := func(now time.Time) id.ID { return tb.Entries(first.PID(), now)[0].Issuer() }
	if holder(t0) != one.PID() || tb.Len() != 1 {
		t.Error("the second listing took the machine over")
	}
	if e, _, _, _ := tb.At(lie.Addr4()); e == nil || e.PID() != first.PID() {
		t.Error("its other address does not lead to it")
	}
	tb.SetExpires(one.PID(), t0.Unix())
	if holder(t0) != two.PID() {
		t.Error("a silent super peer still holds it")
	}
	tb.SetExpires(one.PID(), t0.Add(time.Hour).Unix())
	tb.Prefer(first.PID(), two.PID())
	if holder(t0) != two.PID() {
		t.Error("the machine's proof does not count")
	}
	renewed := lie
	renewed.NotAfter++
	tb.Replace(two.PID(), listing(0, renewed))
	if holder(t0) != two.PID() {
		t.Error("a newer listing lost its place")
	}
	if got := tb.Members(t0); len(got) != 1 || got[0].Issuer() != two.PID() {
		t.Errorf("%d entries for one machine", len(got))
	}
}

func TestDescriptorChangesWhatIsListed(t *testing.T) {
	one, two := superPeer(1, blockA), superPeer(2, blockB)
	tb := newTable(one, two)
	tb.Replace(one.PID(), listing(0, fake(blockA, 1, 1, "web")))
	tb.Replace(two.PID(), listing(0, fake(blockB, 1, 2, "web")))
	narrower := two
	narrower.Scope = map[string][]string{"role": {"app"}}
	if d := tb.SetIssuers([]service.SuperPeer{one, narrower}); len(d.Gone) != 1 || tb.Len() != 1 {
		t.Errorf("%d are gone with their super peer's scope", len(d.Gone))
	}
	if d := tb.SetIssuers(nil); len(d.Gone) != 1 || tb.Len() != 0 {
		t.Errorf("%d are gone with their super peer", len(d.Gone))
	}
}

func TestTombstoneVoidsEarlierCredentials(t *testing.T) {
	sp := superPeer(1, blockA)
	tb := newTable(sp)
	m := fake(blockA, 1, 1, "web")
	tb.Replace(sp.PID(), listing(0, m))
	s := listing(0)
	s.Tombstones = []Tombstone{{Host: 1, PID: m.PID(), Issued: m.Issued, Until: m.NotAfter, Reason: ReasonLeft}}
	if d := tb.Replace(sp.PID(), s); len(d.Gone) != 1 || len(d.Void) != 1 || tb.Has(m.PID()) {
		t.Errorf("gone %d, void %d", len(d.Gone), len(d.Void))
	}
	if _, void := tb.Tombstone(sp.PID(), m.PID(), m.Issued); !void {
		t.Error("its credential still holds")
	}
	if _, void := tb.Tombstone(sp.PID(), m.PID(), m.Issued+1); void {
		t.Error("a later credential does not hold")
	}
	if d := tb.Learn(sp.PID(), []service.Member{m}); !d.Empty() {
		t.Error("an old list brought it back")
	}
	tb.Expire(time.Unix(m.NotAfter, 0))
	if _, void := tb.Tombstone(sp.PID(), m.PID(), m.Issued); void || len(tb.blocks[sp.PID()].shards) != 0 {
		t.Error("a tombstone outlives what it voids")
	}
}

// TestEqualPrefixesAreToldApart: two PIDs with the same first 64 bits.
func TestEqualPrefixesAreToldApart(t *testing.T) {
	sp := superPeer(1, blockA)
	tb := newTable(sp)
	a, b := fake(blockA, 1, 1, "web"), fake(blockA, 2, 2, "web")
	tb.Replace(sp.PID(), listing(0, a, b))
	x, y := tb.Entries(a.PID(), t0)[0], tb.Entries(b.PID(), t0)[0]
	// No keys are known that do this; the table is made to believe it.
	tb.unlink(x)
	tb.unlink(y)
	tb.labels = map[string]*labelSet{x.labels.text: x.labels}
	x.pid, y.pid = id.ID{1, 19: 2}, id.ID{1, 19: 1}
	x.next, y.next = nil, nil
	tb.link(x)
	tb.link(y)
	if got := tb.ByPrefix(prefixOf(x.pid)); got != y {
		t.Error("the greater PID has the address")
	}
	if tb.Len() != 2 || len(tb.Members(t0)) != 2 || len(tb.Entries(x.pid, t0)) != 1 {
		t.Errorf("%d machines, %d listed", tb.Len(), len(tb.Members(t0)))
	}
	tb.unlink(x)
	if tb.Len() != 1 || !tb.Has(y.pid) || tb.Has(x.pid) {
		t.Error("one took the other with it")
	}
}

func TestReaderNeverGoesBack(t *testing.T) {
	r := NewReader()
	ref := func(n uint32, seq int64) Ref { return Ref{Number: n, Seq: seq} }
	if _, err := r.OnRoot(&Root{Seq: 10, Shards: []Ref{ref(0, 9), ref(1, 9), ref(2, 9)}}); err != nil {
		t.Fatal(err)
	}
	r.Want(2)
	r.Want(1)
	refs, urgent := r.Wanted()
	if urgent != 2 || len(refs) != 3 || refs[0].Number != 2 || refs[1].Number != 1 || refs[2].Number != 0 {
		t.Errorf("fetches %v, %d of them at once", refs, urgent)
	}
	for _, ref := range refs {
		if !r.OnShard(ref) {
			t.Errorf("shard %d refused", ref.Number)
		}
	}
	if r.OnShard(ref(0, 8)) || r.OnShard(ref(5, 9)) {
		t.Error("a shard that the root does not name is accepted")
	}
	for name, root := range map[string]*Root{
		"the same root":  {Seq: 10},
		"an older root":  {Seq: 9},
		"an older shard": {Seq: 11, Shards: []Ref{ref(0, 8)}},
	} {
		if _, err := r.OnRoot(root); !errors.Is(err, service.ErrRollback) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone, err := r.OnRoot(&Root{Seq: 12, Shards: []Ref{ref(0, 9), ref(2, 11)}})
	if err != nil || !slices.Equal(gone, []uint32{1}) {
		t.Errorf("gone %v, %v", gone, err)
	}
	if refs, _ := r.Wanted(); len(refs) != 1 || refs[0].Number != 2 || r.Complete() {
		t.Errorf("wanted %v", refs)
	}
	if _, err := r.OnRoot(&Root{Seq: 13, Shards: []Ref{ref(1, 8)}}); !errors.Is(err, service.ErrRollback) {
		t.Errorf("a shard that was dropped came back older: %v", err)
	}
}

// BenchmarkTableMemory prints the bytes that a member takes in a table of 10,000.
func BenchmarkTableMemory(b *testing.B) {
	const members = 10000
	sp := superPeer(1, netip.MustParsePrefix("10.42.0.0/16"))
	block := netip.MustParsePrefix(sp.Block4)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		tb := newTable(sp)
		fill(tb, sp, block, members)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/members, "B/member")
		runtime.KeepAlive(tb)
	}
}

var roles = []string{"web", "app", "db"}

func fill(tb *Table, sp service.SuperPeer, block netip.Prefix, members int) {
	for n := range uint32(members/ShardHosts + 1) {
		tb.Replace(sp.PID(), shardOf(block, n, members))
	}
}

// shardOf is shard n of a block whose hosts 1 to members are taken.
func shardOf(block netip.Prefix, n uint32, members int) *Shard {
	s := &Shard{Number: n}
	for i := range uint32(ShardHosts) {
		if host := n<<shardBits + i; host > 0 && int(host) <= members {
			s.Members = append(s.Members, fake(block, host, int(host), roles[host%3]))
		}
	}
	return s
}

func BenchmarkReplaceShard(b *testing.B) {
	sp := superPeer(1, netip.MustParsePrefix("10.42.0.0/16"))
	block := netip.MustParsePrefix(sp.Block4)
	tb := newTable(sp)
	fill(tb, sp, block, 10000)
	one, other := shardOf(block, 7, 10000), shardOf(block, 7, 10000)
	other.Members = other.Members[:60]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			tb.Replace(sp.PID(), other)
		} else {
			tb.Replace(sp.PID(), one)
		}
	}
}

// TestLastAdmissionOfAMachineCounts: an admission that broke off at one super
// peer and went through at another leaves two listings. The machine's claims
// tell which is the later, in whatever order they are read.
func TestLastAdmissionOfAMachineCounts(t *testing.T) {
	one, two := superPeer(1, blockA), superPeer(2, blockB)
	key := testKey(1)
	listed := func(block netip.Prefix, sp service.SuperPeer, after time.Duration, claim bool) service.Member {
		m := fake(block, 1, 1, "web")
		m.Key = public(key)
		if claim {
			m.Claim = service.SignClaim(key, id.ID{7}, sp.PID(), m.Instance, t0.Add(after))
		}
		return m
	}
	broken, good := listed(blockA, one, 0, true), listed(blockB, two, time.Millisecond, true)
	for name, order := range map[string][]service.SuperPeer{"the broken one first": {one, two}, "the broken one last": {two, one}} {
		tb := newTable(one, two)
		for _, sp := range order {
			m := broken
			if sp.PID() == two.PID() {
				m = good
			}
			tb.Replace(sp.PID(), listing(0, m))
		}
		if e := tb.Entries(good.PID(), t0)[0]; e.Issuer() != two.PID() {
			t.Errorf("%s: it stands at %s", name, e.Addr4())
		}
	}
	tb := newTable(one, two)
	tb.Replace(one.PID(), listing(0, listed(blockA, one, 0, false)))
	tb.Replace(two.PID(), listing(0, listed(blockB, two, time.Hour, false)))
	if e := tb.Entries(good.PID(), t0)[0]; e.Issuer() != one.PID() {
		t.Error("a listing without the machine's claim counts")
	}
	tb.Replace(two.PID(), listing(0, good))
	if e := tb.Entries(good.PID(), t0)[0]; e.Issuer() != two.PID() {
		t.Error("a claim that came later does not count")
	}
	forged := listed(blockA, two, time.Minute, true) // made for another super peer
	tb.Replace(one.PID(), listing(0, forged))
	if e := tb.Entries(good.PID(), t0)[0]; e.Issuer() != two.PID() {
		t.Error("a claim for another super peer counts")
	}
}

// TestListingWithoutTheMachinesWordIsNoRival: neither a time far ahead nor bytes
// that look like a claim keep a listing before the one that the machine asked for.
func TestListingWithoutTheMachinesWordIsNoRival(t *testing.T) {
	one, two := superPeer(1, blockA), superPeer(2, blockB)
	key := testKey(5)
	listed := func(block netip.Prefix, role string) service.Member {
		m := fake(block, 1, 1, role)
		m.Key = public(key)
		return m
	}
	ahead, garbage, elsewhere := listed(blockB, "app"), listed(blockB, "app"), listed(blockB, "app")
	ahead.Issued = t0.Add(1000 * time.Hour).Unix()
	garbage.Claim = bytes.Repeat([]byte{0x7f}, service.ClaimSize)
	elsewhere.Claim = service.SignClaim(key, id.ID{7}, one.PID(), elsewhere.Instance, t0.Add(time.Minute))
	good := listed(blockA, "web")
	good.Claim = service.SignClaim(key, id.ID{7}, one.PID(), good.Instance, t0)
	for name, lie := range map[string]service.Member{"a time far ahead": ahead, "garbage": garbage, "a claim for another": elsewhere} {
		tb := newTable(one, two)
		tb.Replace(two.PID(), listing(0, lie))
		tb.Replace(one.PID(), listing(0, good))
		if e := tb.Entries(good.PID(), t0)[0]; e.Issuer() != one.PID() || e.Labels()["role"] != "web" {
			t.Errorf("%s keeps the machine at %s", name, e.Addr4())
		}
		lie.NotAfter++
		tb.Replace(two.PID(), listing(0, lie))
		if e := tb.Entries(good.PID(), t0)[0]; e.Issuer() != one.PID() {
			t.Errorf("%s takes the machine back", name)
		}
	}
}

// TestProvedListingIsNoLessThanAClaim: the machine moved and has proved it; an
// earlier claim of it that is listed again does not take it back.
func TestProvedListingIsNoLessThanAClaim(t *testing.T) {
	one, two := superPeer(1, blockA), superPeer(2, blockB)
	key := testKey(5)
	before, moved := fake(blockA, 1, 1, "web"), fake(blockB, 1, 1, "web")
	before.Key, moved.Key = public(key), public(key)
	before.Claim = service.SignClaim(key, id.ID{7}, one.PID(), before.Instance, t0)
	moved.Issued += 60
	tb := newTable(one, two)
	tb.Replace(one.PID(), listing(0, before))
	tb.Replace(two.PID(), listing(0, moved))
	tb.Prefer(moved.PID(), two.PID())
	before.NotAfter++
	tb.Replace(one.PID(), listing(0, before))
	if e := tb.Entries(moved.PID(), t0)[0]; e.Issuer() != two.PID() {
		t.Error("an earlier claim counts more than the machine's proof")
	}
}

// TestSuperPeerHasOneEntryForAMachine: one key at every host of a block is one
// entry, else each listing of it would walk all others.
func TestSuperPeerHasOneEntryForAMachine(t *testing.T) {
	sp := superPeer(1, blockA)
	tb := newTable(sp)
	at := func(host uint32, issued int64) service.Member {
		m := fake(blockA, host, 1, "web")
		m.Issued = issued
		return m
	}
	base := at(1, t0.Unix())
	for n := range uint32(8) {
		s := &Shard{Number: n}
		for host := n << shardBits; host < (n+1)<<shardBits; host++ {
			s.Members = append(s.Members, at(host, t0.Unix()))
		}
		tb.Replace(sp.PID(), s)
	}
	if e := tb.Entries(base.PID(), t0); len(e) != 1 || tb.Len() != 1 || len(tb.ListedBy(sp.PID(), t0)) != 1 || len(tb.blocks[sp.PID()].shards) != 1 {
		t.Fatalf("%d entries, %d machines, %d shards", len(e), tb.Len(), len(tb.blocks[sp.PID()].shards))
	}
	d := tb.Replace(sp.PID(), listing(0, at(9, t0.Unix()+1)))
	if e := tb.Entries(base.PID(), t0); len(d.Joined) != 1 || len(d.Gone) != 1 || len(e) != 1 || e[0].host != 9 {
		t.Errorf("a later admission: joined %d, gone %d, %d entries", len(d.Joined), len(d.Gone), len(e))
	}
	if d := tb.Replace(sp.PID(), listing(3, at(200, t0.Unix()))); !d.Empty() {
		t.Errorf("an earlier admission changes %+v", d)
	}
	for _, host := range []uint32{1, 63} { // down and up within a shard
		tb.Replace(sp.PID(), listing(0, at(host, t0.Unix()+1)))
		if e := tb.Entries(base.PID(), t0); len(e) != 1 || uint32(e[0].host) != host {
			t.Errorf("a machine that moved to host %d is lost: %d entries", host, len(e))
		}
	}
	if d := tb.Replace(sp.PID(), listing(0)); len(d.Gone) != 1 || tb.Len() != 0 || len(tb.chains) != 0 || len(tb.blocks[sp.PID()].shards) != 0 {
		t.Errorf("%d machines are left", tb.Len())
	}
}
