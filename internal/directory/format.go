package directory

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// Limits. 64 hosts with the longest credentials that can be signed take 40 KiB.
const (
	ShardHosts = 1 << shardBits
	MaxShards  = 1024 // the first 65536 addresses of a block
	MaxRoot    = 56 << 10
	MaxShard   = 56 << 10

	shardBits = 6
	typeRoot  = "directory"
	typeShard = "shard"
	// maxVoid is longer than any credential lives, by a clock's slack.
	maxVoid = 48 * time.Hour
)

// Root is what a super peer publishes about its shards.
type Root struct {
	_          struct{} `cbor:",toarray"`
	Type       string
	Service    id.ID
	Epoch      uint32
	Seq        int64 // the item's
	Expires    int64 // Unix seconds; after it the super peer is silent
	Generation uint32
	Block      string // the block that host numbers count in
	Shards     []Ref  // by number, ascending; a shard that nobody is in is missing
	Helpers    []Helper
}

// Ref names one version of a shard.
type Ref struct {
	_      struct{} `cbor:",toarray"`
	Number uint32
	Seq    int64  // of the shard's item
	Count  uint8  // members in it
	Sum    []byte // SHA-256 of the sealed shard
}

// Shard is the complete list of what was leased to 64 neighbouring hosts.
type Shard struct {
	Number     uint32
	Seq        int64
	Epoch      uint32
	Members    []service.Member // by address, ascending
	Tombstones []Tombstone      // by host, ascending
}

// Reason says why a member is none any more.
type Reason uint8

// Reasons.
const (
	ReasonClone    Reason = 1 // the same identity was admitted later as another process
	ReasonRevoked  Reason = 2 // by the owner's policy
	ReasonLeft     Reason = 3 // it said so
	ReasonReplaced Reason = 4 // the same process was admitted later by another super peer
)

// String names the reason.
func (r Reason) String() string {
	switch r {
	case ReasonLeft:
		return "left"
	case ReasonClone:
		return "clone"
	case ReasonRevoked:
		return "revoked"
	case ReasonReplaced:
		return "replaced"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Tombstone says that a machine is no member any more as which this super peer
// admitted it. It stands where its lease was until the last of them would have ended.
type Tombstone struct {
	Host   uint32 // within the block
	PID    id.ID
	Issued int64 // Unix seconds: it is about admissions of then or before
	Until  int64 // Unix seconds
	Reason Reason
}

// Void says whether credentials of then are void. Who left or moved may come back
// with what it had while no super peer can be reached; it is not listed, no more.
func (t Tombstone) Void() bool { return t.Reason == ReasonClone || t.Reason == ReasonRevoked }

// ErrMismatch is returned for a shard that is not the one that its root names.
var ErrMismatch = errors.New("directory: the shard is not the one that the root names")

// SaltShard is the salt of a shard's object under its super peer's key.
func SaltShard(number uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte("m"), number)
}

// wireShard is a shard as sealed. Label sets stand once; a host is its number
// within the shard.
type wireShard struct {
	_       struct{} `cbor:",toarray"`
	Type    string
	Service id.ID
	Epoch   uint32
	Seq     int64
	Number  uint32
	Labels  []map[string]string
	Members []wireMember
	Void    []wireVoid
	Claims  []wireClaim
}

type wireMember struct {
	_        struct{} `cbor:",toarray"`
	Host     uint8
	Key      []byte
	Name     string
	VM       string
	Labels   uint8
	NotAfter int64
	Issued   int64
	Instance service.Instance
}

type wireVoid struct {
	_      struct{} `cbor:",toarray"`
	Host   uint8
	PID    id.ID
	Issued int64
	Until  int64
	Reason Reason
}

// wireClaim belongs to the member at a host. Only machines that another super
// peer lists too need one.
type wireClaim struct {
	_     struct{} `cbor:",toarray"`
	Host  uint8
	Claim []byte
}

// HostOf returns the number of an address within a block.
func HostOf(block netip.Prefix, a netip.Addr) (host uint32, ok bool) {
	if !a.Is4() || !block.Contains(a) {
		return 0, false
	}
	b4, a4 := block.Addr().As4(), a.As4()
	host = binary.BigEndian.Uint32(a4[:]) - binary.BigEndian.Uint32(b4[:])
	return host, host < MaxShards<<shardBits
}

// ShardOf returns the number of the shard that lists a host.
func ShardOf(host uint32) uint32 { return host >> shardBits }

// address returns the address of a host number.
func address(block netip.Prefix, host uint32) []byte {
	b := block.Addr().As4()
	return binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])+host)
}

