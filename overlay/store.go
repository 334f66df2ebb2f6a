package overlay

import (
	"bytes"
	"crypto/ed25519"
	"net/netip"
	"sync"
	"time"

	"icvpn/internal/id"
)

// limits bound a store.
type limits struct {
	items     int           // entries in all
	bytes     int           // of values, salts and entryOverhead in all
	perKey    int           // mutable items under one key
	perSource int           // entries first put by one address
	expiry    time.Duration // after the last put
}

// entryOverhead is what an entry costs besides value and salt, for the byte
// limit to be about memory.
const entryOverhead = 256

// store keeps items and chunks in memory for the overlay. The library's own
// store has no bound, expires only what somebody asks for and compares the wrong
// field for compare-and-swap, so none of it is used. It reads no clock.
//
// A full store refuses; it never drops a live entry for a new one, so that a
// flood cannot push out what is there.
type store struct {
	limits limits

	mu        sync.Mutex
	entries   map[id.ID]*entry
	perKey    map[[ed25519.PublicKeySize]byte]int
	perSource map[netip.Addr]int
	bytes     int
}

type entry struct {
	item    Item // a chunk has only a value
	source  netip.Addr
	expires time.Time
}

func (e *entry) size() int { return len(e.item.Value) + len(e.item.Salt) + entryOverhead }

// own is the source of what this node puts itself: no quota, but the bounds on
// items and bytes hold.
var own netip.Addr

func newStore(l limits) *store {
	return &store{
		limits:    l,
		entries:   make(map[id.ID]*entry),
		perKey:    make(map[[ed25519.PublicKeySize]byte]int),
		perSource: make(map[netip.Addr]int),
	}
}

// putItem stores it for source, or returns the BEP 44 error code for refusing.
// It borrows it: what is kept is a copy. Cheap checks come first, the signature
// last.
func (s *store) putItem(now time.Time, it Item, source netip.Addr) (code int64) {
	switch {
	case len(it.Key) != ed25519.PublicKeySize:
		return codeProtocol
	case len(it.Value) > MaxValue:
		return codeTooBig
	case len(it.Salt) > MaxSalt:
		return codeSalt
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	target := Target(it.Key, it.Salt)
	old := s.liveLocked(now, target)
	if old != nil {
		if old.item.equal(it) {
			old.expires = now.Add(s.limits.expiry) // verified when it came first
			return 0
		}
		// Of two values with one sequence number the first stays (BEP 44).
		if old.item.Seq >= it.Seq {
			return codeSequence
		}
	}
	e := &entry{item: it, source: source, expires: now.Add(s.limits.expiry)}
	if !s.roomLocked(e, old) {
		return codeFull
	}
	if !it.Verify() {
		return codeSignature
	}
	e.item.Key, e.item.Salt, e.item.Value = bytes.Clone(it.Key), bytes.Clone(it.Salt), bytes.Clone(it.Value)
	s.replaceLocked(target, old, e)
	return 0
}

// putChunk stores a chunk under its own hash. It borrows c.
func (s *store) putChunk(now time.Time, c chunk, source netip.Addr) (code int64) {
	if len(c) > MaxValue {
		return codeTooBig
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	target := chunkTarget(c.name())
	if old := s.liveLocked(now, target); old != nil && bytes.Equal(old.item.Value, c) {
		old.expires = now.Add(s.limits.expiry)
		return 0
	} else if old != nil {
		return codeFull // 160 bits of a name collided: keep the first
	}
	e := &entry{item: Item{Value: bytes.Clone(c)}, source: source, expires: now.Add(s.limits.expiry)}
	if !s.roomLocked(e, nil) {
		return codeFull
	}
	s.replaceLocked(target, nil, e)
	return 0
}

// get returns what is stored at target; a chunk is an Item without a key.
func (s *store) get(now time.Time, target id.ID) (Item, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.liveLocked(now, target); e != nil {
		return e.item, true
	}
	return Item{}, false
}

// sweep removes what has expired.
func (s *store) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for target := range s.entries {
		s.liveLocked(now, target)
	}
}

// size returns the number of entries and their bytes.
func (s *store) size() (items, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries), s.bytes
}

// liveLocked returns the entry at target and removes it if it has expired.
func (s *store) liveLocked(now time.Time, target id.ID) *entry {
	e := s.entries[target]
	if e != nil && !now.Before(e.expires) {
		s.replaceLocked(target, e, nil)
		return nil
	}
	return e
}

// roomLocked says whether e fits in place of old, which may be nil.
func (s *store) roomLocked(e, old *entry) bool {
	grown := e.size()
	if old != nil {
		return s.bytes+grown-old.size() <= s.limits.bytes
	}
	if len(s.entries) >= s.limits.items || s.bytes+grown > s.limits.bytes {
		return false
	}
	if e.source == own {
		return true
	}
	return s.perSource[e.source] < s.limits.perSource &&
		(e.item.Key == nil || s.perKey[[ed25519.PublicKeySize]byte(e.item.Key)] < s.limits.perKey)
}

// replaceLocked puts e, or nothing, in the place of old, or nothing, and keeps
// the counts. A replaced entry stays on the account of its first source.
func (s *store) replaceLocked(target id.ID, old, e *entry) {
	if old != nil {
		if e != nil {
			e.source = old.source
		}
		delete(s.entries, target)
		s.countLocked(old, -1)
	}
	if e != nil {
		s.entries[target] = e
		s.countLocked(e, 1)
	}
}

func (s *store) countLocked(e *entry, by int) {
	s.bytes += by * e.size()
	if e.source == own {
		return
	}
	count(s.perSource, e.source, by)
	if e.item.Key != nil {
		count(s.perKey, [ed25519.PublicKeySize]byte(e.item.Key), by)
	}
}

func count[K comparable](m map[K]int, k K, by int) {
	if m[k] += by; m[k] == 0 {
		delete(m, k)
	}
}
