package overlay

import (
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
)

// table is the routing table: for each distance some contacts, Kademlia's k or more,
// that answered a query of ours, so their address is proved. It is pure: no clock, no lock, no
// I/O.
//
//	queries us ──> wanted? ──> ping ──answer──> contact ──3 silences──> gone
//	                                              │  ▲                    │
//	                                  bucket full ▼  └── spare moves up <─┘
//	                                            spare
//
// An answer that does not count, because the node is not admitted, refuses or is
// another, is a silence.
//
// The library's table is not used: it forgets dead nodes only where all nearer
// buckets are full, that is on a small overlay never.
type table struct {
	self    id.ID
	size    int      // contacts, and spares, in a bucket
	buckets []bucket // by leading zeros of the distance, as far as there are contacts
	version uint64   // changes with the contacts that are handed out
}

// bucket holds contacts of one distance; the longest unheard comes first.
type bucket struct {
	contacts []contact
	spares   []Node    // answered once while the bucket was full; newest last
	touched  time.Time // last walk to an ID in it
}

// contact is a node whose address is proved. It is heard by an answer, or by a
// query from its address; those could be forged by a member, so they alone do not
// keep it for ever.
type contact struct {
	Node
	since    time.Time // first answer of those without a silence between them
	heard    time.Time // last answer or query
	answered time.Time // last answer
	asked    time.Time // last ping to check it
	fails    int       // unanswered queries since
}

// maxContacts is more than there can be.
const maxContacts = 8 * id.Size * maxBucket

func newTable(self id.ID, size int) *table { return &table{self: self, size: size} }

func (t *table) bucket(n id.ID) *bucket {
	i := t.self.Distance(n).LeadingZeros()
	if i == 8*id.Size {
		return nil // ourselves
	}
	for len(t.buckets) <= i {
		t.buckets = append(t.buckets, bucket{})
	}
	return &t.buckets[i]
}

// find returns the contact that is n, at the same address; nil if there is none.
func (t *table) find(n Node) *contact {
	i := t.self.Distance(n.ID).LeadingZeros()
	if i >= len(t.buckets) {
		return nil
	}
	for j := range t.buckets[i].contacts {
		if c := &t.buckets[i].contacts[j]; c.Node == n {
			return c
		}
	}
	return nil
}

// onAnswer is called after n answered a query of ours from n.Addr. Any other ID
// at that address is gone, so one address is one contact. If n.ID is known at
// another address that has not failed, the old address stays and is returned as
// doubtful: if it is silent, the next answer moves the contact.
func (t *table) onAnswer(now time.Time, n Node) (doubtful netip.AddrPort) {
	if t.find(n) == nil {
		t.vacate(n)
	}
	b := t.bucket(n.ID)
	if b == nil {
		return doubtful
	}
	since := now
	i := slices.IndexFunc(b.contacts, func(c contact) bool { return c.ID == n.ID })
	if i >= 0 {
		old := b.contacts[i]
		if old.Addr != n.Addr && old.fails == 0 {
			return old.Addr
		}
		if old.fails == 0 {
			since = old.since
			t.version-- // nothing changes
		}
		b.contacts = slices.Delete(b.contacts, i, i+1)
	} else if len(b.contacts) >= t.size {
		i = slices.IndexFunc(b.contacts, func(c contact) bool { return c.fails > 0 })
		if i < 0 {
			b.spare(n, t.size)
			return doubtful
		}
		b.contacts = slices.Delete(b.contacts, i, i+1)
	}
	t.version++
	b.contacts = append(b.contacts, contact{Node: n, since: since, heard: now, answered: now})
	if len(b.contacts) == t.size && b.touched.IsZero() {
		b.touched = now // filled without a walk
	}
	b.spares = slices.DeleteFunc(b.spares, func(s Node) bool { return s.ID == n.ID })
	return doubtful
}

