package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/keypool"
)

// acceptLoop takes connections until ctx ends and waits for those under way.
func (s *SuperPeer) acceptLoop(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.cfg.TCP.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := s.cfg.TCP.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // out of descriptors, say: existing members do not suffer
			if n, ok := s.door.refusals.line(time.Now(), netip.Addr{}, "accept"); ok {
				s.log.Warn("accept", "err", err, "suppressed", n)
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
			continue
		}
		remote := remoteAddr(c)
		v, known := s.door.enter(time.Now(), remote)
		if v != welcome {
			// Nothing was promised yet, and a "busy" would cost a TLS handshake.
			s.turnAway(v)
			c.Close()
			continue
		}
		wg.Go(func() {
			defer s.door.leave(remote)
			s.serve(ctx, c, admission.Source{Addr: remote, Known: known})
		})
	}
}

func (s *SuperPeer) turnAway(v verdict) {
	if v == full {
		s.admissions.end(admission.CodeBusy)
		return
	}
	s.admissions.count(resultLimited)
}

// serve runs one admission, to the service that the peer names, on a connection,
// which it closes. It is called of the host's first super peer.
func (s *SuperPeer) serve(ctx context.Context, c net.Conn, from admission.Source) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, admission.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	now := time.Now()
	hello := &greeting{host: s.host, from: from, now: now}
	defer hello.leave()
	bounded := &shortHandshake{Conn: c, left: maxHandshake}
	tc := tls.Server(bounded, hello.config())
	_ = c.SetDeadline(now.Add(helloWait))  // if the connection is dead, the next read says so
	if err := tc.Handshake(); err != nil { //nolint:noctx // HandshakeContext takes another goroutine, and c is closed anyway
		s.admissions.fail(resultTLS, err)
		s.log.Debug("TLS handshake", "from", from.Addr, "err", err)
		return
	}
	bounded.over = true
	s = hello.super
	switch tc.ConnectionState().NegotiatedProtocol {
	case keypool.ALPN:
		if err := s.give(ctx, tc); err != nil {
			s.log.Debug("keys for another super peer", "from", from.Addr, "err", err)
		}
		return
	case directory.BulkALPN:
		if err := s.handShards(ctx, tc); err != nil {
			s.log.Debug("shards for a member", "from", from.Addr, "err", err)
		}
		return
	}
	if err := s.enrol(ctx, tc, from); err != nil {
		s.admissions.fail(resultBroken, err)
		s.log.Debug("admission", "from", from.Addr, "err", err)
	}
	// c is closed without a close_notify: every frame tells its length and the
	// machine when it is the last, so nobody takes a cut for the end; and a peer
	// that does not read would have 5 s more to take it.
}

