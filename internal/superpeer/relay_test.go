package superpeer

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"testing"
	"time"

	"icvpn/internal/ledger"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// TestOnlyWhoMayRelays: with the owners' role and within their grant, in the service's
// overlay, and no other.
func TestOnlyWhoMayRelays(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	from := netip.MustParseAddrPort("198.51.100.1:4500")
	h := relay.NewHoldings(relay.Config{Service: svc.ID, Key: comer(svc, "web", 1).key, Rand: rand.Reader, Conn: relay.NewConn(nil)})
	query := h.Want(time.Now(), s.PID(), from, time.Now().Add(time.Hour)).Send[0].Payload
	asked := func(in *tier) (answered bool) {
		before := s.host.relay.Stats().Requested(relay.Asked)
		s.allocate(in, seal.Opened{Payload: query, Room: seal.PadQuery}, from)
		return s.host.relay.Stats().Requested(relay.Asked) > before
	}
	if !asked(s.service) || asked(s.universe) {
		t.Fatal("a super peer with the role does not relay, or relays for the universal overlay")
	}
	change := func(f func(*service.SuperPeer)) {
		st := *s.service.standing.Load()
		st.self.Roles = slices.Clone(st.self.Roles)
		f(&st.self)
		s.service.standing.Store(&st)
	}
	change(func(sp *service.SuperPeer) { sp.Expires = time.Now().Unix() })
	if asked(s.service) {
		t.Error("relays after the owners' grant")
	}
	change(func(sp *service.SuperPeer) {
		sp.Expires = time.Now().Add(time.Hour).Unix()
		sp.Roles = slices.DeleteFunc(sp.Roles, func(r string) bool { return r == service.RoleRelay })
	})
	if asked(s.service) {
		t.Error("relays without the role")
	}
}
