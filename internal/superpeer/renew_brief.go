package superpeer

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"icvpn/admission"
	"icvpn/internal/provision"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// Renewal by datagram: of a member that runs, at the super peer that admitted it,
// when nothing has changed since. It costs less than half of what one over TLS does,
// and a service's members come every 16 hours, together if the owners turn an epoch.
// Whatever else there is to say is said over TLS.

// errNotBrief ends a renewal by datagram: there is more to it.
var errNotBrief = errors.New("superpeer: not a renewal in which nothing changes")

// readBrief reads a request that came by datagram.
func (r *renewal) readBrief(request []byte, trust *service.Trust) error {
	brief, req, err := provision.ParseBrief(request)
	r.req, r.holds = req, provision.AllParts
	if err := r.check(err); err != nil {
		return err
	}
	if brief.Descriptor < trust.Descriptor.Seq || brief.Root < trust.Root.Seq {
		return errNotBrief // it is to have the newer ones
	}
	return nil
}

// brief says whether a renewal that came by datagram may go on. The machine's claim
// alone shows, when it is verified next, that the identity key's holder has asked:
// so it has to be newer than the one of before, or anybody who has seen that in our
// directory could show it again.
func (a *authority) brief(r renewal, kept provision.Parts) error {
	e := a.ledger.Member(r.who.PID)
	if kept != provision.AllParts || e == nil || e.Member.Instance != r.req.Instance || r.before.Instance != r.req.Instance {
		return errNotBrief
	}
	next := e.Member
	next.Claim = r.req.Claim
	if !next.LaterThan(e.Member) {
		return errNotBrief
	}
	return nil
}

// maxRenewing renewals by datagram wait for a worker or have one; of more the
// members hear nothing, and go over TLS.
const maxRenewing = 2 * maxQueue

// onRenewal takes a member's datagram. Called by the port's readers: what costs more
// than a MAC is done elsewhere.
func (s *SuperPeer) onRenewal(o seal.Opened, from netip.AddrPort) {
	now := time.Now()
	answer, err := s.renewer.Offer(now, o.Payload, from)
	if err != nil {
		s.log.Warn("no key for renewals", "err", err)
		return
	}
	if answer != nil {
		s.answerRenewal(o, answer, from)
		return
	}
	if s.recall.pending() {
		return // over TLS it waits
	}
	asked := s.renewer.Open(now, o.Payload, from)
	if asked == nil {
		return
	}
	select {
	case s.renewing <- struct{}{}:
	default:
		asked.Wipe()
		s.admissions.end(admission.CodeBusy)
		return
	}
	room := seal.Opened{Epoch: o.Epoch, Room: o.Room} // the payload is the reader's again
	go func() {
		defer func() { <-s.renewing }()
		s.renewByDatagram(asked, room, from)
	}()
}

func (s *SuperPeer) renewByDatagram(asked *admission.Asked, o seal.Opened, from netip.AddrPort) {
	ctx, cancel := context.WithTimeout(context.Background(), stepWait)
	defer cancel()
	pid := asked.PID()
	var answer []byte
	var err error
	done := s.desk.renewals.do(ctx, false, func() {
		answer, err = s.renewer.Answer(time.Now(), asked, session{s: s, remote: from.Addr()})
	})
	switch {
	case !done:
		asked.Wipe()
		s.admissions.end(admission.CodeBusy)
		return
	case err != nil: // TLS counts how it ends
		s.log.Debug("renewal sent to TLS", "pid", pid.Short(), "from", from, "err", err)
	default:
		s.admissions.end(0)
	}
	s.answerRenewal(o, answer, from)
}

func (s *SuperPeer) answerRenewal(o seal.Opened, answer []byte, to netip.AddrPort) {
	if len(answer) > o.Room {
		return
	}
	if err := s.port.SendControl(s.service.ring, seal.TypeRenewal, o.Epoch, answer, 0, to); err != nil {
		s.log.Debug("renewal not answered", "addr", to, "err", err)
	}
}
