package overlay

import (
	"bytes"
	"crypto/ed25519"
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

	books   books
	entries map[id.ID]*entry
	bytes   int                             // of the entries
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
	target := Target(it.Key, it.Salt)
	if e := s.entries[target]; e != nil && e.isChunk() {
		return codeFull // 160 bits of its name collided with ours: keep the first
	}
	old := s.live(now, target)
	switch {
	case old == nil:
	case old.item.equal(it):
		return s.refresh(now, old, a)
	case old.item.Seq >= it.Seq:
		// Of two values with one sequence number the first stays (BEP 44).
		return codeSequence
	}
	e := &entry{item: it, account: a, expires: now.Add(s.expiry)}
	if code := s.book(e, old, it.Verify); code != 0 {
		return code
	}
	e.item.Key, e.item.Salt, e.item.Value = bytes.Clone(it.Key), bytes.Clone(it.Salt), bytes.Clone(it.Value)
	if old != nil {
		s.bytes -= old.size()
	}
	s.entries[target] = e
	s.bytes += e.size()
	return 0
}

// refresh lets the item in e, which was verified when it came first, live on,
// on account a. What this node put itself stays its own, and ends when it does not
// put it again.
func (s *store) refresh(now time.Time, e *entry, a account) (code int64) {
	if e.account == own && a != own {
		return 0
	}
	if e.account != a {
		moved := &entry{item: e.item, account: a}
		if code := s.book(moved, e, func() bool { return true }); code != 0 {
			return code
		}
		e.account = a
	}
	e.expires = now.Add(s.expiry)
	return 0
}

// book takes an item into the books in place of old, which may be nil. It
// asks for the proof once it is known that there is room, and displaces chunks
// only after that.
func (s *store) book(e, old *entry, proof func() bool) (code int64) {
	if old != nil {
		s.books.enter(old.account, -1, old.size())
	}
	switch {
	case e.account != own && !s.fits(e.account, e.size()):
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
		s.displace(e.account, e.size())
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
	target := chunkTarget(c.name())
	e := s.entries[target]
	if e != nil && (!e.isChunk() || !bytes.Equal(e.item.Value, c)) {
		return codeFull // 160 bits of a name collided: keep the first
	}
	if e == nil {
		e = &entry{item: Item{Value: c}}
	}
	if _, ok := s.kept[a][target]; !ok {
		if a != own && !s.fits(a, e.size()) {
			return codeFull
		}
		s.displace(a, e.size())
		s.keep(target, e, a)
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

// keep enters a as one who keeps the chunk in e, new or not.
func (s *store) keep(target id.ID, e *entry, a account) {
	if e.keepers == 0 {
		e.item.Value = bytes.Clone(e.item.Value)
		s.entries[target] = e
		s.bytes += e.size()
	}
	e.keepers++
	if s.kept[a] == nil {
		s.kept[a] = make(map[id.ID]time.Time)
	}
	s.kept[a][target] = time.Time{}
	s.books.enter(a, 1, e.size())
}

// drop ends the keeping of a chunk by a, and the chunk with its last keeper.
func (s *store) drop(target id.ID, a account) {
	e := s.entries[target]
	s.books.enter(a, -1, e.size())
	if delete(s.kept[a], target); len(s.kept[a]) == 0 {
		delete(s.kept, a)
	}
	if e.keepers--; e.keepers == 0 {
		delete(s.entries, target)
		s.bytes -= e.size()
	}
}

// fits says whether size more bytes fit on a, at worst in place of all its
// chunks.
func (s *store) fits(a account, size int) bool {
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

// displace drops chunks of a until size more bytes fit, or it has none.
func (s *store) displace(a account, size int) {
	for len(s.kept[a]) > 0 && !s.books.room(a, size, usage{}) {
		var first id.ID
		var end time.Time
		for target, until := range s.kept[a] {
			// Of two that end together the one of lower name: maps have no order.
			if end.IsZero() || until.Before(end) || until.Equal(end) && target.Compare(first) < 0 {
				first, end = target, until
			}
		}
		s.drop(first, a)
	}
}

// get returns what is stored at target; a chunk is an Item without a key.
func (s *store) get(now time.Time, target id.ID) (Item, bool) {
	if e := s.live(now, target); e != nil {
		return e.item, true
	}
	return Item{}, false
}

// sweep removes what has expired.
func (s *store) sweep(now time.Time) {
	for target := range s.entries {
		s.live(now, target)
	}
	for a, chunks := range s.kept {
		for target, until := range chunks {
			if !now.Before(until) {
				s.drop(target, a)
			}
		}
	}
}

// size returns the number of entries and their bytes.
func (s *store) size() (items, bytes int) { return len(s.entries), s.bytes }

// live returns the entry at target unless it has expired. An expired item
// goes at once; a chunk waits for the sweep of its keepers.
func (s *store) live(now time.Time, target id.ID) *entry {
	e := s.entries[target]
	if e == nil || now.Before(e.expires) {
		return e
	}
	if !e.isChunk() {
		s.books.enter(e.account, -1, e.size())
		delete(s.entries, target)
		s.bytes -= e.size()
	}
	return nil
}
