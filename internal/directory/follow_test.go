package directory

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// counted is an overlay that counts: an object costs a get for its root, one for
// each index of 16 names when there are more than 16 chunks, one for each chunk.
type counted struct {
	mu      sync.Mutex
	objects map[string][]stored // by salt, newest last
	gets    int
	lie     func(salt string, o stored) stored
}

type stored struct {
	seq  int64
	data []byte
}

func (c *counted) put(salt []byte, seq int64, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.objects == nil {
		c.objects = map[string][]stored{}
	}
	c.objects[string(salt)] = append(c.objects[string(salt)], stored{seq, data})
}

func (c *counted) AskItem(_ context.Context, key ed25519.PublicKey, salt []byte) (overlay.Item, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gets++
	all := c.objects[string(salt)]
	if len(all) == 0 {
		return overlay.Item{}, overlay.ErrNotFound
	}
	o := all[len(all)-1]
	if c.lie != nil {
		o = c.lie(string(salt), o)
	}
	return overlay.Item{Key: key, Salt: salt, Seq: o.seq}, nil
}

func (c *counted) ReadObject(_ context.Context, root overlay.Item) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.objects[string(root.Salt)] {
		if o.seq == root.Seq {
			if c.lie != nil {
				o = c.lie(string(root.Salt), o)
			}
			c.countChunks(o)
			return o.data, nil
		}
	}
	return nil, overlay.ErrObject
}

func (c *counted) countChunks(o stored) {
	chunks := (len(o.data) + overlay.MaxValue - 1) / overlay.MaxValue
	c.gets += chunks
	if chunks > 16 {
		c.gets += (chunks + 15) / 16
	}
}

func (c *counted) GetObjectAfter(_ context.Context, key ed25519.PublicKey, salt []byte, after int64) ([]byte, overlay.Item, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gets++
	all := c.objects[string(salt)]
	if len(all) == 0 {
		return nil, overlay.Item{}, overlay.ErrNotFound
	}
	o := all[len(all)-1]
	if c.lie != nil {
		o = c.lie(string(salt), o)
	}
	it := overlay.Item{Key: key, Salt: salt, Seq: o.seq}
	switch {
	case o.seq < after:
		return nil, overlay.Item{}, overlay.ErrRollback
	case o.seq == after:
		return nil, it, overlay.ErrUnchanged
	}
	c.countChunks(o)
	return o.data, it, nil
}

// plain stands for sealing: as many bytes more as HPKE and its header take.
const plainOverhead = 90

func seal(b []byte) []byte { return append(make([]byte, plainOverhead), b...) }

func open(b []byte, _ string, _ ed25519.PublicKey, limit int) ([]byte, error) {
	if len(b) < plainOverhead || len(b) > limit {
		return nil, errors.New("too long")
	}
	return b[plainOverhead:], nil
}

// publisher is one super peer's writer on the counted overlay.
type publisher struct {
	sp     service.SuperPeer
	block  netip.Prefix
	writer *Writer
	to     *counted
	now    time.Time
}

func newPublisher(n int, block netip.Prefix, to *counted) *publisher {
	return &publisher{sp: superPeer(n, block), block: block, writer: NewWriter(id.ID{7}, block, 24*time.Hour), to: to, now: t0}
}

// say publishes shards and a root, and returns the numbers of those sealed.
func (p *publisher) say(t testing.TB, shards ...*Shard) (sealed []uint32) {
	t.Helper()
	for _, s := range shards {
		if !p.writer.Needs(s, p.now) {
			continue
		}
		s.Seq = p.writer.NextSeq(p.now)
		b, err := p.writer.Encode(s)
		if err != nil {
			t.Fatal(err)
		}
		p.writer.Sealed(s, seal(b))
		sealed = append(sealed, s.Number)
	}
	for _, again := range p.writer.Again(p.now) {
		p.to.put(SaltShard(again.Number), again.Seq, again.Sealed)
		p.writer.Stored(again.Number, p.now)
	}
	if root, due := p.writer.Root(0, 1, p.now); due {
		p.to.put(discovery.SaltDirectory, root.Seq, seal(root.Encode()))
		p.writer.RootStored(p.now)
	}
	return sealed
}

// reader follows a publisher into a table.
type reader struct {
	*Follower
	table *Table
	now   time.Time
	took  []uint32
}

func newReader(from Source, table *Table, trust *service.Trust, sp service.SuperPeer) *reader {
	r := &reader{table: table, now: t0}
	var mu sync.Mutex
	r.Follower = NewFollower(sp, Follow{
		Source: from, Open: open, Trust: func() *service.Trust { return trust }, Now: func() time.Time { return r.now }, Heard: table.SetExpires,
		Take: func(issuer id.ID, s *Shard) {
			table.Replace(issuer, s)
			mu.Lock()
			r.took = append(r.took, s.Number)
			mu.Unlock()
		},
	})
	return r
}

