//go:build linux

package e2e

import (
	"os"
	"testing"

	"icvpn/internal/control"
	"icvpn/internal/service"
)

// TestServiceSurvivesADeadSuperPeer kills a super peer while traffic flows and
// machines join, and brings it back from its state directory.
func TestServiceSurvivesADeadSuperPeer(t *testing.T) {
	besideOthers(t)
	w := newService(t, 2, tiers...)
	s1, s2 := w.machines[0], w.machines[1]
	web := w.joinThrough(s1, "web-1", "web")
	app := w.joinThrough(s2, "app-2", "app")
	db := w.joinThrough(s1, "db-1", "db")
	web.awaitPing("app-2")
	app.awaitPing("db-1")
	before := tunnel(t, web, "app-2")
	members := s1.peers() // those it admitted itself, and maybe others
	delete(members, app.name)
	if len(members) != 2 {
		t.Fatalf("super-1 admitted %d machines, want 2", len(members))
	}

	flow := startTraffic(t, web, app)
	flow.awaitMore(w)
	s1.kill()
	flow.awaitMore(w)

	// The token lists both; the machines find the one that lives.
	late := w.join("new-1", "app")
	if got := late.status().SuperPeer; got != w.endpoint(s2) {
		t.Errorf("new-1 was admitted by %s, want %s", got, w.endpoint(s2))
	}
	web.awaitPing("new-1")
	late.awaitPing("db-1")
	web2 := w.join("web-2", "web")
	web2.awaitPing("app-2")
	web2.awaitPing("new-1")
	flow.awaitMore(w)

	s1.start()
	s1.awaitAnswer()
	now := s1.peers()
	for name, old := range members {
		if m := now[name]; m.Address4 != old.Address4 || m.PID != old.PID {
			t.Errorf("%s was %s at %v before the super peer's death, is %s at %v now", name, old.PID, old.Address4, m.PID, m.Address4)
		}
	}
	third := w.joinThrough(s1, "new-2", "app")
	w.noAddressTwice()
	web.awaitPing("new-2")
	third.awaitPing("db-1")
	address := db.addr4()
	db.leave()
	db.start()
	if got := db.awaitUp().Address4; got != address {
		t.Errorf("db-1 came back to its super peer as %v, it was %v", got, address)
	}
	app.awaitPing("db-1")
	flow.awaitMore(w)

	if err := flow.finish(); err != nil {
		t.Error(err)
	}
	after := tunnel(t, web, "app-2")
	if !after.LastHandshake.Equal(before.LastHandshake) || after.Path != before.Path {
		t.Errorf("the tunnel was set up anew: %v over %s, before %v over %s", after.LastHandshake, after.Path, before.LastHandshake, before.Path)
	}
	t.Log(flow)
}

// tunnel returns the entry of a peer whose tunnel is up.
func tunnel(t *testing.T, m *machine, name string) control.Peer {
	t.Helper()
	p := m.peers()[name]
	if p.State != control.TunnelUp || p.LastHandshake.IsZero() {
		t.Fatalf("%s has no tunnel to %s: %+v", m.name, name, p)
	}
	return p
}

// endpoint is a super peer's address in the tokens.
func (w *world) endpoint(m *machine) string { return m.host.Addr4.String() + ":4500" }

// joinThrough joins with a token that lists only one super peer.
func (w *world) joinThrough(s *machine, name, role string) *machine {
	w.t.Helper()
	token := w.token("shop", role)
	for _, sp := range token.SuperPeers {
		if sp.Endpoint == w.endpoint(s) {
			token.SuperPeers = []service.TokenSuperPeer{sp}
		}
	}
	m := w.peer(name, role)
	m.args = []string{"up", "--token-file", w.write(name+".token", []byte(token.Text())), "--name", name}
	m.start()
	if got := m.awaitUp().SuperPeer; got != w.endpoint(s) {
		w.t.Fatalf("%s was admitted by %s, want %s", name, got, w.endpoint(s))
	}
	return m
}

// token reads a role's token.
func (w *world) token(svc, role string) service.Token {
	w.t.Helper()
	b, err := os.ReadFile(w.path(svc, role+".token"))
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := service.ParseToken(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// write writes a private file and returns its path.
func (w *world) write(name string, content []byte) string {
	w.t.Helper()
	path := w.path(name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// noAddressTwice compares the addresses of all running peers.
func (w *world) noAddressTwice() {
	w.t.Helper()
	seen := map[string]string{}
	for _, m := range w.machines {
		s := m.status()
		if s.Role != control.RolePeer {
			continue
		}
		for _, a := range []string{s.Address4.String(), s.Address6.String()} {
			if other, taken := seen[a]; taken {
				w.t.Errorf("%s and %s both have %s", other, m.name, a)
			}
			seen[a] = m.name
		}
	}
}