// Encode returns the bytes to seal. Members and tombstones must belong to the
// shard, at most one of both to a host; what does not is an error.
func (s *Shard) Encode(svc id.ID, block netip.Prefix) ([]byte, error) {
	w := wireShard{Type: typeShard, Service: svc, Epoch: s.Epoch, Seq: s.Seq, Number: s.Number}
	sets := map[string]uint8{}
	var taken [ShardHosts]bool
	take := func(host uint32, ok bool) (uint8, error) {
		if !ok || ShardOf(host) != s.Number || taken[host%ShardHosts] {
			return 0, fmt.Errorf("directory: host %d is not in shard %d, or twice", host, s.Number)
		}
		taken[host%ShardHosts] = true
		return uint8(host % ShardHosts), nil
	}
	for i := range s.Members {
		m := &s.Members[i]
		host, err := take(HostOf(block, m.Addr4()))
		if err != nil {
			return nil, err
		}
		text := service.LabelText(m.Labels)
		set, known := sets[text]
		if !known {
			set = uint8(len(w.Labels)) //nolint:gosec // one a host at most
			sets[text] = set
			w.Labels = append(w.Labels, maps.Clone(m.Labels))
		}
		w.Members = append(w.Members, wireMember{Host: host, Key: m.Key, Name: m.Name, VM: m.VM, Labels: set, NotAfter: m.NotAfter, Issued: m.Issued, Instance: m.Instance})
		if len(m.Claim) > 0 {
			w.Claims = append(w.Claims, wireClaim{Host: host, Claim: m.Claim})
		}
	}
	for _, t := range s.Tombstones {
		host, err := take(t.Host, true)
		if err != nil {
			return nil, err
		}
		w.Void = append(w.Void, wireVoid{Host: host, PID: t.PID, Issued: t.Issued, Until: t.Until, Reason: t.Reason})
	}
	slices.SortFunc(w.Members, func(a, b wireMember) int { return cmp.Compare(a.Host, b.Host) })
	slices.SortFunc(w.Void, func(a, b wireVoid) int { return cmp.Compare(a.Host, b.Host) })
	slices.SortFunc(w.Claims, func(a, b wireClaim) int { return cmp.Compare(a.Host, b.Host) })
	return wire.Marshal(w), nil
}

// OpenShard reads a shard that was opened, of the object with sequence number
// seq, whose signature by issuer was verified. Members beyond the issuer's scope
// are left out.
func OpenShard(b []byte, trust *service.Trust, issuer service.SuperPeer, number uint32, seq int64, now time.Time) (*Shard, error) {
	var w wireShard
	if err := wire.Unmarshal(b, &w, MaxShard); err != nil {
		return nil, fmt.Errorf("directory: shard: %w", err)
	}
	block, err := netip.ParsePrefix(issuer.Block4)
	switch {
	case err != nil:
		return nil, fmt.Errorf("directory: block of %s: %w", issuer.PID().Short(), err)
	case w.Type != typeShard || w.Service != trust.Service || w.Number != number || w.Seq != seq:
		return nil, fmt.Errorf("%w: it is %.16q %d of %s with sequence number %d", ErrMismatch, w.Type, w.Number, w.Service.Short(), w.Seq)
	case number >= MaxShards:
		return nil, fmt.Errorf("directory: shard %d is beyond the bound of %d", number, MaxShards)
	case len(w.Members)+len(w.Void) > ShardHosts || len(w.Labels) > ShardHosts || len(w.Claims) > len(w.Members):
		return nil, fmt.Errorf("directory: shard %d lists more than its %d hosts", number, ShardHosts)
	}
	s := &Shard{Number: number, Seq: seq, Epoch: w.Epoch}
	if err := s.fill(&w, block); err != nil {
		return nil, err
	}
	s.Members = service.Vouched(issuer, s.Members, now)
	s.Tombstones = slices.DeleteFunc(s.Tombstones, func(t Tombstone) bool { return t.Until > now.Add(maxVoid).Unix() })
	return s, nil
}

