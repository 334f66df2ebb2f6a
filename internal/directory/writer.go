package directory

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"maps"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

// We chose:
const (
	// ShardLife is how long the overlay keeps a shard; it is put again after half.
	ShardLife = 2 * time.Hour
	// RootLife is how long a root counts; it is sealed anew after half.
	RootLife = 30 * time.Minute
)

// Writer knows what one super peer has published, and so what is left to do. It
// seals nothing itself and has one owner.
//
//	Due ─> content from the ledger ─> Needs ─> seal ─> Sealed ─┐
//	                                      Again ─> put ─> Stored ─> Root ─> seal, put
type Writer struct {
	service id.ID
	block   netip.Prefix
	quarter int64 // of a credential's life, seconds
	seq     int64 // the highest one given
	shards  map[uint32]*written
	dirty   map[uint32]bool
	changed bool      // since the last root
	until   time.Time // the root is sealed anew from then on
	helpers []Helper
}

// written is a shard as it was published.
type written struct {
	content Shard
	ref     Ref
	sealed  []byte
	again   time.Time // put again from then on; zero: not put yet
	soonest int64     // published end that is reached first
	stale   bool      // to be sealed anew in any case
}

// NewWriter returns a writer of a block whose credentials last for life.
func NewWriter(svc id.ID, block netip.Prefix, life time.Duration) *Writer {
	return &Writer{service: svc, block: block, quarter: int64(life / time.Second / 4), shards: map[uint32]*written{}, dirty: map[uint32]bool{}}
}

// Touch says that shards may have changed.
func (w *Writer) Touch(numbers ...uint32) {
	for _, n := range numbers {
		if n < MaxShards {
			w.dirty[n] = true
		}
	}
}

// TouchPublished says that any published shard may have changed.
func (w *Writer) TouchPublished() {
	for n := range w.shards {
		w.dirty[n] = true
	}
}

// TouchAll says that everything is to be sealed anew: the key has changed.
func (w *Writer) TouchAll() {
	for n, s := range w.shards {
		w.dirty[n] = true
		s.stale = true
	}
	w.changed = true
}

// Due returns the shards to look at, in order: those touched, and those in which
// a published end comes near.
func (w *Writer) Due(now time.Time) []uint32 {
	due := maps.Clone(w.dirty)
	for n, s := range w.shards {
		if s.soonest-now.Unix() < w.quarter {
			due[n] = true
		}
	}
	return slices.Sorted(maps.Keys(due))
}

// Needs says whether a shard differs from what was published. That a member
// renewed counts only when its published end comes near: the published one is
// true for that long, and a service's members renew all the time.
func (w *Writer) Needs(s *Shard, now time.Time) bool {
	delete(w.dirty, s.Number)
	old := w.shards[s.Number]
	if len(s.Members)+len(s.Tombstones) == 0 {
		if old != nil {
			delete(w.shards, s.Number)
			w.changed = true
		}
		return false
	}
	slices.SortFunc(s.Members, func(a, b service.Member) int { return bytes.Compare(a.Address4, b.Address4) })
	slices.SortFunc(s.Tombstones, func(a, b Tombstone) int { return cmp.Compare(a.Host, b.Host) })
	if old == nil || old.stale || old.content.Epoch != s.Epoch || len(old.content.Members) != len(s.Members) || !slices.Equal(old.content.Tombstones, s.Tombstones) {
		return true
	}
	soonest := int64(1<<63 - 1)
	for i := range s.Members {
		was, is := &old.content.Members[i], &s.Members[i]
		if !sameMember(was, is) || was.NotAfter-now.Unix() < w.quarter && is.NotAfter > was.NotAfter {
			return true
		}
		if was.NotAfter-now.Unix() >= w.quarter { // the others have not renewed: looked at when touched
			soonest = min(soonest, was.NotAfter)
		}
	}
	old.soonest = soonest
	return false
}

// sameMember says whether two listings differ in their dates at most.
func sameMember(a, b *service.Member) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Address4, b.Address4) && a.Name == b.Name && a.VM == b.VM &&
		a.Instance == b.Instance && (len(a.Claim) == 0) == (len(b.Claim) == 0) && maps.Equal(a.Labels, b.Labels)
}

// NextSeq returns a number that is higher than all before, also over restarts,
// whose last one nobody kept: it follows the clock.
func (w *Writer) NextSeq(now time.Time) int64 {
	w.seq = max(w.seq+1, now.UnixMilli())
	return w.seq
}

// AtLeast makes later numbers higher than seq: the overlay has seen it.
func (w *Writer) AtLeast(seq int64) { w.seq = max(w.seq, seq) }

// Encode returns the bytes of a shard to seal.
func (w *Writer) Encode(s *Shard) ([]byte, error) { return s.Encode(w.service, w.block) }

// Sealed notes how s was sealed. It is put next, and then named by the root.
func (w *Writer) Sealed(s *Shard, sealed []byte) {
	sum := sha256.Sum256(sealed)
	entry := &written{content: *s, ref: Ref{Number: s.Number, Seq: s.Seq, Count: uint8(len(s.Members)), Sum: sum[:]}, sealed: sealed, soonest: 1<<63 - 1} //nolint:gosec // 64 at most
	for i := range s.Members {
		entry.soonest = min(entry.soonest, s.Members[i].NotAfter)
	}
	w.shards[s.Number] = entry
	w.changed = true
}

// Put is a shard whose bytes are to be stored again.
type Put struct {
	Number uint32
	Seq    int64
	Sealed []byte
}

// Again returns the shards that the overlay does not have yet, or will forget.
func (w *Writer) Again(now time.Time) (all []Put) {
	for _, n := range slices.Sorted(maps.Keys(w.shards)) {
		if s := w.shards[n]; !now.Before(s.again) {
			all = append(all, Put{n, s.ref.Seq, s.sealed})
		}
	}
	return all
}

// Published returns every shard as it was put last, those that were not yet left
// out.
func (w *Writer) Published() (all []Put) {
	for _, n := range slices.Sorted(maps.Keys(w.shards)) {
		if s := w.shards[n]; !s.again.IsZero() {
			all = append(all, Put{n, s.ref.Seq, s.sealed})
		}
	}
	return all
}

// Stored notes that a shard was put.
func (w *Writer) Stored(number uint32, now time.Time) {
	if s := w.shards[number]; s != nil {
		s.again = now.Add(ShardLife / 2)
	}
}

// Root returns the root to seal, if one is due.
func (w *Writer) Root(epoch, generation uint32, now time.Time) (Root, bool) {
	if !w.changed && now.Before(w.until) {
		return Root{}, false
	}
	r := Root{Service: w.service, Epoch: epoch, Seq: w.NextSeq(now), Expires: now.Add(RootLife).Unix(), Generation: generation, Block: w.block.String(), Helpers: w.helpers}
	for _, n := range slices.Sorted(maps.Keys(w.shards)) {
		r.Shards = append(r.Shards, w.shards[n].ref)
	}
	return r, true
}

// RootStored notes that the root was published.
func (w *Writer) RootStored(now time.Time) {
	w.changed, w.until = false, now.Add(RootLife/2)
}
