package superpeer

import (
	"sync"
	"time"

	"icvpn/internal/ledger"
)

// tickets remembers which process used which ticket, until it expires:
// ledger.Ledger.
type tickets interface {
	// UseTicket says whether this is the first use of t, and returns the first if
	// it is not.
	UseTicket(t ledger.Ticket, now time.Time) (earlier ledger.Ticket, first bool)
}

// maxTickets bounds the tickets that are remembered in memory: some 20 MiB.
const maxTickets = 1 << 17

// spentTickets keeps them in memory, in two generations, each of which takes in
// the tickets used during one life of a ticket. When one is full before its
// time, the older is forgotten early: then a used ticket may bring its machine
// back once more, which needs both of that machine's keys.
type spentTickets struct {
	mu         sync.Mutex
	young, old map[[16]byte]ledger.Ticket
	oldest     time.Time // of young
	capacity   int       // of a generation
}

var _ tickets = (*spentTickets)(nil)

func newSpentTickets() *spentTickets {
	return &spentTickets{young: map[[16]byte]ledger.Ticket{}, capacity: maxTickets / 2}
}

// UseTicket implements tickets.
func (s *spentTickets) UseTicket(t ledger.Ticket, now time.Time) (earlier ledger.Ticket, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, used := s.young[t.ID]; used {
		return was, false
	}
	if was, used := s.old[t.ID]; used {
		return was, false
	}
	if now.Sub(s.oldest) >= sessionLife || len(s.young) >= s.capacity {
		s.old, s.young, s.oldest = s.young, map[[16]byte]ledger.Ticket{}, now
	}
	s.young[t.ID] = t
	return ledger.Ticket{}, true
}
