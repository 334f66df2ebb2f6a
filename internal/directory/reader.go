package directory

import (
	"cmp"
	"fmt"
	"slices"

	"icvpn/internal/service"
)

// Reader follows one super peer's directory: which shards to fetch, and which
// versions count. It has one owner.
//
//	OnRoot ─> Wanted ─> (fetch, Ref.Check, OpenShard) ─> OnShard ─> Complete
type Reader struct {
	seq    int64             // of the newest root, -1 at first
	whole  bool              // every shard of a root was read in some version, once
	named  []Ref             // by the newest root
	have   map[uint32]int64  // sequence number of each shard read, whether it is still named or not
	missed map[uint32]int    // how often a shard could not be read lately
	urgent map[uint32]uint64 // shards that packets wait for, in order
	asked  uint64
}

// NewReader returns the reader of a directory of which nothing is known.
func NewReader() *Reader {
	return &Reader{seq: -1, have: map[uint32]int64{}, missed: map[uint32]int{}, urgent: map[uint32]uint64{}}
}

// Seq is the sequence number of the newest root, -1 if there is none.
func (r *Reader) Seq() int64 { return r.seq }

// OnRoot takes in a newer root and returns the shards that it does not name any
// more: nobody is in them. An older root, or one that goes back in a shard, is
// ErrRollback and changes nothing.
func (r *Reader) OnRoot(root *Root) (gone []uint32, err error) {
	if root.Seq <= r.seq {
		return nil, fmt.Errorf("%w: root of sequence number %d after %d", service.ErrRollback, root.Seq, r.seq)
	}
	for _, ref := range root.Shards {
		if have, ok := r.have[ref.Number]; ok && ref.Seq < have {
			return nil, fmt.Errorf("%w: the root names version %d of shard %d, %d has been read", service.ErrRollback, ref.Seq, ref.Number, have)
		}
	}
	for _, old := range r.named {
		if !slices.ContainsFunc(root.Shards, func(ref Ref) bool { return ref.Number == old.Number }) {
			gone = append(gone, old.Number)
		}
	}
	r.seq, r.named = root.Seq, root.Shards
	r.look()
	return gone, nil
}

// Want puts a shard before the others: a packet waits for somebody in it.
func (r *Reader) Want(number uint32) {
	if _, ok := r.urgent[number]; !ok && number < MaxShards {
		r.asked++
		r.urgent[number] = r.asked
	}
}

// Wanted returns the shards to fetch: those that packets wait for first, in the
// order in which they were wanted, then those of which we have the oldest version;
// those that could not be read lately after the others. urgent is how many are
// waited for.
func (r *Reader) Wanted() (refs []Ref, urgent int) {
	for _, ref := range r.named {
		if have, ok := r.have[ref.Number]; !ok || have != ref.Seq {
			refs = append(refs, ref)
			if r.urgent[ref.Number] != 0 {
				urgent++
			}
		}
	}
	slices.SortStableFunc(refs, func(a, b Ref) int {
		return cmp.Or(cmp.Compare(r.place(a), r.place(b)), cmp.Compare(r.missed[a.Number], r.missed[b.Number]), cmp.Compare(r.have[a.Number], r.have[b.Number]))
	})
	return refs, urgent
}

// place is a shard's among those that packets wait for; the others come last.
func (r *Reader) place(ref Ref) uint64 {
	if at := r.urgent[ref.Number]; at != 0 {
		return at
	}
	return 1 << 63
}

// Settle forgets what packets waited for: it was read, or is not there.
func (r *Reader) Settle() { clear(r.urgent) }

// OnMiss notes that a shard that a root named could not be read.
func (r *Reader) OnMiss(number uint32) { r.missed[number]++ }

// OnShard takes in a shard that a root named and that matched it. It says false
// for one that a newer root has overtaken.
func (r *Reader) OnShard(ref Ref) bool {
	i := slices.IndexFunc(r.named, func(n Ref) bool { return n.Number == ref.Number })
	if i < 0 || r.named[i].Seq != ref.Seq || r.have[ref.Number] > ref.Seq {
		return false
	}
	r.have[ref.Number] = ref.Seq
	delete(r.missed, ref.Number)
	r.look()
	return true
}

// look notes whether nothing is unread any more.
func (r *Reader) look() {
	r.whole = r.whole || !slices.ContainsFunc(r.named, func(ref Ref) bool { _, ok := r.have[ref.Number]; return !ok })
}

// Whole says whether the directory was read from end to end, once: who is missing then
// came lately.
func (r *Reader) Whole() bool { return r.whole }

// Complete says whether every shard of the newest root was read.
func (r *Reader) Complete() bool {
	refs, _ := r.Wanted()
	return r.seq >= 0 && len(refs) == 0
}
