package superpeer

import (
	"testing"
	"time"

	"icvpn/internal/ledger"
	"icvpn/internal/service"
)

func TestSpentTicketsAreRememberedForTheirLife(t *testing.T) {
	s, now := newSpentTickets(), time.Unix(1e9, 0)
	mine := ledger.Ticket{ID: [16]byte{1}, Instance: service.Instance{1}}
	if _, first := s.UseTicket(mine, now); !first {
		t.Fatal("a new ticket was used before")
	}
	for _, later := range []time.Duration{0, sessionLife / 2, sessionLife - 1} {
		other := mine
		other.Instance = service.Instance{2}
		if was, first := s.UseTicket(other, now.Add(later)); first || was != mine {
			t.Errorf("after %v: %v, %v", later, was, first)
		}
		s.UseTicket(ledger.Ticket{ID: [16]byte{2, byte(later >> 40)}}, now.Add(later))
	}
}

func TestSpentTicketsAreBounded(t *testing.T) {
	s, now := newSpentTickets(), time.Unix(1e9, 0)
	s.capacity = 8
	for i := range 100 {
		s.UseTicket(ledger.Ticket{ID: [16]byte{byte(i)}}, now)
		if n := len(s.young) + len(s.old); n > 16 {
			t.Fatalf("%d tickets in memory", n)
		}
		if _, first := s.UseTicket(ledger.Ticket{ID: [16]byte{byte(max(0, i-7))}}, now); first {
			t.Errorf("ticket %d is forgotten after %d others", i-7, 7)
		}
	}
}
