package superpeer

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"icvpn/admission"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/provision"
	"icvpn/internal/service"
)

// showTicket renews c as a process with a ticket that another was given then.
func (c newcomer) showTicket(s *SuperPeer, issuer id.ID, then time.Time, given, by byte) error {
	a, now := s.authority, time.Now()
	who := c.who
	who.Continued = true
	was := service.Credential{Instance: service.Instance{given}, NotBefore: then.Unix()}
	r := provision.Request{PID: who.PID, Name: "m-1", Instance: service.Instance{by}}
	r.Claim = service.SignClaim(c.key, a.trust().Service, s.PID(), r.Instance, now)
	t := &admission.Ticket{
		ID: admission.TicketID{3}, PID: who.PID, SecretID: who.SecretID, Admitted: now, Memo: memo{}.of(&was, false), Expires: now.Add(time.Hour), Issuer: issuer,
	}
	_, err := a.renew(who, t, provision.Renewal{Request: r.Encode()}.Encode(), netip.MustParseAddr("192.0.2.9"), now)
	return err
}

// listElsewhere has the other super peer list c, with the machine's claim or
// without.
func (c newcomer) listElsewhere(t *testing.T, s *SuperPeer, svc *owner.Service, by byte, issued time.Time, claimed bool) {
	t.Helper()
	a := s.authority
	for _, other := range a.trust().Descriptor.SuperPeers {
		if other.PID() == s.PID() {
			continue
		}
		addr := netip.MustParsePrefix(other.Block4).Addr().Next().As4()
		m := service.Member{
			Key: c.who.IDKey, Name: "elsewhere", VM: "vm", Labels: map[string]string{"role": "web"}, Address4: addr[:],
			NotAfter: time.Now().Add(20 * time.Hour).Unix(), Issued: issued.Unix(), Instance: service.Instance{by},
		}
		if claimed {
			m.Claim = service.SignClaim(c.key, svc.ID, other.PID(), m.Instance, issued)
		}
		vouched := service.Vouched(other, []service.Member{m}, time.Now())
		if len(vouched) != 1 {
			t.Fatal("the other super peer may not list the machine")
		}
		a.others.Learn(other.PID(), vouched)
	}
}

// TestListingWithoutAClaimRefusesNoRenewal: another super peer can list any key.
func TestListingWithoutAClaimRefusesNoRenewal(t *testing.T) {
	for _, claimed := range []bool{false, true} {
		s, svc := newTestSuper(t, new(ledger.Memory), nil)
		c, now := comer(svc, "web", 1), time.Now()
		if _, err := c.ask(t, s.authority, nil); err != nil {
			t.Fatal(err)
		}
		c.listElsewhere(t, s, svc, 9, now.Add(time.Minute), claimed)
		err := c.showTicket(s, s.PID(), now, 1, 1)
		var r *admission.Refusal
		if clone := errors.As(err, &r) && r.Code == admission.CodeClone; clone != claimed || !claimed && err != nil {
			t.Errorf("claimed %v: %v", claimed, err)
		}
	}
}

// TestOldCopyNeedsTheSecretWhereItsTicketIsNew: the machine itself was admitted
// later, at another super peer.
func TestOldCopyNeedsTheSecretWhereItsTicketIsNew(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	c, now := comer(svc, "web", 1), time.Now()
	c.listElsewhere(t, s, svc, 1, now.Add(-time.Hour), true)
	for range 2 {
		if err := c.showTicket(s, s.PID(), now.Add(-6*24*time.Hour), 1, 66); !errors.Is(err, admission.ErrTicketUsed) {
			t.Errorf("the copy: %v", err)
		}
	}
	if s.authority.ledger.Member(c.who.PID) != nil {
		t.Error("the copy is a member")
	}
	if err := c.showTicket(s, s.PID(), now.Add(-time.Hour), 1, 1); err != nil {
		t.Errorf("the machine itself: %v", err)
	}
}

// TestRestartMayShowItsTicketAgain: its answer was lost, though it is listed.
func TestRestartMayShowItsTicketAgain(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	c, now := comer(svc, "web", 1), time.Now()
	for range 2 {
		if err := c.showTicket(s, s.PID(), now.Add(-time.Hour), 1, 2); err != nil {
			t.Error(err)
		}
	}
	if err := c.showTicket(s, s.PID(), now.Add(-time.Hour), 1, 3); !errors.Is(err, admission.ErrTicketUsed) {
		t.Errorf("a third process: %v", err)
	}
}

// TestTicketAdmitsToNoMoreThanItsIssuerMayGrant: and to nothing once the owner
// has removed the issuer.
func TestTicketAdmitsToNoMoreThanItsIssuerMayGrant(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	c, now := comer(svc, "web", 1), time.Now()
	a, d := s.authority, s.authority.trust().Descriptor
	for i := range d.SuperPeers {
		sp := &d.SuperPeers[i]
		if sp.PID() == s.PID() {
			continue
		}
		scope := sp.Scope
		sp.Scope = map[string][]string{"role": {"app"}}
		if err := c.showTicket(s, sp.PID(), now, 1, 1); !errors.Is(err, admission.ErrTicketIssuer) {
			t.Errorf("outside its scope: %v", err)
		}
		sp.Scope = scope
		if err := c.showTicket(s, sp.PID(), now, 1, 1); err != nil {
			t.Errorf("within it: %v", err)
		}
		if _, ok := a.ticketIssuer(sp.PID(), now); !ok {
			t.Error("a super peer of the service issues no tickets")
		}
		if _, ok := a.ticketIssuer(sp.PID(), time.Unix(sp.Expires, 0)); ok {
			t.Error("one whose time is up does")
		}
		roles := sp.Roles
		sp.Roles = []string{service.RoleStore}
		if _, ok := a.ticketIssuer(sp.PID(), now); ok {
			t.Error("one that may not admit does")
		}
		sp.Roles = roles
	}
	if err := c.showTicket(s, id.ID{1}, now, 1, 1); !errors.Is(err, admission.ErrTicketIssuer) {
		t.Errorf("of nobody: %v", err)
	}
	if _, ok := a.ticketIssuer(id.ID{1}, now); ok {
		t.Error("somebody unlisted issues tickets")
	}
}
