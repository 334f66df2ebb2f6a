package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/admission"
	"icvpn/internal/control"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/internal/underlay/simnet"
)

// announce has the owner sign the next epoch, which super peer sp gets while it
// runs.
func (w *world) announce(sp int, delay time.Duration) *owner.News {
	w.t.Helper()
	e, err := owner.NextEpoch(w.svc.Secret, delay, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	w.svc.Secret = e.Secret
	if _, err := w.supers[sp].sp.Update(w.ctx, e.Update.Encode()); err != nil {
		w.t.Fatal(err)
	}
	return e
}

// epoch returns the epoch in force at a machine, and those whose keys it has.
func (p *nodeProc) epoch() (current uint32, held []uint32) {
	for _, e := range p.ring.Epochs() {
		held = append(held, e.Number)
	}
	return p.ring.Current(time.Now()), held
}

// pairEpochs are those of a machine's SAs.
func (p *nodeProc) pairEpochs(w *world) (all []uint32) {
	w.t.Helper()
	err := p.call(w.ctx, func() {
		for t := range p.active {
			for _, pair := range t.pairs {
				all = append(all, pair.result.Epoch)
			}
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func (w *world) reaches(from *nodeProc, target string) bool {
	ok := false
	err := from.Ping(w.ctx, target, 1, func(r control.PingReply) error { ok = r.Error == ""; return nil })
	return err == nil && ok
}

// TestTrafficRunsAcrossAChangeOfEpoch: nobody is told but by one super peer, no
// packet is lost or comes twice, and when the grace is over nothing of the epoch
// before is left.
func TestTrafficRunsAcrossAChangeOfEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web, app := w.via(0, "web", "web-1"), w.via(1, "app", "app-1")
		w.eventually("they know each other", time.Minute, func() bool { return known(w, web) == 1 && known(w, app) == 1 })
		w.pingOK(web, "app-1")
		e := w.announce(0, owner.DefaultEpochDelay)
		sent := uint64(0)
		traffic := func(until time.Time) {
			for ; time.Now().Before(until); sent++ {
				err := web.dev.Inject(udp(web.addr4(), app.addr4(), 1000, 2000, sent))
				time.Sleep(time.Second / 2)
				if err := errors.Join(err, app.dev.Inject(udp(app.addr4(), web.addr4(), 2000, 1000, sent))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second / 2)
			}
		}
		traffic(e.Record.Activates().Add(-time.Second))
		for _, p := range []*nodeProc{web, app} {
			if current, held := p.epoch(); current != 1 || !slices.Equal(held, []uint32{1, 2}) {
				t.Errorf("%s before: epoch %d, keys of %v", p.cfg.Join.Name, current, held)
			}
		}
		traffic(e.Record.Activates().Add(time.Second))
		if current, _ := web.epoch(); current != 2 {
			t.Errorf("epoch %d is in force", current)
		}
		late := w.start("web", "web-2") // in the grace
		traffic(e.Record.Settled().Add(time.Minute))
		for _, p := range []*nodeProc{web, app, late} {
			current, held := p.epoch()
			if current != 2 || !slices.Equal(held, []uint32{2}) {
				t.Errorf("%s after: epoch %d, keys of %v", p.cfg.Join.Name, current, held)
			}
			if g := p.membership.Load().Grant; g.Epoch != 2 || len(g.Keys) != 0 {
				t.Errorf("%s keeps epoch %d and %v", p.cfg.Join.Name, g.Epoch, g.Keys)
			}
			if all := p.pairEpochs(w); slices.Contains(all, 1) {
				t.Errorf("%s: SAs of epochs %v", p.cfg.Join.Name, all)
			}
		}
		for who, p := range map[string]*nodeProc{"app": app, "web": web} {
			seen := tally(p.got)
			for i := range sent {
				if seen[i] != 1 {
					t.Fatalf("%s got packet %d of %d %d times", who, i, sent, seen[i])
				}
			}
		}
		w.eventually("the newcomer reaches the other", time.Minute, func() bool { return w.reaches(late, "app-1") })
	})
}

// TestMachineThatSleptThroughAnEpochComesBack: whatever it has is over, and it is
// told by nobody.
func TestMachineThatSleptThroughAnEpochComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		var asleep atomic.Bool
		cfg.Dial = func(ctx context.Context, endpoint string) (net.Conn, error) {
			if asleep.Load() {
				return nil, net.ErrClosed
			}
			return w.dial(ctx, endpoint)
		}
		web, app := w.startWith(cfg), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		sleep := func(down bool) {
			asleep.Store(down)
			for _, other := range []netip.Addr{app.addr, netip.MustParseAddr("192.0.2.1")} {
				l := simnet.Link{Latency: time.Millisecond, Down: down}
				w.net.SetLink(web.addr, other, l)
				w.net.SetLink(other, web.addr, l)
			}
		}
		sleep(true)
		for range 2 {
			e := w.announce(0, owner.DefaultEpochDelay)
			time.Sleep(time.Until(e.Record.Settled().Add(time.Minute)))
		}
		if current, _ := web.epoch(); current != 1 {
			t.Fatalf("asleep, it is at epoch %d", current)
		}
		sleep(false)
		w.eventually("it has the epoch in force", 15*time.Minute, func() bool { current, _ := web.epoch(); return current == 3 })
		w.eventually("it is reached, and reaches", 5*time.Minute, func() bool { return w.reaches(web, "app-1") })
	})
}

