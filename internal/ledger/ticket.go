package ledger

import "time"

// UseTicket spends a ticket and says whether that was the first time; if not,
// it returns the earlier use. It is spent at once for everybody here, on disk
// with the Grant that names it: until then nothing was granted for it.
func (l *Ledger) UseTicket(t Ticket, now time.Time) (earlier Ticket, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, used := l.tickets[t.ID]; used {
		return have, false
	}
	if now.Unix() >= t.Expires {
		return Ticket{}, false
	}
	l.spend(t)
	return Ticket{}, true
}

// ReturnTicket makes a ticket usable again whose admission failed before
// anything was granted: on a full disk, say.
func (l *Ledger) ReturnTicket(t Ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tickets, t.ID)
	l.spent.Remove(t.ID)
}

func (l *Ledger) spend(t Ticket) {
	l.tickets[t.ID] = t
	l.spent.Set(t.ID, t.Expires)
}
