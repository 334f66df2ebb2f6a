package superpeer

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// member is a newcomer that was admitted, and what came with its ticket.
type member struct {
	newcomer
	s    *SuperPeer
	memo []byte
	at   time.Time // of its last claim
}

// brief is a renewal by datagram, to be changed by tests.
type brief struct {
	provision.Brief
	req     provision.Request
	ticket  admission.Ticket
	claimed time.Time
}

func newMember(t *testing.T, s *SuperPeer, svc *owner.Service) *member {
	t.Helper()
	a := s.authority
	m := &member{newcomer: comer(svc, "web", 1), s: s, at: time.Now()}
	g, err := m.ask(t, a, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.trust().VerifyCredential(time.Now(), g.Credential, g.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Slot) != abe.SlotSize {
		t.Fatal("no slot")
	}
	m.memo = a.memoOf(c.Labels, time.Now()).of(c, false)
	m.who.Continued, m.who.ByDatagram = true, true
	return m
}

// renew is what the machine asks for, after a change.
func (m *member) renew(change func(*brief)) error {
	a, now := m.s.authority, time.Now()
	b := &brief{
		Brief:   provision.Brief{Root: a.trust().Root.Seq, Descriptor: a.trust().Descriptor.Seq},
		req:     provision.Request{PID: m.who.PID, Name: "m-1", Instance: service.Instance{1}},
		ticket:  admission.Ticket{ID: admission.TicketID{3}, PID: m.who.PID, SecretID: m.who.SecretID, Admitted: now, Memo: m.memo, Expires: now.Add(time.Hour), Issuer: m.s.PID()},
		claimed: now,
	}
	if change != nil {
		change(b)
	}
	b.req.Claim = service.SignClaim(m.key, a.trust().Service, m.s.PID(), b.req.Instance, b.claimed)
	b.Request = b.req.Encode()
	_, err := a.renew(m.who, &b.ticket, b.Encode(), newcomerAt, now)
	return err
}

func mustUnmarshal(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := wire.Unmarshal(b, v, maxMemo); err != nil {
		t.Fatal(err)
	}
}

// TestBriefRenewalIsOfAMemberThatRuns: in which nothing has changed. What is
// declined spends no ticket and changes nothing.
func TestBriefRenewalIsOfAMemberThatRuns(t *testing.T) {
	for name, c := range map[string]struct {
		before func(t *testing.T, m *member)
		change func(*brief)
		good   bool
	}{
		"nothing has changed": {good: true},
		"newer documents than ours": {good: true, change: func(b *brief) {
			b.Root, b.Descriptor = math.MaxInt64, math.MaxInt64
		}},
		"it knows an older descriptor": {change: func(b *brief) { b.Descriptor-- }},
		"it knows an older root":       {change: func(b *brief) { b.Root-- }},
		"another process":              {change: func(b *brief) { b.req.Instance = service.Instance{2} }},
		"another name":                 {change: func(b *brief) { b.req.Name = "db-master" }},
		"another VM":                   {change: func(b *brief) { b.req.VM = "vm-2" }},
		"a claim of before":            {change: func(b *brief) { b.claimed = b.claimed.Add(-time.Second) }},
		"a claim of its admission":     {change: func(b *brief) { b.claimed = b.claimed.Add(-time.Minute) }},
		"another policy": {before: func(t *testing.T, m *member) {
			var was memo
			mustUnmarshal(t, m.memo, &was)
			was.Policy[0] ^= 1
			m.memo = wire.Marshal(was)
		}},
		"a key that it shares": {before: func(t *testing.T, m *member) {
			var was memo
			mustUnmarshal(t, m.memo, &was)
			was.Cohort = true
			m.memo = wire.Marshal(was)
		}},
		"it has left": {before: func(t *testing.T, m *member) {
			now := time.Now()
			l, ok := service.ParseLeave(service.SignLeave(m.key, m.who.Service, service.Instance{1}, now), now)
			if !ok {
				t.Fatal("a goodbye cannot be read")
			}
			m.s.authority.leave(l)
		}},
		"another process was admitted since": {before: func(t *testing.T, m *member) {
			other := m.newcomer
			other.who.ByDatagram, other.who.Continued = false, false
			if _, err := other.ask(t, m.s.authority, func(r *provision.Request) {
				r.Instance = service.Instance{2}
				r.Claim = service.SignClaim(m.key, m.who.Service, m.s.PID(), r.Instance, time.Now())
			}); err != nil {
				t.Fatal(err)
			}
		}},
		"somebody else's claim": {change: func(b *brief) { b.req.PID[0] ^= 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, svc := newTestSuper(t, new(ledger.Memory), nil)
				m := newMember(t, s, svc)
				time.Sleep(time.Minute)
				if err := m.renew(nil); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if c.before != nil {
					c.before(t, m)
				}
				e := s.authority.ledger.Member(m.who.PID)
				err := m.renew(c.change)
				if (err == nil) != c.good {
					t.Fatalf("error %v", err)
				}
				if after := s.authority.ledger.Member(m.who.PID); !c.good && e != nil && string(after.Member.Claim) != string(e.Member.Claim) {
					t.Error("the entry has changed")
				}
			})
		})
	}
}

// TestBriefRenewalNeedsTheIdentityKey: a ticket and its session key are no machine's
// word.
func TestBriefRenewalNeedsTheIdentityKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, svc := newTestSuper(t, new(ledger.Memory), nil)
		m := newMember(t, s, svc)
		time.Sleep(time.Minute)
		thief := *m
		thief.key = comer(svc, "web", 2).key
		var r *admission.Refusal
		if err := thief.renew(nil); !errors.As(err, &r) || r.Code != admission.CodeRequest {
			t.Errorf("a thief without the identity key: %v", err)
		}
		if err := m.renew(nil); err != nil {
			t.Errorf("the thief has spent the ticket: %v", err)
		}
	})
}
