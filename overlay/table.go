package overlay

import (
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
)

// table is the routing table: for each distance up to k contacts that answered a
// query of ours, so their address is proved. It is pure: no clock, no lock, no
// I/O.
//
//	queries us ──> wanted? ──> ping ──answer──> contact ──3 silences──> gone
//	                                              │  ▲                    │
//	                                  bucket full ▼  └── spare moves up <─┘
//	                                            spare
//
// The library's table is not used: it forgets dead nodes only where all nearer
// buckets are full, that is on a small overlay never.
type table struct {
	self    id.ID
	buckets [8 * id.Size]bucket
}

// bucket holds contacts of one distance; the longest unheard comes first.
type bucket struct {
	contacts []contact
	spares   []Node // answered once while the bucket was full; newest last
}

type contact struct {
	Node
	heard time.Time // last answer
	fails int       // unanswered queries since
}

func newTable(self id.ID) *table { return &table{self: self} }

func (t *table) bucket(n id.ID) *bucket {
	i := t.self.Distance(n).LeadingZeros()
	if i == len(t.buckets) {
		return nil // ourselves
	}
	return &t.buckets[i]
}

// onAnswer is called after n answered a query of ours from n.Addr. Any other ID
// at that address is gone, so one address is one contact. If n.ID is known at
// another address that has not failed, the old address stays and is returned as
// doubtful: if it is silent, the next answer moves the contact.
func (t *table) onAnswer(now time.Time, n Node) (doubtful netip.AddrPort) {
	t.vacate(n)
	b := t.bucket(n.ID)
	if b == nil {
		return doubtful
	}
	i := slices.IndexFunc(b.contacts, func(c contact) bool { return c.ID == n.ID })
	if i >= 0 {
		if old := b.contacts[i]; old.Addr != n.Addr && old.fails == 0 {
			return old.Addr
		}
		b.contacts = slices.Delete(b.contacts, i, i+1)
	} else if len(b.contacts) >= bucketSize {
		i = slices.IndexFunc(b.contacts, func(c contact) bool { return c.fails > 0 })
		if i < 0 {
			b.spare(n)
			return doubtful
		}
		b.contacts = slices.Delete(b.contacts, i, i+1)
	}
	b.contacts = append(b.contacts, contact{Node: n, heard: now})
	b.spares = slices.DeleteFunc(b.spares, func(s Node) bool { return s.ID == n.ID })
	return doubtful
}

// vacate removes every other ID at n's address.
func (t *table) vacate(n Node) {
	other := func(m Node) bool { return m.Addr == n.Addr && m.ID != n.ID }
	for i := range t.buckets {
		b := &t.buckets[i]
		b.spares = slices.DeleteFunc(b.spares, other)
		if j := slices.IndexFunc(b.contacts, func(c contact) bool { return other(c.Node) }); j >= 0 {
			b.drop(j)
		}
	}
}

func (b *bucket) spare(n Node) {
	b.spares = slices.DeleteFunc(b.spares, func(s Node) bool { return s.ID == n.ID })
	if len(b.spares) >= bucketSize {
		b.spares = slices.Delete(b.spares, 0, 1)
	}
	b.spares = append(b.spares, n)
}

// onSilence is called after a node at addr did not answer a query. After
// maxFails it goes, unless we seem to be offline and it was heard since.
func (t *table) onSilence(addr netip.AddrPort, since time.Time, online bool) {
	for i := range t.buckets {
		b := &t.buckets[i]
		for j := range b.contacts {
			if b.contacts[j].Addr != addr {
				continue
			}
			if b.contacts[j].fails++; b.contacts[j].fails >= maxFails && (online || b.contacts[j].heard.Before(since)) {
				b.drop(j)
			}
			return
		}
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
	b := t.bucket(n.ID)
	if b == nil {
		return false
	}
	failing := len(b.contacts) < bucketSize
	for _, c := range b.contacts {
		if c.ID == n.ID {
			return c.Addr != n.Addr || c.fails > 0
		}
		failing = failing || c.fails > 0
	}
	return failing
}

// nearest returns up to n contacts by distance from target. With answering it
// leaves out those whose last query is unanswered.
func (t *table) nearest(target id.ID, n int, answering bool) []Node {
	var all []Node
	for c := range t.all {
		if !answering || c.fails == 0 {
			all = append(all, c.Node)
		}
	}
	sortByDistance(all, target)
	return all[:min(n, len(all))]
}

// stale returns up to n contacts that have not answered since before, or failed
// to, longest unheard first.
func (t *table) stale(before time.Time, n int) []Node {
	var old []contact
	for c := range t.all {
		if c.fails > 0 || c.heard.Before(before) {
			old = append(old, c)
		}
	}
	slices.SortFunc(old, func(a, b contact) int { return a.heard.Compare(b.heard) })
	var nodes []Node
	for _, c := range old[:min(n, len(old))] {
		nodes = append(nodes, c.Node)
	}
	return nodes
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
func (t *table) all(yield func(contact) bool) {
	for i := range t.buckets {
		for _, c := range t.buckets[i].contacts {
			if !yield(c) {
				return
			}
		}
	}
}

func sortByDistance(nodes []Node, target id.ID) {
	slices.SortFunc(nodes, func(a, b Node) int {
		return a.ID.Distance(target).Compare(b.ID.Distance(target))
	})
}