// TestEmergencyTakesTheKeyFromWhoIsNotRenewed: at once, whatever was announced.
func TestEmergencyTakesTheKeyFromWhoIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		w.announce(0, owner.DefaultEpochDelay)
		time.Sleep(20 * time.Minute) // both have the key of epoch 2
		w.announce(0, 0)
		w.eventually("both are in epoch 3", 15*time.Minute, func() bool {
			a, _ := web.epoch()
			b, _ := app.epoch()
			return a == 3 && b == 3
		})
		w.eventually("they reach each other", 5*time.Minute, func() bool { return w.reaches(web, "app-1") })
		for _, p := range []*nodeProc{web, app} {
			if all := p.pairEpochs(w); slices.ContainsFunc(all, func(e uint32) bool { return e < 3 }) {
				t.Errorf("%s: SAs of epochs %v", p.cfg.Join.Name, all)
			}
		}
	})
}

// TestSuperPeerThatWasDownForTwoEpochsCatchesUp: it computes what it missed, and
// hears of it from the others.
func TestSuperPeerThatWasDownForTwoEpochsCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web := w.via(0, "web", "web-1")
		store := w.supers[1].store
		w.supers[1].kill()
		for range 2 {
			e := w.announce(0, owner.DefaultEpochDelay)
			time.Sleep(time.Until(e.Record.Settled().Add(time.Minute)))
		}
		for _, s := range []*ledger.Memory{store, new(ledger.Memory)} { // also without its disk
			w.startSuper(1, s)
			w.eventually("it is in epoch 3", 5*time.Minute, func() bool {
				st, err := w.supers[1].sp.Status(w.ctx)
				return err == nil && st.Epoch == 3
			})
			m := w.admitVia(1, w.joinConfig("app", "app-1", newIdentity(t)))
			if m.Grant.Epoch != 3 || string(m.Grant.EpochKey) != string(web.membership.Load().Grant.EpochKey) {
				t.Errorf("it hands out epoch %d", m.Grant.Epoch)
			}
			w.supers[1].kill()
		}
		w.startSuper(1, store)
	})
}

