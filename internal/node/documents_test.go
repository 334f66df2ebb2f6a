package node

import (
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/service"
)

// changeSupers has the owner sign the next descriptor. The files are of the super peer
// that carries it.
func (w *world) changeSupers(f func([]byte, string, time.Time) (*owner.Change, error), endpoint string) *owner.Change {
	w.t.Helper()
	c, err := f(w.svc.Secret, endpoint, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	w.svc.Secret = c.Secret
	if c.Number == len(w.svc.Supers) {
		w.svc.Supers = append(w.svc.Supers, owner.SuperFiles{})
	}
	w.svc.Supers[c.Number] = c.Files
	return c
}

// via admits a new machine at super peer i.
func (w *world) via(i int, role, name string) *nodeProc {
	w.t.Helper()
	cfg := w.joinConfig(role, name, newIdentity(w.t))
	sp, _ := w.supers[i].trustOf(w)
	cfg.Token.SuperPeers = []service.TokenSuperPeer{{Endpoint: w.supers[i].endpoint, Key: sp.Key}}
	return w.startWith(cfg)
}

// trustOf returns what the newest descriptor says of the super peer.
func (p *superProc) trustOf(w *world) (service.SuperPeer, *service.Trust) {
	w.t.Helper()
	for _, f := range w.svc.Supers {
		if f.Endpoint != p.endpoint {
			continue
		}
		key, err := owner.ParseKey(f.Key)
		if err != nil {
			w.t.Fatal(err)
		}
		h, err := service.OpenHandOver(f.HandOver, key)
		if err != nil {
			w.t.Fatal(err)
		}
		trust, err := service.Open(h.Service.Documents, h.Service.ID, 0, time.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		sp, _ := trust.Descriptor.SuperPeer(p.sp.PID())
		return sp, trust
	}
	w.t.Fatalf("no super peer %s", p.endpoint)
	return service.SuperPeer{}, nil
}

// TestMembersOfAnAddedSuperPeerAreAccepted: nobody who ran before is told
// anything but by the overlays.
func TestMembersOfAnAddedSuperPeerAreAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		app := w.start("app", "app-1")
		w.changeSupers(owner.AddSuper, "192.0.2.2:4500")
		w.startSuper(1, new(ledger.Memory))
		web := w.via(1, "web", "web-1")
		if got := web.trust().Descriptor.Seq; got != 2 {
			t.Fatalf("the new super peer hands out descriptor %d", got)
		}
		// The old member meets a credential of an issuer that it does not know.
		w.eventually("the old member is reached", 5*time.Minute, func() bool {
			ok := false
			err := web.Ping(w.ctx, app.addr4().String(), 1, func(r control.PingReply) error { ok = r.Error == ""; return nil })
			return err == nil && ok
		})
		if got := app.trust().Descriptor.Seq; got != 2 {
			t.Errorf("the old member has descriptor %d", got)
		}
		w.pingOK(web, "app-1")
		// And machines that the old super peer admits from now on get it at once.
		if late := w.via(0, "app", "app-2"); late.trust().Descriptor.Seq != 2 {
			t.Errorf("the old super peer hands out descriptor %d", late.trust().Descriptor.Seq)
		}
	})
}

// TestMembersOfARemovedSuperPeerMoveOn: what it vouched for ends, the machines
// themselves are admitted by another.
func TestMembersOfARemovedSuperPeerMoveOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		moves, stays := w.via(1, "web", "web-1"), w.via(0, "app", "app-1")
		w.eventually("both know each other", time.Minute, func() bool { return known(w, moves) == 1 && known(w, stays) == 1 })
		w.pingOK(moves, "app-1")
		before := moves.addr4()
		w.changeSupers(owner.RemoveSuper, "192.0.2.2:4500")
		w.supers[0].kill()
		w.startSuper(0, w.supers[0].store)
		w.eventually("the removed super peer's member is admitted by the other", 40*time.Minute, func() bool {
			return moves.membership.Load().Credential.Issuer == w.supers[0].sp.PID() && stays.trust().Descriptor.Seq == 2
		})
		if moves.addr4() == before {
			t.Error("the address is still of the removed super peer's block")
		}
		if _, err := stays.verifyCredential(time.Now(), moves.cfg.Membership.Grant.Credential, 1); err == nil {
			t.Error("a credential of the removed super peer is accepted")
		}
		w.eventually("it is known at its new address", 5*time.Minute, func() bool {
			tn := stays.peer(moves.addr4())
			return tn != nil && tn.pid == moves.self
		})
		w.pingOK(moves, "app-1")
		cfg := w.joinConfig("web", "web-2", newIdentity(t))
		cfg.Token.SuperPeers = cfg.Token.SuperPeers[1:]
		w.eventually("the removed super peer admits nobody", time.Minute, func() bool {
			_, err := Join(w.ctx, cfg)
			return err != nil
		})
	})
}
