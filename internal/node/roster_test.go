package node

import (
	"crypto/ed25519"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/service"
)

// listing are the shards that a super peer would publish, as a reader gets them:
// of every block that it speaks for, those in which somebody is or was.
func listing(w *world, p *nodeProc, sp int, ms ...service.Member) (issuer id.ID, all []*directory.Shard) {
	s, _ := p.trust().Descriptor.SuperPeer(w.supers[sp].sp.PID())
	block := netip.MustParsePrefix(s.Block4)
	shards := map[uint32]*directory.Shard{0: {}}
	for _, m := range service.Vouched(s, ms, time.Now()) {
		host, _ := directory.HostOf(block, m.Addr4())
		n := directory.ShardOf(host)
		if shards[n] == nil {
			shards[n] = &directory.Shard{Number: n}
		}
		shards[n].Members = append(shards[n].Members, m)
	}
	return s.PID(), slices.Collect(maps.Values(shards))
}

// publish has a node read what listing returns.
func (p *nodeProc) publish(w *world, sp int, ms ...service.Member) (listed int) {
	issuer, all := listing(w, p, sp, ms...)
	for _, s := range all {
		p.onShard(issuer, s)
		listed += len(s.Members)
	}
	p.settleRoster()
	return listed
}

// onControlLoop runs f where a node's roster is owned.
func (p *nodeProc) onControlLoop(w *world, f func()) {
	w.t.Helper()
	if err := p.call(w.ctx, f); err != nil {
		w.t.Fatal(err)
	}
}

// otherOf returns a super peer that did not admit p, and an address of its block.
func otherOf(w *world, p *nodeProc) (index int, block []byte) {
	for i, s := range w.supers {
		if s.sp.PID() != p.membership.Load().Credential.Issuer {
			sp, _ := p.trust().Descriptor.SuperPeer(s.sp.PID())
			a := netip.MustParsePrefix(sp.Block4).Addr().Next().Next().Next().As4()
			return i, a[:]
		}
	}
	w.t.Fatal("there is no other super peer")
	return 0, nil
}

// TestSuperPeerCannotRelabelAnothersMember has a dishonest super peer list the
// key of a machine that another one admitted, with labels that open it to
// everybody and an end far away, while no tunnel is up.
func TestSuperPeerCannotRelabelAnothersMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web, db := w.start("web", "web-1"), w.start("db", "db-1")
		w.eventually("directory", directoryHeard, func() bool { return known(w, web) == 1 })
		liar, address := otherOf(w, db)
		lie := db.membership.Load().Credential.Member()
		lie.Labels, lie.Address4, lie.NotAfter = map[string]string{"role": "app"}, address, time.Now().Add(40*time.Hour).Unix()
		web.onControlLoop(w, func() {
			if web.publish(w, liar, lie) != 1 {
				t.Error("the lie is not one that passes for its own member: the test shows nothing")
			}
			got := web.tunnelOf(db.self)
			if m := got.member.Load(); m.Labels["role"] != "db" || m.Addr4() != db.addr4() {
				t.Errorf("%s is now %s at %s", m.Name, service.LabelText(m.Labels), m.Addr4())
			}
			if got.pair.Load().MayInitiate() {
				t.Error("web may now reach db")
			}
			if web.peer(db.addr4()) != got {
				t.Error("the machine's own address leads elsewhere")
			}
		})
	})
}

// TestMoveToAnotherSuperPeerIsBelievedOnProof: a machine that was admitted again
// elsewhere is reached under its new address, which its credential then proves.
func TestMoveToAnotherSuperPeerIsBelievedOnProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web := w.start("web", "web-1")
		key := newIdentity(t)
		app := w.startAs("app", "app-1", key)
		w.eventually("directory", directoryHeard, func() bool { return known(w, web) == 1 })
		old := app.addr4()
		first := app.membership.Load().Credential.Issuer
		app.stop()
		for _, s := range w.supers {
			if s.sp.PID() == first {
				s.kill()
			}
		}
		app = w.startAs("app", "app-1", key)
		if app.addr4() == old {
			t.Fatal("the machine has its old address: the test shows nothing")
		}
		w.eventually("route to the new address", 10*time.Minute, func() bool { return web.listedAt(app.addr4()) != nil })
		w.pingOK(web, app.addr4().String())
		web.onControlLoop(w, func() {
			if got := web.tunnels[app.self].member.Load().Addr4(); got != app.addr4() {
				t.Errorf("after the proof it stands at %s, want %s", got, app.addr4())
			}
		})
	})
}

