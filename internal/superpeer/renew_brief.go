package superpeer

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"sync"
	"time"

	"icvpn/admission"
	"icvpn/internal/ledger"
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
func (r *renewal) readBrief(request []byte, trust *service.Trust, now time.Time) error {
	brief, req, err := provision.ParseBrief(request)
	r.req, r.holds = req, provision.AllParts
	if err := r.check(err); err != nil {
		return err
	}
	if brief.Descriptor < trust.Descriptor.Seq || brief.Root < trust.Root.Seq || trust.Expired(now) {
		return errNotBrief // it is to have the newer ones, or to hear that there are none
	}
	return nil
}

// brief says whether a renewal that came by datagram may go on: nothing of the
// member changes but how long it is one.
func (a *authority) brief(r renewal, labels map[string]string, kept provision.Parts) error {
	e := a.ledger.Member(r.who.PID)
	if kept != provision.AllParts || r.before.Instance != r.req.Instance || !goesOn(e, r.req) ||
		e.SecretID != r.who.SecretID || e.Member.Name != r.req.Name || e.Member.VM != r.req.VM || !maps.Equal(e.Member.Labels, labels) {
		return errNotBrief
	}
	return nil
}

// goesOn says whether a request that came by datagram is of the process that e is of,
// and later. Its claim alone shows, where it is verified, that the identity key's holder
// has asked: anybody could show again what he has seen in our directory.
func goesOn(e *ledger.Entry, req provision.Request) bool {
	if e == nil || e.Member.Instance != req.Instance {
		return false
	}
	next := e.Member
	next.Claim = req.Claim
	return next.LaterThan(e.Member)
}

// We chose:
const (
	// maxRenewing renewals by datagram wait, with some 1 kB each. Of more the members hear
	// nothing, and go over TLS.
	maxRenewing = 512
	// briefPatience is how long one waits; its member does for 2 s.
	briefPatience = time.Second
	// offerRate is how many members of one network are offered a key, a second, and at
	// once: datagrams have forged sources.
	offerRate, offerBurst = 1000, 2000
)

// onRenewal takes a member's datagram. Called by the port's readers: what costs more
// than a MAC is done elsewhere.
func (s *SuperPeer) onRenewal(o seal.Opened, from netip.AddrPort) {
	now := time.Now()
	if s.recall.pending() {
		return // over TLS it waits
	}
	if admission.IsRenewalAsk(o.Payload) {
		s.offerRenewal(now, o, from)
		return
	}
	asked := s.renewer.Open(now, o.Payload, from)
	if asked == nil {
		return
	}
	o.Payload = nil // the reader's again
	select {
	case s.renewals <- asking{asked, o, from, now}:
	default:
		asked.Wipe()
		s.admissions.end(admission.CodeBusy)
	}
}

// asking is a renewal by datagram that waits.
type asking struct {
	*admission.Asked
	in   seal.Opened
	from netip.AddrPort
	at   time.Time
}

// renewalsLoop answers renewals by datagram, as many at a time as there are workers
// for members: they share these with those that came over TLS.
func (s *SuperPeer) renewalsLoop(ctx context.Context) error {
	var all sync.WaitGroup
	defer func() {
		all.Wait()
		for len(s.renewals) > 0 {
			(<-s.renewals).Wipe()
		}
	}()
	for range cap(s.door.renewals.all) {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case q := <-s.renewals:
					s.renewByDatagram(ctx, q)
				}
			}
		})
	}
	return nil
}

func (s *SuperPeer) offerRenewal(now time.Time, o seal.Opened, from netip.AddrPort) {
	if !s.offers.Allow(now, from.Addr()) {
		return
	}
	offer, err := s.renewer.Offer(now, o.Payload, from)
	if err != nil {
		s.log.Warn("no key for renewals", "err", err)
		return
	}
	s.answerRenewal(o, offer, from)
}

func (s *SuperPeer) renewByDatagram(ctx context.Context, q asking) {
	ctx, cancel := context.WithDeadline(ctx, q.at.Add(briefPatience))
	defer cancel()
	pid := q.PID()
	var answer []byte
	var err error
	done := s.desk.renewals.do(ctx, false, func() {
		answer, err = s.renewer.Answer(time.Now(), q.Asked, session{s: s, remote: q.from.Addr()})
	})
	switch {
	case !done:
		q.Wipe()
		s.admissions.end(admission.CodeBusy)
		return
	case err != nil: // TLS counts how it ends
		s.log.Debug("renewal sent to TLS", "pid", pid.Short(), "from", q.from, "err", err)
	default:
		s.admissions.end(0)
	}
	s.answerRenewal(q.in, answer, q.from)
}

func (s *SuperPeer) answerRenewal(o seal.Opened, answer []byte, to netip.AddrPort) {
	if len(answer) > o.Room {
		return
	}
	if err := s.port.SendControl(s.service.ring, seal.TypeRenewal, o.Epoch, answer, 0, to); err != nil {
		s.log.Debug("renewal not answered", "addr", to, "err", err)
	}
}
