package admission

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"icvpn/internal/id"
)

// This file is the server's way of a ticket: Continue in the place of Start to
// Provision.

// ErrTicketUsed is what Continue returns for a ticket that must not be used
// again: the peer is told to prove its secret.
var ErrTicketUsed = errors.New("admission: ticket was used before")

// ErrTicketIssuer is what Continue returns for a ticket whose issuer may not
// grant what is asked for: the peer is told to prove its secret.
var ErrTicketIssuer = errors.New("admission: ticket is of a super peer that may not grant this")

// HoldsTicket says whether f, which is to be stepped next, carries a ticket that a
// key of the service's super peers has sealed: what a stranger cannot make, told
// before anything costly. Whether it may be used, Step says. It keeps the ticket
// for that.
func (s *Server) HoldsTicket(f Frame) bool {
	if f.Type != TypeContinue || s.state != serverWantStart {
		return false
	}
	c, err := s.readContinue(f)
	if err != nil || c.err != nil {
		return false
	}
	s.shown = c
	return true
}

// shown is a Continue that was read, with its ticket.
type shown struct {
	body   []byte
	m      resume
	ticket *Ticket
	err    error // that it cannot be opened
}

// readContinue reads f, unless HoldsTicket has. An error means that it is
// malformed.
func (s *Server) readContinue(f Frame) (*shown, error) {
	if c := s.shown; c != nil && bytes.Equal(c.body, f.Body) {
		s.shown = nil
		return c, nil
	}
	c := &shown{body: f.Body}
	if err := decode(f, &c.m); err != nil {
		return nil, err
	}
	c.ticket, c.err = openTicket(s.service.TicketKeys, s.service.ID, c.m.Ticket)
	return c, nil
}

// onContinue checks, cheapest first: seal, dates, PID, MAC, both signatures; and
// asks the backend last, so that a thief without the keys cannot burn a ticket.
// Whatever fails before that, the answer is the same.
func (s *Server) onContinue(now time.Time, f Frame) (ServerOutput, error) {
	c, err := s.readContinue(f)
	if err != nil {
		return ServerOutput{}, err
	}
	if err := s.checkContinue(now, c); err != nil {
		return s.refuse(&Refusal{Code: CodeTicket}, err), nil
	}
	m, t := &c.m, c.ticket
	defer t.Key.Wipe()
	s.who = Authenticated{
		Service: s.service.ID, SecretID: t.SecretID, PID: t.PID, IDKey: m.IDKey, Admitted: t.Admitted, Continued: true,
		Key: nextSessionKey(&t.Key, &s.cfg.Binding, s.service.ID, t.PID), Exporter: s.cfg.Binding.Exporter,
	}
	accepted := encode(TypeAccept, &accept{M2: continuedProof(&s.who.Key, &s.cfg.Binding, m.MAC)})
	granted, err := s.cfg.Backend.Continue(s.who, t, m.Request)
	if errors.Is(err, ErrTicketUsed) || errors.Is(err, ErrTicketIssuer) {
		return s.refuse(&Refusal{Code: CodeTicket}, fmt.Errorf("ticket of %v: %w", t.PID, err)), nil
	}
	if err == nil {
		granted.Bytes = sealGrant(&s.who.Key, granted.Bytes)
	}
	out := s.grant(now, granted, err, serverWantStart)
	out.Send = append([]Frame{accepted}, out.Send...)
	if !out.Done && !m.More {
		s.finish()
		out.Done = true
	}
	return out, nil
}

func (s *Server) checkContinue(now time.Time, c *shown) (err error) {
	if c.err != nil {
		return c.err
	}
	t, m, pid := c.ticket, &c.m, id.FromKey(c.m.IDKey)
	switch b := &s.cfg.Binding; {
	case !now.Before(t.Expires):
		err = errors.New("admission: ticket has expired")
	case !equal(pid[:], t.PID[:]):
		err = fmt.Errorf("admission: ticket of %v used by %v", t.PID, pid)
	case !equal(m.MAC, continueMAC(&t.Key, b, m)):
		err = fmt.Errorf("admission: ticket of %v used without its session key", t.PID)
	case !verifyContinue(b, m, s.service.ID, pid):
		err = fmt.Errorf("admission: ticket of %v used without its identity key", t.PID)
	case !issued(s.service, now, t):
		err = fmt.Errorf("admission: ticket of %v was not issued by a super peer that may admit", t.PID)
	}
	if err != nil {
		t.Key.Wipe()
	}
	return err
}

// issued says whether t is of a super peer that may admit now. The seal does not
// show that: its key is shared, and outlives the trust in who had it.
func issued(s *Service, now time.Time, t *Ticket) bool {
	if s.Issuer == nil {
		return false
	}
	key, ok := s.Issuer(t.Issuer, now)
	return ok && t.issuedBy(key, s.Key, s.ID)
}

// newTicket makes the ticket that goes with a grant.
func newTicket(s *Service, who *Authenticated, g *Granted) []byte {
	t := Ticket{
		PID: who.PID, SecretID: who.SecretID, Admitted: who.Admitted,
		Memo: g.Memo, Expires: g.Expires, Key: who.Key,
	}
	rand.Read(t.ID[:])
	defer t.Key.Wipe()
	return sealTicket(&s.TicketKeys[0], s.ID, s.Key, &t)
}