// fill turns w into members and tombstones, each host and each key at most once.
func (s *Shard) fill(w *wireShard, block netip.Prefix) error {
	first, last := s.Number<<shardBits, -1
	var taken [ShardHosts]bool
	keys := make(map[string]bool, len(w.Members))
	s.Members = make([]service.Member, 0, len(w.Members))
	for _, m := range w.Members {
		if m.Host >= ShardHosts || int(m.Host) <= last || int(m.Labels) >= len(w.Labels) || len(m.Name) > 63 || len(m.VM) > 64 {
			return fmt.Errorf("directory: shard %d is out of order or names what it has not", s.Number)
		}
		if keys[string(m.Key)] {
			return fmt.Errorf("directory: shard %d lists one key at two hosts", s.Number)
		}
		last = int(m.Host)
		taken[m.Host], keys[string(m.Key)] = true, true
		s.Members = append(s.Members, service.Member{Key: m.Key, Name: m.Name, VM: m.VM, Labels: w.Labels[m.Labels],
			Address4: address(block, first+uint32(m.Host)), NotAfter: m.NotAfter, Issued: m.Issued, Instance: m.Instance})
	}
	i := 0
	for _, c := range w.Claims {
		for i < len(w.Members) && w.Members[i].Host < c.Host {
			i++
		}
		if i == len(w.Members) || w.Members[i].Host != c.Host || len(c.Claim) != service.ClaimSize {
			return fmt.Errorf("directory: shard %d has a claim without a member", s.Number)
		}
		s.Members[i].Claim = c.Claim
		i++
	}
	last = -1
	for _, v := range w.Void {
		if v.Host >= ShardHosts || int(v.Host) <= last || taken[v.Host] {
			return fmt.Errorf("directory: shard %d has two entries for a host, or is out of order", s.Number)
		}
		last = int(v.Host)
		s.Tombstones = append(s.Tombstones, Tombstone{Host: first + uint32(v.Host), PID: v.PID, Issued: v.Issued, Until: v.Until, Reason: v.Reason})
	}
	return nil
}

// Encode returns the bytes to seal.
func (r Root) Encode() []byte {
	r.Type = typeRoot
	return wire.Marshal(r)
}

// OpenRoot reads a root that was opened, of the object with sequence number seq,
// whose signature by issuer was verified.
func OpenRoot(b []byte, trust *service.Trust, issuer service.SuperPeer, seq int64, now time.Time) (*Root, error) {
	r := new(Root)
	if err := wire.Unmarshal(b, r, MaxRoot); err != nil {
		return nil, fmt.Errorf("directory: root: %w", err)
	}
	switch {
	case r.Type != typeRoot || r.Service != trust.Service:
		return nil, fmt.Errorf("directory: root is %.16q of %s, want %q of %s", r.Type, r.Service.Short(), typeRoot, trust.Service.Short())
	case r.Seq != seq:
		return nil, fmt.Errorf("%w: root of sequence number %d in an object of %d", service.ErrStale, r.Seq, seq)
	case now.Unix() >= r.Expires:
		return nil, fmt.Errorf("%w: the directory of super peer %s has ended", service.ErrStale, issuer.PID().Short())
	case r.Block != issuer.Block4:
		return nil, fmt.Errorf("directory: super peer %s lists block %.40q, its block is %s", issuer.PID().Short(), r.Block, issuer.Block4)
	case len(r.Shards) > MaxShards:
		return nil, fmt.Errorf("directory: root names %d shards, at most %d are allowed", len(r.Shards), MaxShards)
	}
	for i, ref := range r.Shards {
		if ref.Number >= MaxShards || i > 0 && ref.Number <= r.Shards[i-1].Number || len(ref.Sum) != sha256.Size || ref.Count > ShardHosts {
			return nil, fmt.Errorf("directory: root names shard %d out of order or bounds", ref.Number)
		}
	}
	r.Helpers = believable(r.Helpers, now)
	return r, nil
}

// Check says whether a sealed shard is the one that ref names.
func (ref Ref) Check(sealed []byte, seq int64) error {
	if sum := sha256.Sum256(sealed); seq != ref.Seq || !bytes.Equal(sum[:], ref.Sum) {
		return fmt.Errorf("%w: shard %d with sequence number %d, wanted %d", ErrMismatch, ref.Number, seq, ref.Seq)
	}
	return nil
}
