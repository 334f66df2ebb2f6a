package overlay

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
)

// Get finds the item with the highest sequence number that a node near its target,
// a replica or this node itself has. A withdrawn item comes with an error that is
// ErrNotFound, for its sequence number. hops is the length of the path on which it
// was found first, 0 if no path led to it: then the node itself or the replica had
// it.
func (m *Machine) Get(key ed25519.PublicKey, salt []byte, done func(it Item, hops int, err error)) *Call {
	return m.getItem(key, salt, 0, done)
}

// getItem is Get; copies with a lower sequence number than least do not count as
// enough of them.
func (m *Machine) getItem(key ed25519.PublicKey, salt []byte, least int64, done func(Item, int, error)) *Call {
	if len(key) != ed25519.PublicKeySize || len(salt) > MaxSalt {
		done(Item{}, 0, fmt.Errorf("%w: key or salt", ErrInvalid))
		return nil
	}
	s := m.itemSearch(key, salt)
	s.least = least
	c := m.begin(func(cause error) { s.cancel(cause) })
	if c == nil {
		done(Item{}, 0, ErrNotRunning)
		return nil
	}
	s.oneOf = m.replicasAtRandom()
	s.run(nil, func() {
		m.end(c)
		if s.depth > 0 {
			m.stats.hop(s.depth)
		}
		switch {
		case !s.found:
			done(Item{}, 0, s.absence())
		case s.best.Withdrawn():
			done(s.best, s.depth, fmt.Errorf("%w: withdrawn", ErrNotFound))
		default:
			done(s.best, s.depth, nil)
		}
	})
	return c
}

// replicasAtRandom returns the replicas in random order, those that do not answer
// last.
func (m *Machine) replicasAtRandom() []netip.AddrPort {
	replicas := m.replicaAddrs()
	m.rand.Shuffle(len(replicas), func(i, j int) { replicas[i], replicas[j] = replicas[j], replicas[i] })
	failing := make(map[netip.AddrPort]int)
	for c := range m.table.all {
		failing[c.Addr] = c.fails
	}
	slices.SortStableFunc(replicas, func(a, b netip.AddrPort) int { return failing[a] - failing[b] })
	return replicas
}

// search is a walk that gathers the copies of an item or chunk which answers
// carry, and keeps the newest.
type search struct {
	m      *Machine
	target id.ID
	accept func(*message) (Item, bool) // returns what is in an answer if its proof holds
	need   int                         // copies that are enough
	settle time.Duration               // how long to wait for others after enough copies
	least  int64                       // sequence number from which on they count
	oneOf  []netip.AddrPort            // replicas, one of which is asked beside the walk

	walk   *walk
	timer  *timer
	best   Item
	found  bool
	copies int
	depth  int   // of the first copy that a path led to
	cause  error // why it was made to end
	over   bool
	done   func()
}

// itemSearch looks for the item of key and salt.
func (m *Machine) itemSearch(key, salt []byte) *search {
	wanted := Item{Key: slices.Clone(key), Salt: slices.Clone(salt)}
	s := &search{m: m, target: Target(key, salt), need: enoughCopies, settle: m.cfg.Resend}
	s.accept = func(msg *message) (Item, bool) {
		it := msg.item(wanted.Salt)
		// BEP 44 has the reader compare the target; comparing key and salt also
		// leaves SHA-1 out of it.
		if !msg.all(hasKey) || !wanted.Key.Equal(it.Key) {
			return it, false
		}
		// A copy of what was verified needs no second look.
		same := s.found && it.Sig == s.best.Sig && it.equal(s.best)
		return it, same || it.Verify()
	}
	return s
}

// chunkSearch looks for the chunk of that name: one copy is enough.
func (m *Machine) chunkSearch(name [sha256.Size]byte) *search {
	return &search{
		m: m, target: chunkTarget(name), need: 1,
		accept: func(msg *message) (Item, bool) {
			return Item{Value: msg.value}, !msg.any(hasKey) && chunk(msg.value).name() == name
		},
	}
}

// run looks in the own store, asks the nodes near the target and those in direct,
// and calls done once, at once or later.
func (s *search) run(direct []netip.AddrPort, done func()) {
	s.done = done
	if it, ok := s.m.store.get(s.m.now, s.target); ok {
		msg := message{has: hasValue, value: it.Value}
		if it.Key != nil {
			msg.setItem(it)
		}
		s.offer(&msg, 0)
	}
	if s.over {
		return
	}
	s.walk = s.m.walk(walkSpec{
		q: get, target: s.target, direct: direct, oneOf: s.oneOf,
		answered: func(r reply, depth int) { s.offer(r.msg, depth) },
		done:     func(w *walk) { s.walk = w; s.finish() },
	})
	if s.over {
		s.walk.abandon()
	}
}

// offer takes an answer into account.
func (s *search) offer(msg *message, depth int) {
	if s.over || !msg.all(hasValue) {
		return
	}
	it, ok := s.accept(msg)
	if !ok {
		s.m.stats.Contradicted.Add(1)
		return
	}
	if s.depth == 0 {
		s.depth = depth
	}
	switch {
	case !s.found || it.newer(s.best):
		it.Key, it.Salt, it.Value = slices.Clone(it.Key), slices.Clone(it.Salt), slices.Clone(it.Value)
		s.best, s.found, s.copies = it, true, 1
	case it.equal(s.best):
		s.copies++
	}
	if s.copies < s.need || s.best.Seq < s.least {
		return
	}
	if s.settle == 0 {
		s.finish()
		return
	}
	// Silent nodes are not waited for any longer; those that answer are.
	s.m.timers.stop(s.timer)
	s.timer = s.m.after(s.settle, s.finish)
}

// cancel ends the search because of cause; what was found counts.
func (s *search) cancel(cause error) {
	s.cause = cause
	s.finish()
}

func (s *search) finish() {
	if s.over {
		return
	}
	s.abandon()
	s.done()
}

// abandon ends the search without done being called.
func (s *search) abandon() {
	s.over = true
	s.m.timers.stop(s.timer)
	if s.walk != nil {
		s.walk.abandon()
	}
}

// absence says why nothing was found.
func (s *search) absence() error {
	switch {
	case s.cause == ErrNotRunning: //nolint:errorlint // it is ours
		return ErrNotRunning
	case s.cause != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, s.cause)
	case s.walk != nil && s.walk.replies > 0, s.m.alone():
		return ErrNotFound
	}
	return ErrUnreachable
}