// TestSilentSuperPeerLosesItsMembers: once the directory of the one that listed
// a machine first has ended unrenewed, another's word counts.
func TestSilentSuperPeerLosesItsMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.eventually("directory", directoryHeard, func() bool { return known(w, web) == 1 })
		second, address := otherOf(w, app)
		moved := app.membership.Load().Credential.Member()
		moved.Address4 = address
		web.onControlLoop(w, func() {
			web.tunnelOf(app.self)
			first := app.membership.Load().Credential.Issuer
			web.table.SetExpires(first, web.now().Add(-time.Second).Unix())
			web.publish(w, second, moved)
			if got := web.tunnels[app.self].member.Load(); string(got.Address4) != string(address) {
				t.Errorf("it still stands at %s", got.Addr4())
			}
		})
	})
}

// TestDirectoryDropsWhomItNoLongerLists: a machine that its super peer has taken
// out is gone, and no route is left.
func TestDirectoryDropsWhomItNoLongerLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.eventually("directory", directoryHeard, func() bool { return known(w, web) == 1 })
		web.onControlLoop(w, func() {
			web.tunnelOf(app.self)
			web.publish(w, 0)
			if web.tunnels[app.self] != nil || web.peer(app.addr4()) != nil || web.mayJoinOverlay(app.self, netip.AddrPortFrom(app.addr, 4500)) {
				t.Error("a machine that nobody lists is still known")
			}
		})
	})
}

// TestFormerIssuerDoesNotTakeItsMemberBack: a machine that has proved its
// admission elsewhere stays there, whatever the super peer before says of it.
func TestFormerIssuerDoesNotTakeItsMemberBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.eventually("directory", directoryHeard, func() bool { return known(w, web) == 1 })
		former := *app.membership.Load().Credential
		second, address := otherOf(w, app)
		moved := former
		moved.Issuer, moved.Address4 = w.supers[second].sp.PID(), address
		web.onControlLoop(w, func() {
			web.learnProved(&former)
			web.learnProved(&moved)
			got := web.tunnels[app.self]
			web.publish(w, 1-second, former.Member())
			if a := got.member.Load().Addr4(); a != moved.Addr4() {
				t.Errorf("a listing moved it back to %s", a)
			}
			lie := former.Member()
			lie.Labels = map[string]string{"role": "db"}
			web.publish(w, 1-second, lie)
			if r := got.member.Load().Labels["role"]; r != "app" {
				t.Errorf("relabelled to %s though another proved it", r)
			}
		})
	})
}

// TestEntryThatEndsOnItsWayHarmsNobody: a super peer may list what ends within
// the second.
func TestEntryThatEndsOnItsWayHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		web.onControlLoop(w, func() {
			over := service.Member{Key: newIdentity(t)[32:], Name: "x", Address4: []byte{10, 42, 0, 77}, NotAfter: web.now().Unix()}
			web.learn(w.supers[0].sp.PID(), []service.Member{over})
			for _, tn := range web.tunnels {
				web.judge(tn)
				web.describe(tn)
			}
			late := service.Credential{Key: ed25519.PublicKey(newIdentity(t)[32:]), Name: "y", Address4: []byte{10, 42, 0, 78}, NotAfter: web.now().Unix()}
			if tn := web.learnProved(&late); tn.member.Load() == nil || tn.pair.Load() == nil {
				t.Error("a tunnel without a member")
			}
		})
	})
}

// TestSignalsOfOneTunnelAreBounded: a peer sends in turn on as many SAs as it
// has, while the control loop is busy.
func TestSignalsOfOneTunnelAreBounded(t *testing.T) {
	n := &Node{awake: make(chan struct{}, 1)}
	tn := &tunnel{node: n}
	tn.unheard.Store(1)
	for range 10000 {
		tn.heardOn()
	}
	if got := len(n.signals.list); got != 1 {
		t.Errorf("%d signals wait, want 1", got)
	}
}
