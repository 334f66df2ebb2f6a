package ledger

import (
	"maps"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

// New says whether the ledger knows of no address that was ever given: it is a
// first start, or what was there is lost.
func (l *Ledger) New() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.book.hosts) == 1
}

// adoption is what Adopt enters.
type adoption struct {
	leases  map[uint32]tenancy
	entries []*Entry
	tombs   []Tombstone
	since   int64 // Unix seconds, of the restore
}

// Adopt makes a ledger that is New a restored copy (Restored) of what this super
// peer published once: these are its members, whose addresses stay theirs, and of
// what else was leased nobody knows. By which secret they came is not published
// and not known. All of it is true when Adopt returns, or none. Call it before the
// first Reserve: an address on its way to somebody is not called back.
func (l *Ledger) Adopt(members []service.Member, tombs []Tombstone, now time.Time) error {
	var a adoption
	return l.commit(&change{
		stage: func(b *batch) {
			a = l.adoption(members, tombs, now.Unix())
			b.mark(markRestored, uint64(a.since)) //nolint:gosec // a time of this century
			for _, host := range slices.Sorted(maps.Keys(a.leases)) {
				b.add(leaseOp(l.book.address(host), a.leases[host]))
			}
			for _, e := range a.entries {
				b.add(e.op())
			}
			for _, t := range a.tombs {
				b.add(t.op())
			}
		},
		apply: func() { l.adopt(a) },
	})
}

// adoption sorts out what can be entered: one lease for an address, and of a PID
// what was issued last.
func (l *Ledger) adoption(members []service.Member, tombs []Tombstone, now int64) adoption {
	a := adoption{leases: map[uint32]tenancy{}, since: now}
	if at := l.marks[markRestored]; at != 0 {
		a.since = int64(at) //nolint:gosec // nothing was given since
	}
	members = slices.Clone(members)
	slices.SortStableFunc(members, func(x, y service.Member) int { return int(y.Issued - x.Issued) })
	seen := map[id.ID]bool{}
	for _, m := range members {
		e := &Entry{Member: m, Admitted: m.Issued, pid: m.PID(), encoded: encoded(m)}
		var ok bool
		if e.host, ok = l.book.host(m.Addr4()); !ok || seen[e.pid] || l.members[e.pid] != nil || !a.lease(l.book, e.host, e.pid, m.NotAfter) {
			continue
		}
		seen[e.pid] = true
		a.entries = append(a.entries, e)
	}
	for _, t := range tombs {
		if t.Host == 0 || int64(t.Host) > int64(l.book.size()) || seen[t.PID] || l.members[t.PID] != nil || !a.lease(l.book, t.Host, t.PID, t.Until) {
			continue
		}
		seen[t.PID] = true
		a.tombs = append(a.tombs, t)
	}
	return a
}

// lease notes that pid has a host, unless somebody else has it.
func (a *adoption) lease(b *book, host uint32, pid id.ID, until int64) bool {
	if _, taken := a.leases[host]; taken || int(host) < len(b.hosts) && b.hosts[host].until != 0 {
		return false
	}
	a.leases[host] = tenancy{pid, until}
	return true
}

func (l *Ledger) adopt(a adoption) {
	for host, t := range a.leases {
		l.book.grow(host)
		l.book.set(host, t)
	}
	for _, e := range a.entries {
		l.enter(e)
	}
	for _, t := range a.tombs {
		l.bury(t)
	}
	l.book.restored(a.since)
}
