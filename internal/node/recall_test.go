package node

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/ledger"
	"icvpn/internal/service"
)

// onlyVia returns a configuration that knows super peer i and no other.
func (w *world) onlyVia(i int, role, name string) JoinConfig {
	w.t.Helper()
	cfg := w.joinConfig(role, name, newIdentity(w.t))
	sp, _ := w.supers[i].trustOf(w)
	cfg.Token.SuperPeers = []service.TokenSuperPeer{{Endpoint: w.supers[i].endpoint, Key: sp.Key}}
	return cfg
}

// TestSuperPeerThatLostItsLedgerGivesNoAddressTwice: what it published is in the
// other's memory, also when nobody has to believe its root any more.
func TestSuperPeerThatLostItsLedgerGivesNoAddressTwice(t *testing.T) {
	for name, down := range map[string]time.Duration{"at once": 0, "after 50 minutes": 50 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2, "")
				web := w.onlyVia(0, "web", "web-1").process(1, nil)
				app := w.onlyVia(0, "app", "app-1").process(1, nil)
				webBefore, _ := byTicket(t, w, web)
				appBefore, _ := byTicket(t, w, app)
				given := map[netip.Addr]bool{webBefore.Credential.Addr4(): true, appBefore.Credential.Addr4(): true}
				time.Sleep(10 * time.Second) // published
				w.supers[0].kill()
				time.Sleep(down)
				w.startSuper(0, new(ledger.Memory))

				// Newcomers come first, so that nothing but the former directory
				// keeps the addresses.
				_, err := Join(w.ctx, w.onlyVia(0, "web", "web-2").process(1, nil))
				if err == nil || !strings.Contains(err.Error(), "no free address") || !strings.Contains(err.Error(), "another super peer is "+w.supers[1].endpoint) {
					t.Errorf("a newcomer at the super peer without its ledger: %v", err)
				}
				m, err := Join(w.ctx, w.joinConfig("web", "web-3", newIdentity(t)).process(1, nil))
				if err != nil || given[m.Credential.Addr4()] || m.SuperPeer != w.supers[1].endpoint {
					t.Errorf("a newcomer that knows both: %v", err)
				}

				again, ticket := byTicket(t, w, web.process(1, webBefore.Kept()))
				if !ticket || again.Credential.Addr4() != webBefore.Credential.Addr4() {
					t.Errorf("renewed by ticket (%v) at %v, was at %v", ticket, again.Credential.Addr4(), webBefore.Credential.Addr4())
				}
				again, ticket = byTicket(t, w, app.process(2, nil)) // with its secret
				if ticket || again.Credential.Addr4() != appBefore.Credential.Addr4() {
					t.Errorf("joined again at %v, was at %v", again.Credential.Addr4(), appBefore.Credential.Addr4())
				}
				w.eventually("both are listed", time.Minute, func() bool {
					peers, err := w.supers[1].sp.Peers(w.ctx)
					listed := 0
					for _, p := range peers {
						if given[p.Address4] {
							listed++
						}
					}
					return err == nil && listed == 2
				})
			})
		})
	}
}

// TestFirstStartAdmitsAtOnce: with another super peer that has never heard of it,
// and, after a moment, with nobody there at all.
func TestFirstStartAdmitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		began := time.Now()
		if _, err := Join(w.ctx, w.onlyVia(0, "web", "web-1")); err != nil || time.Since(began) > time.Second {
			t.Errorf("first admission after %v: %v", time.Since(began), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		began := time.Now()
		if _, err := Join(w.ctx, w.onlyVia(0, "web", "web-1")); err != nil || time.Since(began) > time.Second {
			t.Errorf("first admission of a lone super peer after %v: %v", time.Since(began), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		for _, p := range w.supers {
			p.kill()
		}
		w.startSuper(0, new(ledger.Memory))
		if _, err := Join(w.ctx, w.onlyVia(0, "web", "web-1")); err != nil {
			t.Errorf("first admission with the other one down: %v", err)
		}
	})
}
