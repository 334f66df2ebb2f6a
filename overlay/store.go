package overlay

import (
	"bytes"
	"crypto/ed25519"
	"sync"
	"time"

	"icvpn/internal/id"
)

// entryOverhead is what an entry costs besides value and salt, for the byte
// limit to be about memory.
const entryOverhead = 256

// store keeps items and chunks in memory for the overlay. The library's own
// store has no bound, expires only what somebody asks for and compares the wrong
// field for compare-and-swap, so none of it is used. It reads no clock.
//
// Invariant: a put costs nobody but its own account. An item stands on one
// account, that of who put it last, and stays until it expires. A chunk is kept
// by every account that put it, counted on each, and goes with the last: so an
// account without room displaces its own chunks, those first that expire first,
// and cannot take with them what somebody else keeps.
type store struct {
	expiry time.Duration // after the last put

	mu      sync.Mutex
	books   books
	entries map[id.ID]*entry
	kept    map[account]map[id.ID]time.Time // the chunks that an account keeps, and how long
}

type entry struct {
	item    Item    // a chunk has only a value
	account account // of an item
	keepers int     // of a chunk: the accounts that keep it
	expires time.Time
}

func (e *entry) size() int { return len(e.item.Value) + len(e.item.Salt) + entryOverhead }

func (e *entry) isChunk() bool { return e.item.Key == nil }

func newStore(l limits, expiry time.Duration) *store {
	return &store{
		expiry:  expiry,
		books:   newBooks(l),
		entries: make(map[id.ID]*entry),
		kept:    make(map[account]map[id.ID]time.Time),
	}
}

// putItem stores it on account a, or returns the BEP 44 error code for refusing.
// It borrows it: what is kept is a copy. Cheap checks come first, the signature
// last.
func (s *store) putItem(now time.Time, it Item, a account) (code int64) {
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
	if e := s.entries[target]; e != nil && e.isChunk() {
		return codeFull // 160 bits of its name collided with ours: keep the first
	}
	old := s.liveLocked(now, target)
	switch {
	case old == nil:
	case old.item.equal(it):
		return s.refreshLocked(now, old, a)
	case old.item.Seq >= it.Seq:
		// Of two values with one sequence number the first stays (BEP 44).
		return codeSequence
	}
	e := &entry{item: it, account: a, expires: now.Add(s.expiry)}
	if code := s.bookLocked(e, old, it.Verify); code != 0 {
		return code
	}
	e.item.Key, e.item.Salt, e.item.Value = bytes.Clone(it.Key), bytes.Clone(it.Salt), bytes.Clone(it.Value)
	s.entries[target] = e
	return 0
}

// refreshLocked lets the item in e, which was verified when it came first, live on,
// on account a. What this node put itself stays its own, and ends when it does not
// put it again.
func (s *store) refreshLocked(now time.Time, e *entry, a account) (code int64) {
	if e.account == own && a != own {
		return 0
	}
	if e.account != a {
		moved := &entry{item: e.item, account: a}
		if code := s.bookLocked(moved, e, func() bool { return true }); code != 0 {
			return code
		}
		e.account = a
	}
	e.expires = now.Add(s.expiry)
	return 0
}

// bookLocked takes an item into the books in place of old, which may be nil. It
// asks for the proof once it is known that there is room, and displaces chunks
// only after that.
func (s *store) bookLocked(e, old *entry, proof func() bool) (code int64) {
	if old != nil {
		s.books.enter(old.account, -1, old.size())
	}
	switch {
	case e.account != own && !s.fitsLocked(e.account, e.size()):
		code = codeFull
	case !proof():
		code = codeSignature
	}
	if code != 0 {
		if old != nil {
			s.books.enter(old.account, 1, old.size())
		}
		return code
	}
	if e.account != own { // the program bounds its own items
		s.displaceLocked(e.account, e.size())
	}
	s.books.enter(e.account, 1, e.size())
	return 0
}

// putChunk stores a chunk under its own hash for the given life, or for as long
// as an item if that is zero or longer. It borrows c.
func (s *store) putChunk(now time.Time, c chunk, a account, life time.Duration) (code int64) {
	if len(c) > MaxValue {
		return codeTooBig
	}
	if life <= 0 || life > s.expiry {
		life = s.expiry
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	target := chunkTarget(c.name())
	e := s.entries[target]
	if e != nil && (!e.isChunk() || !bytes.Equal(e.item.Value, c)) {
		return codeFull // 160 bits of a name collided: keep the first
	}
	if e == nil {
		e = &entry{item: Item{Value: c}}
	}
	if _, ok := s.kept[a][target]; !ok {
		if a != own && !s.fitsLocked(a, e.size()) {
			return codeFull
		}
		s.displaceLocked(a, e.size())
		s.keepLocked(target, e, a)
	}
	// A shorter life than it was put for before does not take that back.
	until := now.Add(life)
	if until.After(s.kept[a][target]) {
		s.kept[a][target] = until
	}
	if until.After(e.expires) {
		e.expires = until
	}
	return 0
}

// keepLocked enters a as one who keeps the chunk in e, new or not.
func (s *store) keepLocked(target id.ID, e *entry, a account) {
	if e.keepers == 0 {
		e.item.Value = bytes.Clone(e.item.Value)
		s.entries[target] = e
	}
	e.keepers++
	if s.kept[a] == nil {
		s.kept[a] = make(map[id.ID]time.Time)
	}
	s.kept[a][target] = time.Time{}
	s.books.enter(a, 1, e.size())
}

// dropLocked ends the keeping of a chunk by a, and the chunk with its last keeper.
func (s *store) dropLocked(target id.ID, a account) {
	e := s.entries[target]
	s.books.enter(a, -1, e.size())
	if delete(s.kept[a], target); len(s.kept[a]) == 0 {
		delete(s.kept, a)
	}
	if e.keepers--; e.keepers == 0 {
		delete(s.entries, target)
	}
}

// fitsLocked says whether size more bytes fit on a, at worst in place of all its
// chunks.
func (s *store) fitsLocked(a account, size int) bool {
	if s.books.room(a, size, usage{}) {
		return true
	}
	var chunks usage
	for target := range s.kept[a] {
		chunks.items++
		chunks.bytes += s.entries[target].size()
	}
	return chunks.items > 0 && s.books.room(a, size, chunks)
}

// displaceLocked drops chunks of a until size more bytes fit, or it has none.
func (s *store) displaceLocked(a account, size int) {
	for len(s.kept[a]) > 0 && !s.books.room(a, size, usage{}) {
		var first id.ID
		var end time.Time
		for target, until := range s.kept[a] {
			if end.IsZero() || until.Before(end) {
				first, end = target, until
			}
		}
		s.dropLocked(first, a)
	}
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
	for a, chunks := range s.kept {
		for target, until := range chunks {
			if !now.Before(until) {
				s.dropLocked(target, a)
			}
		}
	}
}

// size returns the number of entries and their bytes.
func (s *store) size() (items, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		bytes += e.size()
	}
	return len(s.entries), bytes
}

// liveLocked returns the entry at target unless it has expired. An expired item
// goes at once; a chunk waits for the sweep of its keepers.
func (s *store) liveLocked(now time.Time, target id.ID) *entry {
	e := s.entries[target]
	if e == nil || now.Before(e.expires) {
		return e
	}
	if !e.isChunk() {
		s.books.enter(e.account, -1, e.size())
		delete(s.entries, target)
	}
	return nil
}
