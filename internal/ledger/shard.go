package ledger

import (
	"container/list"
	"slices"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// shardBits is how many low bits of a host number are one shard's: 64 addresses.
const shardBits = 6

// ShardSize is the number of addresses in a shard.
const ShardSize = 1 << shardBits

// Reading for directories, at the cost of what changed:
//
//	shards, version := l.Changed(0)      // all that have anybody
//	for _, n := range shards { publish(n, l.Shard(n)) }
//	...
//	shards, version = l.Changed(version) // those that changed since
//
// A version counts within one process; after a restart begin with 0. Ends of
// credentials are changes from the next Expire on; until then a Shard has
// entries whose NotAfter has passed.

// shard is the members whose host numbers have the same high bits.
type shard struct {
	n       uint32
	hosts   map[uint32]*Entry
	tombs   map[id.ID]Tombstone
	version uint64
	elem    *list.Element // in Ledger.changes
}

// Shard is what a directory shard lists.
type Shard struct {
	Members    []*Entry    // by address
	Tombstones []Tombstone // by PID
	Version    uint64      // of its last change
}

// changed returns the shard of a host, and notes that it changes.
func (l *Ledger) changed(host uint32) *shard {
	n := host >> shardBits
	s := l.shards[n]
	if s == nil {
		s = &shard{n: n, hosts: map[uint32]*Entry{}, tombs: map[id.ID]Tombstone{}}
		s.elem = l.changes.PushFront(s)
		l.shards[n] = s
	}
	l.version++
	s.version = l.version
	l.changes.MoveToFront(s.elem)
	return s
}

// Changed returns the numbers of the shards that changed after version since,
// sorted, and the version that is now.
func (l *Ledger) Changed(since uint64) (shards []uint32, version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.changes.Front(); e != nil; e = e.Next() {
		s := e.Value.(*shard)
		if s.version <= since {
			break
		}
		shards = append(shards, s.n)
	}
	slices.Sort(shards)
	return shards, l.version
}

// Touch has the shard of a member count as changed: what is said of him
// elsewhere changes what is to be said here.
func (l *Ledger) Touch(pid id.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.members[pid]; e != nil {
		l.changed(e.host)
	}
}

// Shard returns the shard of the host numbers n<<6 to n<<6 + 63.
func (l *Ledger) Shard(n uint32) Shard {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shards[n]
	if s == nil {
		return Shard{}
	}
	out := Shard{Version: s.version, Members: make([]*Entry, 0, len(s.hosts))}
	for _, e := range s.hosts {
		out.Members = append(out.Members, e)
	}
	slices.SortFunc(out.Members, func(a, b *Entry) int { return int(a.host) - int(b.host) })
	for _, t := range s.tombs {
		out.Tombstones = append(out.Tombstones, t)
	}
	slices.SortFunc(out.Tombstones, func(a, b Tombstone) int { return a.PID.Compare(b.PID) })
	return out
}

// Drop makes t.PID a member no longer, if its entry was issued at t.Issued or
// before, and keeps the tombstone until t.Until. Its address stays leased: its
// credential goes on until then. It says whether there was such an entry, which
// is out also when the disk does not take it: then a restart brings it back.
func (l *Ledger) Drop(t Tombstone) (dropped bool, err error) {
	l.mu.Lock()
	if dropped = l.dies(t); dropped {
		l.leave(t.PID)
		l.bury(t)
	}
	l.mu.Unlock()
	if !dropped {
		return false, nil
	}
	return true, l.commit(&change{stage: func(b *batch) {
		if l.members[t.PID] == nil && l.pending[t.PID] == nil { // not back, nor on the way
			b.add(op{bucketMembers, string(t.PID[:]), nil})
			b.add(t.op())
		}
	}})
}

// dies says whether t is the end of the entry that its PID has. Who is being
// admitted at this moment is newer than any tombstone.
func (l *Ledger) dies(t Tombstone) bool {
	e := l.members[t.PID]
	return e != nil && l.pending[t.PID] == nil && e.Member.Issued <= t.Issued
}

func (l *Ledger) bury(t Tombstone) {
	l.tombs[t.PID] = t
	l.fading.Set(t.PID, t.Until)
	l.changed(t.Host).tombs[t.PID] = t
}

func (l *Ledger) unbury(pid id.ID) {
	t, ok := l.tombs[pid]
	if !ok {
		return
	}
	delete(l.tombs, pid)
	l.fading.Remove(pid)
	delete(l.changed(t.Host).tombs, pid)
}

// Tombstone returns the tombstone of a PID.
func (l *Ledger) Tombstone(pid id.ID) (Tombstone, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.tombs[pid]
	return t, ok
}

func (t Tombstone) op() op { return op{bucketTombstones, string(t.PID[:]), wire.Marshal(t)} }
