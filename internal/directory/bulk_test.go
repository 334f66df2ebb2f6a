package directory

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

func v(number uint32, seq int64) Version { return Version{Number: number, Seq: seq} }

func sampleRequest() Request {
	return Request{Of: []RequestOf{{Issuer: id.ID{1, 2, 3}, Shards: []Version{{Number: 3, Seq: 1_800_000_000_000}, {Number: 700, Seq: 5}}}}}
}

func TestBulkVectors(t *testing.T) {
	var b bytes.Buffer
	if err := errors.Join(sampleRequest().Write(&b), Part{Of: 1, Number: 3, Sealed: []byte("sealed")}.Write(&b), WriteEnd(&b)); err != nil {
		t.Fatal(err)
	}
	const want = "0000002a820181825401020300000000000000000000000000000000008282031b000001a3185c5000821902bc05" +
		"0000000a830103467365616c6564" + "00000000"
	if got := hex.EncodeToString(b.Bytes()); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	req, err := ReadRequest(&b)
	if err != nil || len(req.Of) != 1 || req.Of[0].Issuer != (id.ID{1, 2, 3}) || req.Of[0].Shards[1].Number != 700 {
		t.Errorf("read %v, %v", req, err)
	}
	p, err := ReadPart(&b)
	if err != nil || p.Of != 1 || p.Number != 3 || string(p.Sealed) != "sealed" {
		t.Errorf("read %v, %v", p, err)
	}
	if _, err := ReadPart(&b); !errors.Is(err, io.EOF) {
		t.Errorf("the end is read as %v", err)
	}
	if _, err := ReadPart(&b); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a connection that breaks off is an end: %v", err)
	}
}

func TestBulkRequestIsBounded(t *testing.T) {
	many := Request{Version: bulkVersion, Of: make([]RequestOf, MaxBulkOf+1)}
	if _, err := parseRequest(wire.Marshal(many)); !errors.Is(err, errBulk) {
		t.Errorf("%d super peers: %v", MaxBulkOf+1, err)
	}
	long := Request{Version: bulkVersion, Of: []RequestOf{{Shards: make([]Version, MaxBulk/2)}, {Shards: make([]Version, MaxBulk/2+1)}}}
	if _, err := parseRequest(wire.Marshal(long)); !errors.Is(err, errBulk) {
		t.Errorf("%d shards: %v", MaxBulk+1, err)
	}
	long.Of[1].Shards = long.Of[1].Shards[1:]
	for i := range long.Of {
		long.Of[i].Issuer = id.ID{byte(i)}
		for k := range long.Of[i].Shards {
			long.Of[i].Shards[k] = Version{Number: uint32(k), Seq: 1 << 41}
		}
	}
	var b bytes.Buffer
	if err := long.Write(&b); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRequest(&b); err != nil {
		t.Errorf("%d shards: %v", MaxBulk, err)
	}
	for name, of := range map[string][]RequestOf{
		"a shard twice":      {{Shards: []Version{v(1, 5), v(1, 5)}}},
		"a shard again":      {{Shards: []Version{v(1, 5), v(2, 5), v(1, 6)}}},
		"a super peer twice": {{Shards: []Version{v(1, 5)}}, {Shards: []Version{v(2, 5)}}},
	} {
		if _, err := parseRequest(wire.Marshal(Request{Version: bulkVersion, Of: of})); !errors.Is(err, errBulk) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := sampleRequest()
	other.Version = 2
	if _, err := parseRequest(wire.Marshal(other)); !errors.Is(err, errBulk) {
		t.Errorf("another version: %v", err)
	}
}

// A reader takes what somebody hands over only if the root names it, whoever that is.
func TestShardsThatAreHandedOverCountOnlyAsTheRootSays(t *testing.T) {
	block := netip.MustParsePrefix("10.42.0.0/16")
	net := new(counted)
	p := newPublisher(1, block, net)
	shards := []*Shard{shardOf(block, 0, 200), shardOf(block, 1, 200), shardOf(block, 2, 200)}
	p.say(t, shards...)
	var shelf Shelf
	first := newReader(net, newTable(p.sp), trustOf(p.sp), p.sp)
	first.cfg.Shelf = &shelf
	first.all(t)

	r := newReader(nil, newTable(p.sp), trustOf(p.sp), p.sp)
	r.cfg.Source = net
	if _, err := r.Poll(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	gets := net.gets
	refs := r.Lacks()
	if len(refs) != len(shards) {
		t.Fatalf("%d shards are lacked", len(refs))
	}
	sealed := shelf.Get(r.pid, Version{Number: refs[0].Number, Seq: refs[0].Seq})
	bad := bytes.Clone(sealed)
	bad[len(bad)-1] ^= 1
	for name, b := range map[string][]byte{"changed": bad, "empty": nil, "of another shard": shelf.Get(r.pid, Version{Number: refs[1].Number, Seq: refs[1].Seq})} {
		if err := r.TakeSealed(t.Context(), refs[0], b); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	invented := refs[0]
	invented.Number = 9
	if err := r.TakeSealed(t.Context(), invented, sealed); err == nil || r.table.Len() != 0 {
		t.Errorf("a shard under another number: %v, %d members", err, r.table.Len())
	}
	for i, ref := range refs {
		if r.Whole() {
			t.Errorf("whole after %d of %d shards", i, len(refs))
		}
		if err := r.TakeSealed(t.Context(), ref, shelf.Get(r.pid, Version{Number: ref.Number, Seq: ref.Seq})); err != nil {
			t.Fatal(err)
		}
	}
	if !r.Whole() || r.table.Len() != first.table.Len() || net.gets != gets {
		t.Errorf("whole: %v; %d members of %d; %d gets", r.Whole(), r.table.Len(), first.table.Len(), net.gets-gets)
	}
}

// A super peer whose root names shards that nobody serves does not make readers look for
// them for ever without a budget.
func TestShardsThatNobodyServesAreLookedForWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := netip.MustParsePrefix("10.42.0.0/16")
		net := new(counted)
		p := newPublisher(1, block, net)
		var shards []*Shard
		const named = 200
		for n := range uint32(named) {
			shards = append(shards, shardOf(block, n, named*ShardHosts))
		}
		p.say(t, shards...)
		for n := range uint32(named) {
			delete(net.objects, string(SaltShard(n)))
		}
		r := newReader(net, newTable(p.sp), trustOf(p.sp), p.sp)
		w := NewWatcher(Watch{Followers: func() []*Follower { return []*Follower{r.Follower} }, Read: func(*Follower, bool, error) {}})
		at := &watched{follower: r.Follower, budget: rate.NewLimiter(rate.Every(shardEvery), shardBurst)}
		if _, _ = w.read(t.Context(), at); net.gets < named {
			t.Errorf("%d gets at the first look", net.gets)
		}
		time.Sleep(wholeWithin + time.Second)
		net.gets = 0
		const looks = 10
		for range looks {
			_, _ = w.read(t.Context(), at)
			time.Sleep(shardEvery)
		}
		if most := 3 * (shardBurst + 2*looks); net.gets > most {
			t.Errorf("%d gets in %d looks at a directory of which nothing is served, at most %d are in the budget", net.gets, looks, most)
		}
	})
}

