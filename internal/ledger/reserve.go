package ledger

import (
	"fmt"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

// Claim is what an admission asks of the ledger before anything is signed.
type Claim struct {
	PID      id.ID
	SecretID string
	// Continued says that the machine was a member already, of another super peer
	// maybe: it is no further use of its secret.
	Continued bool
}

// View is what a Claim is judged by, without what its PID has already. It is
// good until the judge returns.
type View struct {
	l *Ledger
	c Claim
}

// Renewal says whether the PID is a member by the same secret.
func (v View) Renewal() bool {
	e := v.l.members[v.c.PID]
	return v.c.Continued || e != nil && e.SecretID == v.c.SecretID
}

// Uses returns how many admissions a secret has had, those under way included.
func (v View) Uses(secretID string) uint32 {
	if u := v.l.secrets[secretID]; u != nil {
		return u.uses
	}
	return 0
}

// Taken returns how many members a secret has, those under way included.
func (v View) Taken(secretID string) int {
	u := v.l.secrets[secretID]
	if u == nil {
		return 0
	}
	if e := v.l.members[v.c.PID]; e != nil && e.SecretID == secretID {
		return u.members - 1
	}
	return u.members
}

// Addresses returns how many there are in the block.
func (v View) Addresses() int { return v.l.book.size() }

// Reservation is an admission under way: an address, and room in the counts,
// that nobody else gets. It ends with Commit or Release.
type Reservation struct {
	// Addr is the address that is leased with Commit.
	Addr netip.Addr
	// Before is the entry that the PID has so far, nil for one that is no member.
	Before *Entry
	// Buried is the tombstone of the entry that it had before that, nil without.
	// Invariant: it is about admissions of Buried.Issued or before, not about this one.
	Buried *Tombstone

	l       *Ledger
	claim   Claim
	hold    hold
	renewal bool
	ended   bool
}

// Grant is what Commit makes true, all of it or nothing.
type Grant struct {
	Member   service.Member // with the reservation's address
	Admitted int64          // Unix seconds
	Slot     []byte
	Cohort   bool
	// SlotKey names the prepared slot that this machine gets, nil if it was not
	// kept here: it is forgotten.
	SlotKey []byte
	// Ticket, if one stood in for the secret, is spent.
	Ticket *Ticket
}

// Reserve begins an admission. allowed judges it under the lock, so it must be
// quick; its error is returned as it is. ErrFull and *RestoredError say that
// there is no address. One PID has one reservation at a time: another waits.
func (l *Ledger) Reserve(c Claim, now time.Time, allowed func(View) error) (*Reservation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.pending[c.PID] != nil {
		ended := l.pending[c.PID]
		l.mu.Unlock()
		<-ended
		l.mu.Lock()
	}
	l.expire(now.Unix())
	v := View{l, c}
	if err := allowed(v); err != nil {
		return nil, err
	}
	h, err := l.book.take(c.PID, now.Unix())
	if err != nil {
		return nil, err
	}
	r := &Reservation{Addr: l.book.address(h.host), Before: l.members[c.PID], l: l, claim: c, hold: h, renewal: v.Renewal()}
	if t, ok := l.tombs[c.PID]; ok {
		r.Buried = &t
	}
	u := l.usage(c.SecretID)
	u.members++
	if !r.renewal {
		u.uses++
		u.underway++
	}
	l.pending[c.PID] = make(chan struct{})
	return r, nil
}

// Release ends r as if it had never been. After Commit it does nothing.
func (r *Reservation) Release() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if r.ended {
		return
	}
	r.end()
	r.l.book.undo(r.hold)
	if !r.renewal {
		r.l.usage(r.claim.SecretID).uses--
	}
}

// end gives back the room that r held for itself.
func (r *Reservation) end() {
	l := r.l
	r.ended = true
	close(l.pending[r.claim.PID])
	delete(l.pending, r.claim.PID)
	u := l.usage(r.claim.SecretID)
	u.members--
	if !r.renewal {
		u.underway--
	}
}

// Commit makes the admission true and returns when it is on disk. After an
// error it is as after Release.
func (r *Reservation) Commit(g Grant) error {
	e, err := r.entry(g)
	if err == nil {
		err = r.l.commit(&change{
			stage: func(b *batch) { r.stage(b, e, g) },
			apply: func() { r.apply(e, g) },
		})
	}
	if err != nil {
		r.Release()
	}
	return err
}

func (r *Reservation) entry(g Grant) (*Entry, error) {
	m := g.Member
	if m.PID() != r.claim.PID || m.Addr4() != r.Addr || m.NotAfter-m.Issued > r.l.book.life {
		return nil, fmt.Errorf("ledger: internal error: the entry of %s is not what was reserved", m.PID().Short())
	}
	e := &Entry{Member: m, SecretID: r.claim.SecretID, Admitted: g.Admitted, Slot: g.Slot, Cohort: g.Cohort}
	e.pid, e.host, e.encoded = r.claim.PID, r.hold.host, encoded(m)
	return e, nil
}

func (r *Reservation) stage(b *batch, e *Entry, g Grant) {
	b.add(e.op())
	b.add(leaseOp(r.Addr, tenancy{e.pid, r.hold.until(e.pid, e.Member.NotAfter)}))
	if !r.renewal {
		b.use(e.SecretID)
	}
	if _, dead := r.l.tombs[e.pid]; dead {
		b.add(op{bucketTombstones, string(e.pid[:]), nil})
	}
	if g.SlotKey != nil {
		b.add(op{bucketSlots, string(g.SlotKey), nil})
	}
	if g.Ticket != nil {
		b.add(g.Ticket.op())
	}
}

func (r *Reservation) apply(e *Entry, g Grant) {
	r.end()
	r.l.book.confirm(r.hold, e.pid, e.Member.NotAfter)
	r.l.enter(e)
	if g.Ticket != nil {
		r.l.spend(*g.Ticket)
	}
}