// TestRevokedMachineIsOut: the tunnels to it end, it is listed no more, it gets no
// key of the next epoch, and what is said under that it cannot read.
func TestRevokedMachineIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		bad, app, web := w.via(0, "web", "web-1"), w.via(1, "app", "app-1"), w.via(1, "web", "web-2")
		w.eventually("they know each other", time.Minute, func() bool { return known(w, bad) == 2 && known(w, app) == 2 })
		w.pingOK(bad, "app-1")
		w.pingOK(web, "app-1")
		e, err := owner.Revoke(w.svc.Secret, []id.ID{bad.self}, owner.DefaultEpochDelay, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := w.supers[0].sp.Update(w.ctx, e.Update.Encode()); err != nil {
			t.Fatal(err)
		}
		cfg := bad.cfg.Join
		cfg.Kept = bad.membership.Load().Kept()
		w.eventually("no super peer renews it", time.Minute, func() bool {
			_, err := Join(w.ctx, cfg)
			var refused *RefusedError
			return errors.As(err, &refused) && refused.Refusal.Code == admission.CodeRevoked
		})
		w.eventually("it is listed no more, and no tunnel leads to it", 10*time.Minute, func() bool {
			gone := false
			err := app.call(w.ctx, func() {
				tn := app.tunnels[bad.self]
				gone = !app.table.Has(bad.self) && (tn == nil || len(tn.pairs) == 0)
			})
			return err == nil && gone
		})
		t.Logf("out %v after the owner's word", time.Since(began))
		time.Sleep(time.Until(e.Record.Settled().Add(time.Minute)))
		if current, held := bad.epoch(); current != 1 || slices.Contains(held, 2) {
			t.Errorf("the revoked machine is in epoch %d, with keys of %v", current, held)
		}
		if current, _ := web.epoch(); current != 2 {
			t.Errorf("the others are in epoch %d", current)
		}
		w.pingOK(web, "app-1")
		if w.reaches(bad, "app-1") {
			t.Error("the revoked machine reaches others")
		}
		contact := app.membership.Load().Credential.Member()
		item, err := web.overlay.Get(w.ctx, contact.Key, discovery.SaltContact)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := web.openRecord(w.ctx, item, contact); err != nil {
			t.Error(err)
		}
		if _, err := bad.openRecord(w.ctx, item, contact); err == nil {
			t.Error("the revoked machine reads a contact of the new epoch")
		}
	})
}

func TestRolledBackEpochsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		old := w.announce(0, owner.DefaultEpochDelay)
		time.Sleep(time.Until(old.Record.Settled().Add(time.Minute)))
		w.announce(0, owner.DefaultEpochDelay)
		time.Sleep(20 * time.Minute)
		before := web.membership.Load()
		if before.Epochs.Last() != 3 {
			t.Fatalf("the machine knows of epoch %d", before.Epochs.Last())
		}
		err := web.call(w.ctx, func() {
			e, err := web.trust().OpenEpochs(old.Update.Epochs)
			if err != nil || web.adoptEpochs(e, old.Update.Epochs) {
				t.Errorf("an older document is taken: %v", err)
			}
			m := *before
			m.Grant.Epoch, m.Grant.EpochKey, m.Grant.Keys = 1, make([]byte, 32), nil
			m.Epochs, m.Grant.Epochs = nil, service.Signed{}
			if web.adoptRenewed(&m) == nil {
				t.Error("a grant of an epoch that is over is taken")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		invented := before.Grant
		invented.Epoch = 9
		if _, err := openEpochs(web.trust(), invented); err == nil {
			t.Error("an epoch that the owner has not spoken of is taken")
		}
	})
}

// TestMachinesWithWrongClocksChangeEpochWithTheOthers: the dates are the service's,
// and so is the clock.
func TestMachinesWithWrongClocksChangeEpochWithTheOthers(t *testing.T) {
	r := seal.NewRing(seal.Config{})
	at := time.Unix(1_800_000_000, 0)
	e := &service.Epochs{Records: []service.EpochRecord{{Number: 2, ActivateAt: at.Unix(), Grace: 600}}}
	for _, off := range []time.Duration{-time.Hour, -time.Minute, 0, time.Minute} {
		r.SetClockOffset(off)
		n := &Node{ring: r}
		if got := n.nextTurn(e, at.Add(-time.Minute)); !got.Equal(at.Add(-off)) {
			t.Errorf("offset %v: in force at %v, want %v", off, got, at.Add(-off))
		}
		if got := n.nextTurn(e, at); !got.Equal(at.Add(service.DefaultGrace - off)) {
			t.Errorf("offset %v: settled at %v", off, got)
		}
	}
}
