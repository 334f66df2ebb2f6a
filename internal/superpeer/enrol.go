package superpeer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"icvpn/admission"
	"icvpn/internal/id"
)

// maxAdmissions bounds the admissions under way. Beyond it a connection is told
// "busy" by being closed: nothing was promised yet.
const maxAdmissions = 256

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
			s.log.Warn("accept", "err", err)
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
			continue
		}
		remote := remoteAddr(c)
		if !s.limiter.Allow(time.Now(), remote) {
			s.admissions.count(resultLimited)
			c.Close()
			continue
		}
		if !s.begin() {
			s.admissions.end(admission.CodeBusy)
			c.Close()
			continue
		}
		wg.Go(func() {
			defer s.end()
			s.serve(ctx, c, remote)
		})
	}
}

func (s *SuperPeer) begin() bool {
	select {
	case s.workers <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *SuperPeer) end() { <-s.workers }

// serve runs one admission on a connection, which it closes.
func (s *SuperPeer) serve(ctx context.Context, c net.Conn, remote netip.Addr) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, admission.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	tc := tls.Server(c, admission.ServerTLS(s.authority.key, time.Now()))
	if err := tc.HandshakeContext(ctx); err != nil {
		s.admissions.fail(resultTLS, err)
		s.log.Debug("TLS handshake", "from", remote, "err", err)
		return
	}
	if err := s.enrol(tc, remote); err != nil {
		s.admissions.fail(resultBroken, err)
		s.log.Debug("admission", "from", remote, "err", err)
	}
	tc.Close()
}

// enrol turns frames into steps of the machine until it is done.
func (s *SuperPeer) enrol(tc *tls.Conn, remote netip.Addr) error {
	binding, err := admission.BindServer(tc.ConnectionState(), s.authority.self.Key)
	if err != nil {
		return err
	}
	m, err := admission.NewServer(admission.ServerConfig{Backend: session{s, remote}, Binding: binding, Pool: s.pool})
	if err != nil {
		return err
	}
	defer m.Wipe()
	for {
		f, err := admission.ReadFrame(tc, m.Limit())
		if err != nil {
			return err
		}
		out, err := m.Step(time.Now(), f)
		if err != nil {
			return err
		}
		if out.Cause != nil {
			s.log.Warn("admission refused", "from", remote, "err", out.Cause)
		}
		for _, f := range out.Send {
			if err := admission.WriteFrame(tc, f); err != nil {
				return err
			}
		}
		if out.Done {
			s.admissions.end(out.Refused)
			return nil
		}
	}
}

// session is the backend of one connection.
type session struct {
	s      *SuperPeer
	remote netip.Addr
}

var _ admission.Backend = session{}

func (x session) Service(service id.ID) (*admission.Service, bool) {
	if service != x.s.admission.ID {
		return nil, false
	}
	info, err := x.s.authority.info(time.Now()) // the statement in it ends some day
	if err != nil {
		return nil, false
	}
	s := *x.s.admission
	s.Info = info
	return &s, true
}

func (x session) Verifier(_ id.ID, secretID string) (admission.Verifier, bool) {
	v, ok := x.s.authority.verifiers[secretID]
	return v, ok
}

// UseTicket refuses every ticket: renewal goes by the enrolment secret until
// super peers share which tickets were used.
func (x session) UseTicket(id.ID, admission.TicketID, time.Time) bool { return false }

func (x session) Provision(who admission.Authenticated, request []byte) (admission.Granted, error) {
	return x.s.authority.grant(who, request, x.remote, time.Now())
}

func (x session) List(who admission.Authenticated, _ []byte) ([]byte, error) {
	return x.s.authority.list(who, time.Now())
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
