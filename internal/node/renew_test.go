package node

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/admission"
	"icvpn/internal/control"
	"icvpn/internal/service"
)

// process is another start of a machine.
func (c JoinConfig) process(n byte, kept *Kept) JoinConfig {
	c.Instance, c.Kept = service.Instance{n}, kept
	return c
}

// byTicket joins and says whether a ticket did it.
func byTicket(t *testing.T, w *world, cfg JoinConfig) (m *Membership, ticket bool) {
	t.Helper()
	cfg.Step = func(s control.JoinStep) {
		if s.Name == stepSecret {
			ticket = strings.HasPrefix(s.Detail, "ticket")
		}
	}
	m, err := Join(w.ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m, ticket
}

func TestTicketRenewsWhatHasNotChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t)).process(1, nil)
		first, ticket := byTicket(t, w, cfg)
		if ticket {
			t.Fatal("a newcomer had a ticket")
		}
		for range 3 {
			time.Sleep(time.Minute)
			cfg.Kept = first.Kept()
			m, ticket := byTicket(t, w, cfg)
			if !ticket || m.Key != first.Key || string(m.Credential.Slot) != string(first.Credential.Slot) || m.Credential.Addr4() != first.Credential.Addr4() {
				t.Errorf("by ticket: %v; %v, before %v", ticket, m.Credential, first.Credential)
			}
			if !m.Credential.Expires().After(first.Credential.Expires()) || m.Credential.AdmittedAt != first.Credential.AdmittedAt ||
				m.Session.Key == first.Session.Key || string(m.Session.Ticket) == string(first.Session.Ticket) || len(m.Grant.EpochKey) == 0 || m.Trust.Policy == nil {
				t.Errorf("renewed %+v", m.Credential)
			}
			first = m
		}
	})
}

// TestRestartJoinsByTicket: also when the credential has ended meanwhile.
func TestRestartJoinsByTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		later := func(d time.Duration) { // a service that runs for days costs minutes
			w.supers[0].kill()
			time.Sleep(d)
			w.startSuper(0, w.supers[0].store)
		}
		cfg := w.joinConfig("web", "web-1", newIdentity(t)).process(1, nil)
		first, _ := byTicket(t, w, cfg)
		later(48 * time.Hour)
		kept, superPeer, err := DecodeKept(first.Encode(wallClock()))
		if err != nil || superPeer != first.SuperPeer {
			t.Fatalf("%v, %v", superPeer, err)
		}
		cfg.Prefer = superPeer
		m, ticket := byTicket(t, w, cfg.process(2, kept))
		if !ticket || m.Credential.Addr4() != first.Credential.Addr4() || m.Credential.Instance != (service.Instance{2}) {
			t.Errorf("by ticket: %v, %+v", ticket, m.Credential)
		}
		later(8 * 24 * time.Hour)
		if m, ticket = byTicket(t, w, cfg.process(3, m.Kept())); ticket || m.Credential.Addr4() != first.Credential.Addr4() {
			t.Error("a session outlived its ticket")
		}
	})
}

// TestTicketsAreOfTheServiceNotOfASuperPeer: with the first gone, another gives
// its own address and nothing else that is new.
func TestTicketsAreOfTheServiceNotOfASuperPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t)).process(1, nil)
		cfg.Prefer = w.supers[0].endpoint
		first, _ := byTicket(t, w, cfg)
		w.supers[0].kill()
		m, ticket := byTicket(t, w, cfg.process(1, first.Kept()))
		if !ticket || m.SuperPeer != w.supers[1].endpoint || m.Key != first.Key || m.Credential.AdmittedAt != first.Credential.AdmittedAt {
			t.Errorf("by ticket: %v, %+v", ticket, m)
		}
	})
}

func TestUsedTicketOfAnotherProcessNeedsTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t)).process(1, nil)
		first, _ := byTicket(t, w, cfg)
		if _, ticket := byTicket(t, w, cfg.process(2, first.Kept())); !ticket {
			t.Error("the first restart needed the secret")
		}
		if _, ticket := byTicket(t, w, cfg.process(3, first.Kept())); ticket {
			t.Error("one ticket brought two processes back")
		}
	})
}

// TestEarlierOfTwoMachinesIsToldAtRenewal: whoever was admitted last is the
// member.
func TestEarlierOfTwoMachinesIsToldAtRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t)).process(1, nil)
		first, _ := byTicket(t, w, cfg)
		time.Sleep(time.Minute)
		copied := cfg.process(2, first.Kept())
		copied.VM = "vm-of-the-copy"
		second, _ := byTicket(t, w, copied)
		_, err := Join(w.ctx, cfg.process(1, first.Kept()))
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Refusal.Code != admission.CodeClone || !strings.Contains(err.Error(), "vm-of-the-copy") {
			t.Errorf("the earlier one: %v", err)
		}
		if _, ticket := byTicket(t, w, copied.process(2, second.Kept())); !ticket {
			t.Error("the later one is not renewed by ticket")
		}
	})
}

// cutConn breaks after some writes: the request has gone, the answer never comes.
type cutConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.writes.Add(-1) < 0 {
		c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.writes.Load() == 0 && err == nil {
		c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// TestLostAnswerCostsNoTicket: the process that a ticket was given to may show
// it again.
func TestLostAnswerCostsNoTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t)).process(1, nil)
		first, _ := byTicket(t, w, cfg)
		for cut := range int32(6) {
			broken := cfg.process(1, first.Kept())
			broken.Dial = func(ctx context.Context, endpoint string) (net.Conn, error) {
				c, err := w.dial(ctx, endpoint)
				if err != nil {
					return nil, err
				}
				cc := &cutConn{Conn: c}
				cc.writes.Store(cut)
				return cc, nil
			}
			m, err := Join(w.ctx, broken)
			if err == nil {
				first = m
			}
			time.Sleep(10 * time.Second)
		}
		if _, ticket := byTicket(t, w, cfg.process(1, first.Kept())); !ticket {
			t.Error("the ticket was lost with the answer")
		}
	})
}

func TestRevokedMachineIsNotRenewedByTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t)).process(1, nil)
		first, _ := byTicket(t, w, cfg)
		w.supers[0].kill()
		w.change = func(h *service.HandOver) {
			for i := range h.Secrets {
				h.Secrets[i].Expires = time.Now().Unix()
			}
		}
		w.startSuper(0, w.supers[0].store)
		_, err := Join(w.ctx, cfg.process(1, first.Kept()))
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Refusal.Code != admission.CodeExpiredSecret {
			t.Errorf("with an expired secret: %v", err)
		}
	})
}
