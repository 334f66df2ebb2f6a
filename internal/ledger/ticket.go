package ledger

import "time"

// maxTickets bounds the tickets that are remembered: some 30 MiB. Beyond it
// those that expire first are forgotten early: each may bring its machine back
// once more, which takes both of that machine's keys.
const maxTickets = 1 << 17

// UseTicket spends a ticket and says whether that was the first time; if not,
// it returns the earlier use. It is spent at once for everybody here, on disk
// with the Grant that names it: until then nothing was granted for it.
func (l *Ledger) UseTicket(t Ticket, now time.Time) (earlier Ticket, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, used := l.tickets[t.ID]; used {
		return have, false
	}
	if now.Unix() < t.Expires {
		l.spend(t)
	}
	return Ticket{}, true
}

func (l *Ledger) spend(t Ticket) {
	l.tickets[t.ID] = t
	l.spent.Set(t.ID, t.Expires)
	if len(l.tickets) > maxTickets {
		first, _, _ := l.spent.Min()
		l.forget(first)
	}
}

func (l *Ledger) forget(id [16]byte) {
	l.spent.Remove(id)
	delete(l.tickets, id)
	l.dropped = append(l.dropped, id)
}
