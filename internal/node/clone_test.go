package node

import (
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/service"
)

// admitVia has a process of a machine admitted by one super peer, and returns its
// membership.
func (w *world) admitVia(sp int, cfg JoinConfig) *Membership {
	w.t.Helper()
	cfg.Token.SuperPeers = only(cfg.Token.SuperPeers, w.supers[sp].endpoint)
	m, err := Join(w.ctx, cfg)
	if err != nil {
		w.t.Fatalf("join %s: %v", cfg.Name, err)
	}
	return m
}

// TestAdmissionThatBrokeOffHeals: a super peer has saved a grant that its machine
// never got; another one admitted the machine then. Both list it, and the later
// admission is the one that everybody comes to believe.
func TestAdmissionThatBrokeOffHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web := w.start("web", "web-1")
		cfg := w.joinConfig("app", "app-1", newIdentity(t))
		cfg.Instance = service.Instance{1}
		w.admitVia(0, cfg) // nobody uses it
		time.Sleep(time.Minute)
		web.readDirectories(w.ctx)
		cfg.Token.SuperPeers = only(cfg.Token.SuperPeers, w.supers[1].endpoint)
		app := w.startWith(cfg)
		w.eventually("one listing is left", 20*time.Minute, func() bool {
			all := web.table.Entries(app.self, web.now())
			return len(all) == 1 && all[0].Addr4() == app.addr4()
		})
		w.pingOK(web, "app-1")
		select {
		case <-app.Stopped():
			t.Errorf("the machine took itself for a clone: %v", app.err)
		default:
		}
	})
}

// TestMachineAdmittedLastWins: a copy of a machine joins, by the same super peer
// or by another. The first one leaves with a clear error, and everybody else finds
// the copy.
func TestMachineAdmittedLastWins(t *testing.T) {
	for name, elsewhere := range map[string]bool{"by the same super peer": false, "by another super peer": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2, "")
				key := newIdentity(t)
				web, app := w.start("web", "web-1"), w.startAs("app", "app-1", key)
				w.pingOK(web, "app-1")
				via, _ := otherOf(w, app)
				if !elsewhere {
					via = 1 - via
				}
				time.Sleep(5 * time.Second)
				clone := w.admitVia(via, w.joinConfig("app", "app-2", key))
				w.eventually("the first one leaves", 10*time.Minute, func() bool {
					select {
					case <-app.Stopped():
						return true
					default:
						return false
					}
				})
				var gone *CloneError
				if <-app.done; !errors.As(app.err, &gone) || !errors.Is(app.err, ErrClone) || gone.Name != "app-2" {
					t.Fatalf("it ended with %v", app.err)
				}
				w.eventually("everybody else knows the copy, and only it", 20*time.Minute, func() bool {
					all := web.table.Entries(app.self, web.now())
					return len(all) == 1 && all[0].Member().Instance == clone.Credential.Instance && all[0].Addr4() == clone.Credential.Addr4()
				})
			})
		})
	}
}

// TestForgedCloneMovesNobody: a super peer lists another's member as admitted
// later, by itself; without the machine's claim nobody believes it.
func TestForgedCloneMovesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		app := w.start("app", "app-1")
		liar, address := otherOf(w, app)
		forged := app.membership.Load().Credential.Member()
		forged.Address4, forged.Instance, forged.Issued = address, service.Instance{1}, time.Now().Unix()+60
		app.onControlLoop(w, func() {
			if app.publish(w, liar, forged) != 1 {
				t.Error("the lie is not one that passes for its own member: the test shows nothing")
			}
		})
		time.Sleep(time.Minute)
		select {
		case <-app.Stopped():
			t.Errorf("a listing without a claim ended a machine: %v", app.err)
		default:
		}
	})
}

// TestProcessBeforeIsNoClone: a machine that starts again within a second may read
// of its process before, which another super peer still lists with that one's
// claim.
func TestProcessBeforeIsNoClone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		app := w.start("app", "app-1")
		other, address := otherOf(w, app)
		m := app.membership.Load()
		for by, after := range []bool{false, true} {
			former := m.Credential.Member()
			former.Address4, former.Instance = address, service.Instance{255, 255, 255, 255, 255, 255, 255, 255}
			asked := time.UnixMilli(int64(binary.BigEndian.Uint64(m.Claim))).Add(time.Duration(2*by-1) * time.Millisecond)
			former.Claim = service.SignClaim(app.key, app.service, w.supers[other].sp.PID(), former.Instance, asked)
			app.onControlLoop(w, func() { app.watchClone(w.supers[other].sp.PID(), []service.Member{former}) })
			time.Sleep(time.Second)
			select {
			case <-app.Stopped():
				if !after {
					t.Fatalf("a process that asked for admission before ours ended it: %v", app.err)
				}
			default:
				if after {
					t.Error("a process that asked for admission after ours did not end it")
				}
			}
		}
	})
}

// TestTunnelsAreMadeOnDemand: a machine that is listed costs no tunnel until there
// is a packet for it.
func TestTunnelsAreMadeOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.eventually("directory", directoryHeard, func() bool { return web.table.Has(app.self) })
		web.onControlLoop(w, func() {
			if len(web.tunnels) != 0 {
				t.Errorf("%d tunnels without a packet", len(web.tunnels))
			}
		})
		if err := web.dev.Inject(udp(web.addr4(), app.addr4(), 1000, 2000, 1)); err != nil {
			t.Fatal(err)
		}
		w.eventually("the packet arrives", 10*time.Second, func() bool { return len(app.got) == 1 })
	})
}

// TestLeaverIsOutOfTheDirectoryAtOnce: and one that vanishes stays in it until its
// lease ends.
func TestLeaverIsOutOfTheDirectoryAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		key := newIdentity(t)
		web, app, db := w.start("web", "web-1"), w.startAs("app", "app-1", key), w.start("db", "db-1")
		w.eventually("directory", 2*time.Minute, func() bool { return web.table.Has(app.self) && web.table.Has(db.self) })
		app.stop()
		db.kill()
		w.eventually("the one that left is gone", 10*time.Minute, func() bool { return !web.table.Has(app.self) })
		if !web.table.Has(db.self) {
			t.Error("the one that vanished is gone before its lease has ended")
		}
		back := w.startAs("app", "app-1", key)
		w.pingOK(web, back.addr4().String()) // within seconds
		if back.addr4() != app.addr4() {
			t.Errorf("it came back with %s, it had %s", back.addr4(), app.addr4())
		}
	})
}