func TestShelfAnswersWithWhatItHas(t *testing.T) {
	var s Shelf
	a, b := id.ID{1}, id.ID{2}
	s.Put(a, 1, 10, []byte("old"))
	s.Put(a, 1, 11, []byte("a1"))
	s.Put(a, 2, 12, []byte("a2"))
	s.Put(b, 1, 13, []byte("b1"))
	s.Put(b, MaxShards, 14, []byte("no such shard"))
	s.Drop(a, 2)
	ask := func() (got []string) {
		var w bytes.Buffer
		req := Request{Of: []RequestOf{
			{Issuer: b, Shards: []Version{v(1, 13), v(1, 14), v(MaxShards, 14)}},
			{Issuer: id.ID{3}, Shards: []Version{v(1, 1)}},
			{Issuer: a, Shards: []Version{v(1, 10), v(1, 11), v(2, 12), v(7, 0)}},
		}}
		if err := s.Answer(&w, req); err != nil {
			t.Fatal(err)
		}
		for {
			p, err := ReadPart(&w)
			if err != nil {
				if !errors.Is(err, io.EOF) || w.Len() != 0 {
					t.Errorf("%v, %d bytes are left", err, w.Len())
				}
				return got
			}
			if (p.Of == 0) != (p.Sealed[0] == 'b') {
				t.Errorf("%s stands for super peer %d", p.Sealed, p.Of)
			}
			got = append(got, string(p.Sealed))
		}
	}
	if got := ask(); len(got) != 2 || got[0] != "b1" || got[1] != "a1" {
		t.Errorf("got %q", got)
	}
	s.Keep([]id.ID{a})
	if got := ask(); len(got) != 1 || got[0] != "a1" {
		t.Errorf("got %q of the super peer that is left", got)
	}
}

func FuzzBulk(f *testing.F) {
	var b bytes.Buffer
	_ = sampleRequest().Write(&b)
	f.Add(b.Bytes())
	b.Reset()
	_ = Part{Of: 1, Number: 3, Sealed: []byte("sealed")}.Write(&b)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		if req, err := ReadRequest(bytes.NewReader(in)); err == nil {
			var again bytes.Buffer
			if err := req.Write(&again); err != nil || !bytes.HasPrefix(in, again.Bytes()) {
				t.Errorf("%x was read as %v", in, req)
			}
			var s Shelf
			if err := s.Answer(io.Discard, req); err != nil {
				t.Error(err)
			}
		}
		if p, err := ReadPart(bytes.NewReader(in)); err == nil {
			var again bytes.Buffer
			if err := p.Write(&again); err != nil || !bytes.HasPrefix(in, again.Bytes()) {
				t.Errorf("%x was read as %v", in, p)
			}
		}
	})
}
