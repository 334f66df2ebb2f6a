//go:build linux

package e2e

import (
	"crypto/ed25519"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"time"

	"icvpn/admission"
	"icvpn/internal/id"
	"icvpn/internal/owner"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// handOver opens the hand-over of super peer i of a service.
func (w *world) handOver(svc string, i int) service.HandOver {
	w.t.Helper()
	name := w.path(svc, owner.SuperName(i))
	text, err := os.ReadFile(name + ".key")
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := owner.ParseKey(text)
	if err != nil {
		w.t.Fatal(err)
	}
	sealed, err := os.ReadFile(name + ".handover")
	if err != nil {
		w.t.Fatal(err)
	}
	h, err := service.OpenHandOver(sealed, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// createPast makes a service whose documents ran out yesterday.
func (w *world) createPast(endpoint string) {
	w.t.Helper()
	s, err := owner.Create(owner.Options{
		Name: "past", Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"member"},
		SuperPeers: []string{endpoint}, Now: time.Now().Add(-366 * 24 * time.Hour),
	})
	if err == nil {
		err = s.Write(w.path("past"))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// wrongClock is a super peer up to the proof of the secret, with its clock off;
// the descriptor and its key are the real ones.
type wrongClock struct {
	world   *world
	key     ed25519.PrivateKey
	service *admission.Service
	secrets map[string]admission.Verifier
	off     time.Duration
}

var _ admission.Backend = (*wrongClock)(nil)

// serveAdmission runs one on the host new-2 and returns its address.
func (w *world) serveAdmission(h service.HandOver, off time.Duration) string {
	w.t.Helper()
	s := &wrongClock{world: w, key: ed25519.NewKeyFromSeed(h.Seed), secrets: map[string]admission.Verifier{}, off: off}
	s.service = &admission.Service{
		ID: h.Service.ID, Root: wire.Marshal(h.Service.Documents.Roots), Descriptor: h.Service.Documents.Descriptor.Encode(),
		Params:  admission.Params{Group: admission.DefaultGroup, KDF: admission.KDFNone},
		FakeKey: admission.Key(h.FakeKey), TicketKeys: []admission.Key{admission.Key(h.TicketKey)}, Key: s.key,
	}
	for _, secret := range h.Secrets {
		v, err := admission.ParseVerifier(secret.Verifier)
		if err != nil {
			w.t.Fatal(err)
		}
		s.secrets[secret.ID] = v
	}
	host := w.host("new-2")
	l, err := host.ListenTCP(netip.AddrPortFrom(host.Addr4, 0))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go s.acceptLoop(l)
	return l.Addr().String()
}

func (s *wrongClock) acceptLoop(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go s.serve(tls.Server(c, admission.ServerTLS(s.key, time.Now())))
	}
}

// serve runs one admission; whatever goes wrong the peer will tell.
func (s *wrongClock) serve(c *tls.Conn) {
	defer c.Close()
	if c.Handshake() != nil {
		return
	}
	binding, err := admission.BindServer(c.ConnectionState(), s.key.Public().(ed25519.PublicKey))
	if err != nil {
		return
	}
	m, err := admission.NewServer(admission.ServerConfig{Backend: s, Binding: binding})
	if err != nil {
		return
	}
	defer m.Wipe()
	for done := false; !done; {
		f, err := admission.ReadFrame(c, m.Limit())
		if err != nil {
			return
		}
		out, err := m.Step(time.Now().Add(s.off), f)
		if err != nil {
			return
		}
		for _, f := range out.Send {
			if admission.WriteFrame(c, f) != nil {
				return
			}
		}
		done = out.Done
	}
}

func (s *wrongClock) Service(service id.ID) (*admission.Service, bool) {
	return s.service, service == s.service.ID
}

func (s *wrongClock) Verifier(_ id.ID, secretID string) (admission.Verifier, bool) {
	v, ok := s.secrets[secretID]
	return v, ok
}

func (s *wrongClock) Continue(admission.Authenticated, *admission.Ticket, []byte) (admission.Granted, error) {
	return admission.Granted{}, admission.ErrTicketUsed
}

func (s *wrongClock) Provision(admission.Authenticated, []byte) (admission.Granted, error) {
	return admission.Granted{}, &admission.Refusal{Code: admission.CodeInternal, Detail: "not reached"}
}

func (s *wrongClock) List(admission.Authenticated, []byte) ([]byte, error) {
	return nil, &admission.Refusal{Code: admission.CodeInternal, Detail: "not reached"}
}