// enrol turns frames into steps of the machine until it is done. The deadline
// of the first frame is that of the handshake.
func (s *SuperPeer) enrol(ctx context.Context, tc *tls.Conn, from admission.Source) error {
	binding, err := admission.BindServer(tc.ConnectionState(), s.authority.key.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	slot := new(grantedSlot)
	defer slot.Wipe()
	m, err := admission.NewServer(admission.ServerConfig{
		Backend: session{s, from.Addr, slot}, Binding: binding, Pool: s.pool, Throttle: s.door.throttle, Source: from,
	})
	if err != nil {
		return err
	}
	defer m.Wipe()
	for first := true; ; first = false {
		f, err := admission.ReadFrame(tc, m.Limit())
		if err != nil {
			return err
		}
		out, err := s.step(ctx, m, f, first, from, !binding.Hybrid)
		if err != nil {
			return err
		}
		_ = tc.SetDeadline(deadline(m))
		if err := admission.WriteFrames(tc, out.Send...); err != nil {
			return err
		}
		if out.Done {
			s.admissions.end(out.Refused)
			return nil
		}
	}
}

// deadline is until when the peer may take in our answer and send its next
// frame.
func deadline(m *admission.Server) time.Time {
	if _, proved := m.Who(); proved {
		return time.Time{} // the connection ends at admission.Timeout
	}
	return time.Now().Add(stepWait)
}

// step gives the machine a frame when a worker is free. Whoever comes is told
// "busy" at once if too many wait; whoever has begun waits for a while. Members
// and newcomers wait in queues of their own: one comes without ML-KEM, and
// admission lets it do nothing but show a ticket, so a stranger in the members'
// queue gets no further than to be shown the descriptor. Neither that step nor
// refusing what is no ticket of ours takes a worker: a worker of the members'
// computes for tickets alone.
func (s *SuperPeer) step(ctx context.Context, m *admission.Server, f admission.Frame, first bool, from admission.Source, member bool) (out admission.ServerOutput, err error) {
	queue := &s.desk.newcomers
	_, proved := m.Who()
	if member {
		queue = &s.desk.renewals
	}
	if first && (queue.crowded(member || from.Known) || !s.recall.wait(ctx)) {
		return m.Refuse(s.busy()), nil
	}
	step := func() { out, err = m.Step(time.Now(), f) }
	if first || member && !proved && !m.HoldsTicket(f) {
		step()
	} else {
		wait, cancel := context.WithTimeout(ctx, stepWait)
		defer cancel()
		if !queue.do(wait, !proved && !from.Known && !member, step) {
			return m.Refuse(s.busy()), nil
		}
	}
	if out.Cause != nil {
		s.logRefusal(out, from.Addr)
	}
	return out, err
}

// logRefusal says why, but not as often as a stranger likes to hear it.
func (s *SuperPeer) logRefusal(out admission.ServerOutput, from netip.Addr) {
	if n, ok := s.door.refusals.line(time.Now(), from, out.Refused.String()); ok {
		s.log.Warn("admission refused", "from", from, "err", out.Cause, "suppressed", n)
	}
}

// session is the backend of one connection.
type session struct {
	s      *SuperPeer
	remote netip.Addr
	slot   *grantedSlot
}

// grantedSlot is the secret of the slot that was granted, for the peer list.
type grantedSlot struct {
	abe.Secret
	known bool // false after a renewal, in which the machine keeps the slot it has
}

var _ admission.Backend = session{}

func (x session) Service(wanted id.ID) (*admission.Service, bool) {
	st := x.s.service.standing.Load()
	if wanted != x.s.admission.ID || !st.mayAdmit(time.Now()) {
		return nil, false
	}
	now := *x.s.admission
	now.Root, now.Descriptor = st.root, st.descriptor
	return &now, true
}

func (x session) Verifier(_ id.ID, secretID string) (admission.Verifier, bool) {
	v, ok := x.s.authority.verifiers[secretID]
	return v, ok
}

func (x session) Continue(who admission.Authenticated, ticket *admission.Ticket, request []byte) (admission.Granted, error) {
	renew := func(now time.Time) (admission.Granted, error) {
		return x.s.authority.renew(who, ticket, request, x.remote, now)
	}
	if who.ByDatagram { // admission.Renewer bounds them, apart: others can play them again
		return x.welcomed(renew)
	}
	return x.granted(who.PID, renew)
}

func (x session) Provision(who admission.Authenticated, request []byte) (admission.Granted, error) {
	return x.granted(who.PID, func(now time.Time) (g admission.Granted, err error) {
		g, x.slot.Secret, err = x.s.authority.grant(who, request, x.remote, now)
		x.slot.known = err == nil
		return g, err
	})
}

// granted bounds how often a machine is granted anything.
func (x session) granted(pid id.ID, grant func(now time.Time) (admission.Granted, error)) (admission.Granted, error) {
	if !x.s.door.grants.allow(time.Now(), pid) {
		return admission.Granted{}, &admission.Refusal{Code: admission.CodeBusy, Detail: "this machine was granted its membership too often of late"}
	}
	return x.welcomed(grant)
}

// welcomed remembers where a member comes from.
func (x session) welcomed(grant func(now time.Time) (admission.Granted, error)) (admission.Granted, error) {
	now := time.Now()
	g, err := grant(now)
	if err == nil {
		x.s.door.admitted(now, x.remote)
	}
	return g, x.s.authority.sorry(err, now)
}

func (x session) List(who admission.Authenticated, _ []byte) ([]byte, error) {
	if !x.slot.known {
		return nil, &admission.Refusal{Code: admission.CodeRequest, Detail: "peers are listed after an admission by secret only"}
	}
	return x.s.authority.list(who, x.slot.Secret, time.Now())
}

// remoteAddr returns the peer's IP address, the zero address where the
// connection has none (an in-memory one).
func remoteAddr(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// sleep waits for d and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