func (r *reader) all(t testing.TB) {
	t.Helper()
	if _, err := r.Poll(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Fetch(t.Context(), false, MaxShards); err != nil {
		t.Fatal(err)
	}
}

// TestFullReadTakesABoundedNumberOfGets reads 10,000 members. The bound: for each
// shard its root and the chunks of its bytes, and as much for the root.
func TestFullReadTakesABoundedNumberOfGets(t *testing.T) {
	const members = 10000
	block := netip.MustParsePrefix("10.42.0.0/16")
	net := new(counted)
	p := newPublisher(1, block, net)
	var shards []*Shard
	for n := range uint32(members/ShardHosts + 1) {
		shards = append(shards, shardOf(block, n, members))
	}
	p.say(t, shards...)
	r := newReader(net, newTable(p.sp), trustOf(p.sp), p.sp)
	r.all(t)
	if got := r.table.Len(); got != members {
		t.Fatalf("%d members were read", got)
	}
	bytes := 0
	for _, all := range net.objects {
		bytes += len(all[0].data)
	}
	t.Logf("%d members in %d shards: %d bytes, %.1f a member; %d gets", members, len(shards), bytes, float64(bytes)/members, net.gets)
	// 64 members of usual length take 10 chunks; the root takes 50 bytes a shard.
	root := 2 + (len(shards)*50+plainOverhead+60)/overlay.MaxValue
	if bound := len(shards)*11 + root; net.gets > bound {
		t.Errorf("%d gets, the bound is %d", net.gets, bound)
	}
	net.gets = 0
	r.all(t)
	if net.gets != 1 {
		t.Errorf("%d gets when nothing has changed, want 1", net.gets)
	}
	shards[3].Members = shards[3].Members[1:]
	p.now = p.now.Add(time.Minute)
	if sealed := p.say(t, shardCopies(shards)...); !slices.Equal(sealed, []uint32{3}) {
		t.Errorf("sealed %v for a change in shard 3", sealed)
	}
	net.gets, r.took = 0, nil
	r.all(t)
	if !slices.Equal(r.took, []uint32{3}) || net.gets > 11+root || r.table.Len() != members-1 {
		t.Errorf("read %v with %d gets", r.took, net.gets)
	}
}

func shardCopies(all []*Shard) (out []*Shard) {
	for _, s := range all {
		c := *s
		c.Members = slices.Clone(s.Members)
		out = append(out, &c)
	}
	return out
}

// TestLyingSuperPeerHarmsItsOwnMembersOnly: it lists another's members, at their
// addresses and at its own, with new labels, and shards that are not as its root
// says.
func TestLyingSuperPeerHarmsItsOwnMembersOnly(t *testing.T) {
	net, lies := new(counted), new(counted)
	honest, liar := newPublisher(1, blockA, net), newPublisher(2, blockB, lies)
	trust := trustOf(honest.sp, liar.sp)
	victim, own := fake(blockA, 5, 1, "db"), fake(blockB, 6, 2, "web")
	honest.say(t, &Shard{Members: []service.Member{victim}})
	table := newTable(honest.sp, liar.sp)
	h, l := newReader(net, table, trust, honest.sp), newReader(lies, table, trust, liar.sp)
	h.all(t)

	taken := fake(blockB, 5, 1, "app") // the victim's key, in the liar's block
	liar.say(t, &Shard{Members: []service.Member{taken, own}})
	l.all(t)
	if e := table.Entries(victim.PID(), t0)[0]; e.Issuer() != honest.sp.PID() || e.Labels()["role"] != "db" {
		t.Errorf("the victim is now %v by %s", e.Labels(), e.Issuer().Short())
	}
	if e, _, _, _ := table.At(victim.Addr4()); e == nil || e.PID() != victim.PID() {
		t.Error("the victim's address leads elsewhere")
	}
	if taken.Supersedes(victim, trust.Service, liar.sp.PID()) {
		t.Error("a listing without a claim pushes the victim out")
	}

	// Foreign tombstones void nothing of the victim's.
	liar.now = liar.now.Add(time.Minute)
	liar.say(t, &Shard{Members: []service.Member{own}, Tombstones: []Tombstone{{Host: 5, PID: victim.PID(), Issued: 1 << 40, Until: t0.Add(time.Hour).Unix(), Reason: ReasonRevoked}}})
	l.all(t)
	if _, void := table.Tombstone(honest.sp.PID(), victim.PID(), victim.Issued); void || !table.Has(victim.PID()) {
		t.Error("another super peer's tombstone voids the victim's credential")
	}

	// A shard that is not as the root says is refused; the rest stands.
	lies.lie = func(salt string, o stored) stored {
		if salt == string(SaltShard(0)) {
			o.data = slices.Clone(o.data)
			o.data[len(o.data)-1] ^= 1
		}
		return o
	}
	liar.now = liar.now.Add(time.Minute)
	liar.say(t, &Shard{Members: []service.Member{own, fake(blockB, 7, 3, "web")}})
	if _, err := l.Poll(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Fetch(t.Context(), false, MaxShards); !errors.Is(err, ErrMismatch) {
		t.Errorf("a shard with another hash: %v", err)
	}
	if !table.Has(own.PID()) || !table.Has(victim.PID()) || table.Len() != 2 {
		t.Errorf("%d machines are left, want two", table.Len())
	}
	lies.lie = nil // another copy
	if n, err := l.Fetch(t.Context(), false, MaxShards); n != 1 || err != nil || table.Len() != 3 {
		t.Errorf("the true copy was not read: %d, %v", n, err)
	}
}

// TestStaleRootIsRefused: nodes that serve an old root, or an old shard, take a
// reader back to neither; once the newest root has ended, the super peer counts
// as silent.
func TestStaleRootIsRefused(t *testing.T) {
	net := new(counted)
	p := newPublisher(1, blockA, net)
	r := newReader(net, newTable(p.sp), trustOf(p.sp), p.sp)
	gone, stays := fake(blockA, 5, 1, "web"), fake(blockA, 6, 2, "web")
	p.say(t, &Shard{Members: []service.Member{gone, stays}})
	r.all(t)
	p.now = p.now.Add(time.Minute)
	p.say(t, &Shard{Members: []service.Member{stays}})
	r.all(t)
	net.lie = func(salt string, _ stored) stored { return net.objects[salt][0] }
	if _, err := r.Poll(t.Context(), false); !errors.Is(err, overlay.ErrRollback) {
		t.Errorf("an old root: %v", err)
	}
	if r.table.Has(gone.PID()) {
		t.Error("an old root brought a machine back")
	}
	net.lie = func(salt string, o stored) stored {
		if salt == string(SaltShard(0)) {
			return net.objects[salt][0]
		}
		return o
	}
	p.now = p.now.Add(time.Minute)
	p.say(t, &Shard{Members: []service.Member{stays, fake(blockA, 7, 3, "web")}})
	if _, err := r.Poll(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Fetch(t.Context(), false, MaxShards); n != 0 || err == nil {
		t.Errorf("an old shard: %d, %v", n, err)
	}
	if r.table.Has(gone.PID()) || !r.table.Has(stays.PID()) {
		t.Error("an old shard was put in force")
	}
	if r.table.Silent(p.sp.PID(), p.now) || !r.table.Silent(p.sp.PID(), p.now.Add(RootLife)) {
		t.Error("a super peer is silent when its newest root has ended, and not before")
	}
	fresh := newReader(net, newTable(p.sp), trustOf(p.sp), p.sp)
	fresh.now = p.now.Add(RootLife)
	if _, err := fresh.Poll(t.Context(), false); !errors.Is(err, service.ErrStale) {
		t.Errorf("a root that has ended, for a reader that knows nothing: %v", err)
	}
}

func TestPacketsGoFirst(t *testing.T) {
	net := new(counted)
	p := newPublisher(1, blockA, net)
	var shards []*Shard
	for n := range uint32(20) {
		shards = append(shards, shardOf(blockA, n, 20*ShardHosts))
	}
	p.say(t, shards...)
	r := newReader(net, newTable(p.sp), trustOf(p.sp), p.sp)
	if _, err := r.Poll(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	r.Want(17)
	if n, err := r.Fetch(t.Context(), true, MaxShards); n != 1 || err != nil || !slices.Equal(r.took, []uint32{17}) {
		t.Errorf("read %v: %v", r.took, err)
	}
	if n, err := r.Fetch(t.Context(), false, 3); n != 3 || err != nil || r.Pending() != 16 {
		t.Errorf("read %d of the others: %v", n, err)
	}
}

// TestDirectoryIsWholeOnceEveryShardWasRead: it stays so while shards change, since who
// is missing then came lately.
func TestDirectoryIsWholeOnceEveryShardWasRead(t *testing.T) {
	block := netip.MustParsePrefix("10.42.0.0/16")
	net := new(counted)
	p := newPublisher(1, block, net)
	shards := []*Shard{shardOf(block, 0, 200), shardOf(block, 1, 200), shardOf(block, 2, 200)}
	p.say(t, shards...)
	r := newReader(net, newTable(p.sp), trustOf(p.sp), p.sp)
	if r.Whole() {
		t.Error("whole before anything was read")
	}
	if _, err := r.Poll(t.Context(), true); err != nil || r.Whole() {
		t.Fatalf("whole with the root alone, %v", err)
	}
	for i := range shards {
		if _, err := r.Fetch(t.Context(), false, 1); err != nil || r.Whole() != (i == len(shards)-1) {
			t.Fatalf("after %d of %d shards whole is %v, %v", i+1, len(shards), r.Whole(), err)
		}
		if i == 0 { // one that was read changes before the others were read
			p.now = p.now.Add(time.Minute)
			shards[r.took[0]].Members = shards[r.took[0]].Members[1:]
			p.say(t, shardCopies(shards)...)
			if _, err := r.Poll(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r.CompleteSince(t0) {
		t.Error("complete, though a shard has changed")
	}
	p.now = p.now.Add(time.Minute)
	p.say(t, append(shardCopies(shards), shardOf(block, 9, 1000))...)
	if _, err := r.Poll(t.Context(), true); err != nil || !r.Whole() {
		t.Errorf("a new shard makes it a directory that was not read, %v", err)
	}
}

// TestRenewalsDoNotSealAShard: the published end may lag until a quarter of a
// credential's life is left.
func TestRenewalsDoNotSealAShard(t *testing.T) {
	net := new(counted)
	p := newPublisher(1, blockA, net)
	m := fake(blockA, 5, 1, "web")
	say := func(change ...service.Member) []uint32 { return p.say(t, &Shard{Members: change}) }
	if got := say(m); len(got) != 1 {
		t.Fatal("the first was not sealed")
	}
	renewed := m
	renewed.Issued, renewed.NotAfter = m.Issued+57600, m.NotAfter+57600
	p.now = t0.Add(16 * time.Hour)
	if got := say(renewed); len(got) != 0 {
		t.Error("a renewal was published at once")
	}
	if due := p.writer.Due(p.now); len(due) != 0 {
		t.Errorf("due %v", due)
	}
	p.now = t0.Add(18*time.Hour + time.Second)
	if due := p.writer.Due(p.now); !slices.Equal(due, []uint32{0}) {
		t.Errorf("due %v when a quarter of the life is left", due)
	}
	if got := say(renewed); len(got) != 1 {
		t.Error("the end was not published in time")
	}
	vanished := p.now.Add(19 * time.Hour) // it does not renew
	p.now = vanished
	say(renewed)
	if due := p.writer.Due(p.now); len(due) != 0 {
		t.Errorf("a machine that does not renew has its shard looked at again and again: %v", due)
	}
	if p.say(t, &Shard{}); len(p.writer.shards) != 0 {
		t.Error("an empty shard is kept")
	}
	other := m
	other.Instance = service.Instance{9}
	p.now = t0
	say(m)
	if got := say(other); len(got) != 1 {
		t.Error("another process was not published")
	}
	p.writer.TouchAll()
	if due := p.writer.Due(p.now); len(due) != 1 || len(say(other)) != 1 {
		t.Error("a new key seals nothing")
	}
}

// TestRefreshPutsTheSameBytes: what has not changed is put again as it is, at
// half of its life; the root is sealed anew.
func TestRefreshPutsTheSameBytes(t *testing.T) {
	net := new(counted)
	p := newPublisher(1, blockA, net)
	m := fake(blockA, 5, 1, "web")
	p.say(t, &Shard{Members: []service.Member{m}})
	p.now = t0.Add(RootLife / 2)
	p.say(t)
	if shards, roots := len(net.objects[string(SaltShard(0))]), len(net.objects[string(discovery.SaltDirectory)]); shards != 1 || roots != 2 {
		t.Errorf("%d puts of the shard and %d of the root after a quarter of an hour", shards, roots)
	}
	p.now = t0.Add(ShardLife / 2)
	p.say(t)
	puts := net.objects[string(SaltShard(0))]
	if len(puts) != 2 || sha256.Sum256(puts[0].data) != sha256.Sum256(puts[1].data) || puts[0].seq != puts[1].seq {
		t.Errorf("%d puts of the shard after an hour, or other bytes", len(puts))
	}
}

func TestSaltsDiffer(t *testing.T) {
	if string(SaltShard(1)) == string(SaltShard(256)) || len(SaltShard(MaxShards)) != 5 || binary.BigEndian.Uint32(SaltShard(7)[1:]) != 7 {
		t.Errorf("%x", SaltShard(7))
	}
}
