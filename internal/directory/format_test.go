package directory

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

var (
	t0     = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	blockA = netip.MustParsePrefix("10.42.0.0/18")
	blockB = netip.MustParsePrefix("10.42.64.0/18")
)

func testKey(n int) ed25519.PrivateKey {
	seed := make([]byte, 32)
	seed[0], seed[1], seed[2] = byte(n), byte(n>>8), byte(n>>16)
	return ed25519.NewKeyFromSeed(seed)
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// superPeer is a super peer with a block that may grant any role.
func superPeer(n int, block netip.Prefix) service.SuperPeer {
	return service.SuperPeer{
		Key: public(testKey(1<<20 + n)), Endpoints: []string{"192.0.2.1:4500"}, Roles: []string{service.RoleAdmit},
		Scope: map[string][]string{"role": {service.AnyValue}}, Block4: block.String(), Expires: t0.AddDate(1, 0, 0).Unix(),
	}
}

func trustOf(all ...service.SuperPeer) *service.Trust {
	return &service.Trust{Service: id.ID{7}, Descriptor: &service.Descriptor{Service: id.ID{7}, SuperPeers: all}}
}

// fake is member n, who needs no real key.
func fake(block netip.Prefix, host uint32, n int, role string) service.Member {
	key := make([]byte, 32)
	key[0], key[1], key[2] = byte(n), byte(n>>8), byte(n>>16)
	return service.Member{
		Key: key, Name: fmt.Sprintf("%s-%05d", role, n), VM: fmt.Sprintf("%016x", n), Labels: map[string]string{"role": role},
		Address4: address(block, host), NotAfter: t0.Add(24 * time.Hour).Unix(), Issued: t0.Unix(), Instance: service.Instance{byte(n), byte(n >> 8), 1},
	}
}

func sampleShard() *Shard {
	s := &Shard{Number: 1, Seq: 5, Epoch: 3}
	s.Members = []service.Member{fake(blockA, 64, 1, "web"), fake(blockA, 66, 2, "app"), fake(blockA, 127, 3, "web")}
	s.Members[1].Claim = bytes.Repeat([]byte{9}, service.ClaimSize)
	s.Tombstones = []Tombstone{{Host: 65, PID: id.ID{4}, Issued: t0.Unix(), Until: t0.Add(time.Hour).Unix(), Reason: ReasonClone}}
	return s
}

func mustEncode(t testing.TB, s *Shard) []byte {
	t.Helper()
	b, err := s.Encode(id.ID{7}, blockA)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestShardRoundTrip(t *testing.T) {
	sp := superPeer(1, blockA)
	b := mustEncode(t, sampleShard())
	got, err := OpenShard(b, trustOf(sp), sp, 1, 5, t0)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%+v", sampleShard()); fmt.Sprintf("%+v", got) != want {
		t.Errorf("read\n%+v, want\n%s", got, want)
	}
	for i := range b {
		if _, err := OpenShard(b[:i], trustOf(sp), sp, 1, 5, t0); err == nil {
			t.Errorf("accepted a truncation to %d bytes", i)
		}
	}
	if _, err := OpenShard(append(bytes.Clone(b), 0), trustOf(sp), sp, 1, 5, t0); err == nil {
		t.Error("accepted a trailing byte")
	}
	for name, number := range map[string][2]int64{"another number": {2, 5}, "another version": {1, 6}} {
		if _, err := OpenShard(b, trustOf(sp), sp, uint32(number[0]), number[1], t0); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The example of docs/protocol/directory.md.
func TestShardVector(t *testing.T) {
	s := &Shard{Number: 1, Seq: 5, Epoch: 3, Members: []service.Member{fake(blockA, 64, 1, "web")}}
	s.Tombstones = []Tombstone{{Host: 65, PID: id.ID{4}, Issued: t0.Unix(), Until: t0.Add(time.Hour).Unix(), Reason: ReasonClone}}
	const want = "8965736861726454070000000000000000000000000000000000000003050181a164726f6c656377656281880058200100000000000000000000000000000000000000000000000000000000000000697765622d30303030317030303030303030303030303030303031001a6ae87b401a6ae729c04801000100000000008185015404000000000000000000000000000000000000001a6ae729c01a6ae737d001f6"
	if got := hex.EncodeToString(mustEncode(t, s)); got != want {
		t.Errorf("shard is %s", got)
	}
	r := Root{Service: id.ID{7}, Epoch: 3, Seq: 6, Expires: t0.Unix(), Generation: 1, Block: blockA.String(), Shards: []Ref{{Number: 1, Seq: 5, Count: 1, Sum: bytes.Repeat([]byte{8}, 32)}},
		Helpers: []Helper{{PID: id.ID{9}, Addr: netip.MustParseAddrPort("198.51.100.7:4500"), Roles: HelperStore | HelperReflect, Since: t0.Unix(), Until: t0.Add(HelperLife).Unix()}}}
	const wantRoot = "89696469726563746f727954070000000000000000000000000000000000000003061a6ae729c0016c31302e34322e302e302f3138818401050158200808080808080808080808080808080808080808080808080808080808080808818554090000000000000000000000000000000000000046c63364079411031a6ae729c01a6ae72f9c"
	if got := hex.EncodeToString(r.Encode()); got != wantRoot {
		t.Errorf("root is %s", got)
	}
}

func TestShardRefusesWhatIsNotItsOwn(t *testing.T) {
	for name, change := range map[string]func(*Shard){
		"a host of another shard": func(s *Shard) { s.Members[0].Address4 = address(blockA, 63) },
		"a host twice":            func(s *Shard) { s.Tombstones[0].Host = 64 },
		"another block":           func(s *Shard) { s.Members[0].Address4 = address(blockB, 64) },
	} {
		s := sampleShard()
		change(s)
		if _, err := s.Encode(id.ID{7}, blockA); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	sp := superPeer(1, blockA)
	sp.Scope = map[string][]string{"role": {"web"}}
	got, err := OpenShard(mustEncode(t, sampleShard()), trustOf(sp), sp, 1, 5, t0)
	if err != nil || len(got.Members) != 2 {
		t.Errorf("%d members, %v: want the two whose role is within the scope", len(got.Members), err)
	}
	twice := sampleShard()
	twice.Members[2].Key = twice.Members[0].Key
	if _, err := OpenShard(mustEncode(t, twice), trustOf(superPeer(1, blockA)), superPeer(1, blockA), 1, 5, t0); err == nil {
		t.Error("a key at two hosts is read")
	}
	long := sampleShard()
	long.Tombstones[0].Until = t0.Add(49 * time.Hour).Unix()
	if got, err := OpenShard(mustEncode(t, long), trustOf(superPeer(1, blockA)), superPeer(1, blockA), 1, 5, t0); err != nil || len(got.Tombstones) != 0 {
		t.Errorf("a tombstone for ever is believed: %+v, %v", got, err)
	}
}

func TestRootIsChecked(t *testing.T) {
	sp := superPeer(1, blockA)
	good := func() Root {
		return Root{Service: id.ID{7}, Epoch: 3, Seq: 6, Expires: t0.Add(time.Minute).Unix(), Block: sp.Block4, Shards: []Ref{{Number: 1, Seq: 5, Count: 3, Sum: make([]byte, 32)}, {Number: 2, Seq: 5, Count: 3, Sum: make([]byte, 32)}}}
	}
	b := good().Encode()
	if _, err := OpenRoot(b, trustOf(sp), sp, 6, t0); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if _, err := OpenRoot(b[:i], trustOf(sp), sp, 6, t0); err == nil {
			t.Errorf("accepted a truncation to %d bytes", i)
		}
	}
	for name, change := range map[string]func(*Root){
		"another service":   func(r *Root) { r.Service = id.ID{8} },
		"another version":   func(r *Root) { r.Seq = 7 },
		"ended":             func(r *Root) { r.Expires = t0.Unix() },
		"another block":     func(r *Root) { r.Block = blockB.String() },
		"a number too high": func(r *Root) { r.Shards[1].Number = MaxShards },
		"out of order":      func(r *Root) { r.Shards[1].Number = 1 },
		"short hash":        func(r *Root) { r.Shards[0].Sum = make([]byte, 31) },
		"too many members":  func(r *Root) { r.Shards[0].Count = ShardHosts + 1 },
	} {
		r := good()
		change(&r)
		if _, err := OpenRoot(r.Encode(), trustOf(sp), sp, 6, t0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestBoundsHold: the longest root and the longest shard fit their objects.
func TestBoundsHold(t *testing.T) {
	r := Root{Block: "10.42.128.128/18", Seq: 1 << 62, Expires: 1 << 62, Epoch: 1 << 31, Generation: 1 << 31}
	for n := range uint32(MaxShards) {
		r.Shards = append(r.Shards, Ref{Number: n, Seq: 1 << 62, Count: ShardHosts, Sum: make([]byte, 32)})
	}
	if got := len(r.Encode()); got > MaxRoot {
		t.Errorf("a full root takes %d bytes, more than %d", got, MaxRoot)
	}
	s := &Shard{Number: MaxShards - 1, Seq: 1 << 62}
	block := netip.MustParsePrefix("10.0.0.0/8")
	for i := range uint32(ShardHosts) {
		m := fake(block, (MaxShards-1)<<shardBits+i, int(i), "web")
		m.Name, m.VM, m.Claim = fmt.Sprintf("%063d", i), fmt.Sprintf("%064d", i), make([]byte, service.ClaimSize)
		m.Labels = map[string]string{"long": fmt.Sprintf("%0350d", i)} // what a credential of 600 bytes leaves
		s.Members = append(s.Members, m)
	}
	b, err := s.Encode(id.ID{7}, block)
	if err != nil || len(b) > MaxShard {
		t.Errorf("a full shard takes %d bytes, more than %d: %v", len(b), MaxShard, err)
	}
}

func FuzzOpen(f *testing.F) {
	sp := superPeer(1, blockA)
	f.Add(mustEncode(f, sampleShard()))
	f.Add(Root{Service: id.ID{7}, Seq: 5, Expires: t0.Add(time.Minute).Unix(), Block: sp.Block4, Shards: []Ref{{Number: 1, Seq: 5, Count: 3, Sum: make([]byte, 32)}}}.Encode())
	table := NewTable(id.ID{7}, id.ID{})
	table.SetIssuers([]service.SuperPeer{sp})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := OpenShard(b, trustOf(sp), sp, 1, 5, t0); err == nil {
			table.Replace(sp.PID(), s)
			if again, err := s.Encode(id.ID{7}, blockA); err == nil && len(again) > len(b) {
				t.Errorf("%d bytes became %d", len(b), len(again))
			}
		}
		if r, err := OpenRoot(b, trustOf(sp), sp, 5, t0); err == nil && !bytes.Equal(r.Encode(), b) {
			t.Errorf("a second encoding: %x", b)
		}
	})
}