// onQuery is called with who queried us. A contact counts as heard.
func (t *table) onQuery(now time.Time, n Node) (known bool) {
	c := t.find(n)
	if c != nil && c.fails == 0 {
		c.heard = now
	}
	return c != nil
}

// onAsked is called when a contact is pinged to check it.
func (t *table) onAsked(n Node, now time.Time) {
	if c := t.find(n); c != nil {
		c.asked = now
	}
}

// touch is called with the target of a walk.
func (t *table) touch(now time.Time, target id.ID) {
	if i := t.self.Distance(target).LeadingZeros(); i < len(t.buckets) {
		t.buckets[i].touched = now
	}
}

// untouched returns the bucket that was walked to the longest ago, if that was not
// after before. Those of the nearest contacts are left to walks to our own ID.
func (t *table) untouched(before time.Time) (i int, ok bool) {
	near := 0
	i = -1
	for j := len(t.buckets) - 1; j >= 0; j-- {
		b := &t.buckets[j]
		if near += len(b.contacts); near <= bucketSize || len(b.contacts) == 0 || b.touched.After(before) {
			continue
		}
		if i < 0 || !b.touched.After(t.buckets[i].touched) {
			i = j
		}
	}
	return i, i >= 0
}

// vacate removes every other ID at n's address.
func (t *table) vacate(n Node) {
	other := func(m Node) bool { return m.Addr == n.Addr && m.ID != n.ID }
	for i := range t.buckets {
		b := &t.buckets[i]
		b.spares = slices.DeleteFunc(b.spares, other)
		if j := slices.IndexFunc(b.contacts, func(c contact) bool { return other(c.Node) }); j >= 0 {
			b.drop(j)
			t.version++
		}
	}
}

func (b *bucket) spare(n Node, size int) {
	b.spares = slices.DeleteFunc(b.spares, func(s Node) bool { return s.ID == n.ID })
	if len(b.spares) >= size {
		b.spares = slices.Delete(b.spares, 0, 1)
	}
	b.spares = append(b.spares, n)
}

// onSilence is called after a node at addr did not answer a query. After
// maxFails it goes, unless we seem to be offline and it was heard since.
func (t *table) onSilence(now time.Time, addr netip.AddrPort, since time.Time, online bool) {
	for i := range t.buckets {
		b := &t.buckets[i]
		for j := range b.contacts {
			if b.contacts[j].Addr != addr {
				continue
			}
			c := &b.contacts[j]
			c.asked = now
			if c.fails++; c.fails == 1 {
				t.version++
			}
			if c.fails >= maxFails && (online || c.answered.Before(since)) {
				b.drop(j)
			}
			return
		}
	}
}

// readmit is called now and then with whom to admit. Who is not counts as silent once,
// and so goes unless it is admitted again soon, as is one whose directory is still
// being read; such a spare goes at once.
func (t *table) readmit(now time.Time, admitted func(Node) bool) {
	not := func(n Node) bool { return !admitted(n) }
	var turnedDown []Node
	for i := range t.buckets {
		b := &t.buckets[i]
		b.spares = slices.DeleteFunc(b.spares, not)
		for j := range b.contacts {
			if n := b.contacts[j].Node; not(n) {
				turnedDown = append(turnedDown, n)
			}
		}
	}
	for _, n := range turnedDown {
		t.onSilence(now, n.Addr, now, true)
	}
}

// drop removes contact j and moves the newest spare up; it counts as failed once,
// so that it is asked before it is handed to others.
func (b *bucket) drop(j int) {
	b.contacts = slices.Delete(b.contacts, j, j+1)
	if n := len(b.spares); n > 0 {
		b.contacts = slices.Insert(b.contacts, 0, contact{Node: b.spares[n-1], fails: 1})
		b.spares = b.spares[:n-1]
	}
}

// wanted says whether a ping to n, who queried us, could make a contact of it.
func (t *table) wanted(n Node) bool {
	i := t.self.Distance(n.ID).LeadingZeros()
	if i == 8*id.Size {
		return false // ourselves
	}
	if i >= len(t.buckets) {
		return true
	}
	b := &t.buckets[i]
	failing := len(b.contacts) < t.size
	for _, c := range b.contacts {
		if c.ID == n.ID {
			return c.Addr != n.Addr || c.fails > 0
		}
		failing = failing || c.fails > 0
	}
	return failing
}

// nearest appends to dst up to n contacts by distance from target. With answering
// it leaves out those whose last query is unanswered.
//
// The bucket that the target falls into is nearest to it, then come all of those
// nearer to us, in any order, and then one after the other those farther from us.
func (t *table) nearest(dst []Node, target id.ID, n int, answering bool) []Node {
	from := len(dst)
	l := min(t.self.Distance(target).LeadingZeros(), len(t.buckets))
	if l < len(t.buckets) {
		dst = t.buckets[l].nearest(dst, from, &target, n, answering)
	}
	if with := len(dst); with < from+n && l+1 < len(t.buckets) {
		for i := l + 1; i < len(t.buckets); i++ {
			dst = t.buckets[i].nearest(dst, with, &target, from+n-with, answering)
		}
	}
	for i := l - 1; i >= 0 && len(dst) < from+n; i-- {
		dst = t.buckets[i].nearest(dst, len(dst), &target, from+n-len(dst), answering)
	}
	return dst
}

// nearest inserts the contacts of the bucket into dst[from:], which is ordered by
// distance and becomes no longer than n.
func (b *bucket) nearest(dst []Node, from int, target *id.ID, n int, answering bool) []Node {
	for j := range b.contacts {
		c := &b.contacts[j]
		if answering && c.fails > 0 {
			continue
		}
		at := len(dst)
		for at > from && nearer(&c.ID, &dst[at-1].ID, target) {
			at--
		}
		switch {
		case len(dst)-from < n:
			dst = slices.Insert(dst, at, c.Node)
		case at < len(dst):
			copy(dst[at+1:], dst[at:])
			dst[at] = c.Node
		}
	}
	return dst
}

// nearer says whether a is nearer to target than b.
func nearer(a, b, target *id.ID) bool {
	for i := range target {
		if a[i] != b[i] {
			return a[i]^target[i] < b[i]^target[i]
		}
	}
	return false
}

// due returns up to n contacts to be asked, longest unheard first. A contact may be
// unheard for as long as it has been answering, at least shortest and at most
// longest; a failing one is asked soon.
func (t *table) due(now time.Time, shortest, longest time.Duration, n int) (nodes []Node) {
	var due []*contact
	for c := range t.all {
		if !now.Before(c.dueAt(shortest, longest)) {
			due = append(due, c)
		}
	}
	slices.SortStableFunc(due, func(a, b *contact) int { return a.heard.Compare(b.heard) })
	for _, c := range first(due, n) {
		nodes = append(nodes, c.Node)
	}
	return nodes
}

func (c *contact) dueAt(shortest, longest time.Duration) time.Time {
	if c.fails > 0 {
		return c.asked.Add(shortest / 4)
	}
	// A part that depends on the ID keeps contacts met together from being asked
	// together.
	known := time.Duration(float64(c.heard.Sub(c.since)) * (0.75 + float64(c.ID[id.Size-1])/512))
	at := c.heard.Add(min(max(known, shortest), longest))
	if proof := c.answered.Add(2 * longest); proof.Before(at) {
		at = proof
	}
	if again := c.asked.Add(shortest / 4); again.After(at) {
		at = again // a ping is under way
	}
	return at
}

// counts returns the number of contacts, and of those that answer.
func (t *table) counts() (all, answering int) {
	for c := range t.all {
		all++
		if c.fails == 0 {
			answering++
		}
	}
	return all, answering
}

// all iterates over the contacts, farthest bucket first.
func (t *table) all(yield func(*contact) bool) {
	for i := range t.buckets {
		for j := range t.buckets[i].contacts {
			if !yield(&t.buckets[i].contacts[j]) {
				return
			}
		}
	}
}
