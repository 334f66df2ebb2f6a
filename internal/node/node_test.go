package node

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/ippkt"
	"icvpn/internal/service"
)

// pingOK pings until it works, or the test fails: the directory and the
// contact record need their time.
func (w *world) pingOK(p *nodeProc, target string) control.PingReply {
	w.t.Helper()
	var last control.PingReply
	w.eventually("ping "+target+" from "+p.membership.Load().Credential.Name, 30*time.Second, func() bool {
		err := p.Ping(w.ctx, target, 1, func(r control.PingReply) error { last = r; return nil })
		return err == nil && last.Error == ""
	})
	return last
}

func TestTwoMachinesPingThroughTheWholePath(t *testing.T) {
	synctest.Test(t, twoMachines)
}

func twoMachines(t *testing.T) {
	w := newWorld(t, 2, "")
	web, app := w.start("web", "web-1"), w.start("app", "app-1")
	r := w.pingOK(web, "app-1")
	if r.Address != app.addr4() || r.Route != control.RouteDirect || r.Path != "198.51.100.2:4500" {
		t.Errorf("reply = %+v", r)
	}
	peers, err := web.Peers(w.ctx)
	if err != nil || len(peers) != 1 || peers[0].State != control.TunnelUp || peers[0].Group == "" {
		t.Errorf("peers = %+v, %v", peers, err)
	}
}

func TestPolicyKeepsWebFromDB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web, db := w.start("web", "web-1"), w.start("db", "db-1")
		w.eventually("web knows db", directoryHeard, func() bool {
			tn, _, err := web.find(w.ctx, "db-1")
			return err == nil && tn != nil
		})
		err := web.Ping(w.ctx, "db-1", 1, func(control.PingReply) error { return nil })
		var ce *control.Error
		if !errors.As(err, &ce) || ce.Code != control.CodeNotAllowed || !strings.Contains(ce.Message, "role=web") {
			t.Errorf("ping db: %v", err)
		}
		// The record is there, but web has no key for it, nor for its envelope.
		tn, _, _ := web.find(w.ctx, "db-1")
		w.eventually("db has published", 30*time.Second, func() bool {
			_, err := web.findContact(w.ctx, *tn.member.Load())
			return err != nil && strings.Contains(err.Error(), "no key of this machine opens")
		})
		_ = db
	})
}

// TestSenderOfARefusedPacketIsTold: connect(2) fails at once. Only a sender on
// this machine is told.
func TestSenderOfARefusedPacketIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, db := w.start("web", "web-1"), w.start("db", "db-1")
		w.eventually("web knows db", directoryHeard, func() bool { return known(w, web) == 1 })
		stranger := netip.MustParseAddr("192.0.2.77")
		for _, src := range []netip.Addr{stranger, web.addr4()} {
			if err := web.dev.Inject(udp(src, db.addr4(), 1000, 2000, 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		var told [][]byte
		for len(web.got) > 0 {
			told = append(told, <-web.got)
		}
		if len(told) != 1 || told[0][9] != protoICMP || told[0][20] != 3 || told[0][21] != 13 {
			t.Fatalf("told % x, want one error", told)
		}
		if src, dst, _ := ippkt.Endpoints(told[0]); src != db.addr4() || dst != web.addr4() {
			t.Errorf("error from %s to %s", src, dst)
		}
	})
}

func TestLeaveDeletesTunnelsAtBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		app.stop()
		w.eventually("tunnel gone at web", 10*time.Second, func() bool {
			ps, err := web.Peers(w.ctx)
			return err == nil && len(ps) == 1 && ps[0].State == control.TunnelNone
		})
		tn, _, err := web.find(w.ctx, "app-1")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		defer cancel()
		if _, err := web.findContact(ctx, *tn.member.Load()); err == nil {
			t.Error("the contact record of a machine that left still has endpoints")
		}
	})
}

// A super peer that lies about the members of others, with an accomplice among
// its own, must not draw their traffic.
func TestMemberListSpeaksOnlyForItsSuperPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		m, err := Join(w.ctx, w.joinConfig("web", "web-1", newIdentity(t)))
		if err != nil {
			t.Fatal(err)
		}
		sp := m.Trust.Descriptor.SuperPeers[0]
		own := m.Credential.Member()
		forged := own
		forged.Address4 = []byte{10, 42, 255, 1} // of nobody's block, or another's
		if got := service.Vouched(sp, []service.Member{own, forged}, time.Now()); len(got) != 1 || got[0].Addr4() != own.Addr4() {
			t.Errorf("vouched for %+v", got)
		}
	})
}

func TestCredentialOutranksTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		lie := app.membership.Load().Credential.Member()
		lie.Address4, lie.NotAfter = []byte{10, 42, 0, 99}, lie.NotAfter+1000
		if err := web.call(w.ctx, func() {
			web.learn(app.membership.Load().Credential.Issuer, []service.Member{lie})
			if web.peer(netip.MustParseAddr("10.42.0.99")) != nil {
				t.Error("a directory entry moved a proved member to another address")
			}
			if web.peer(app.addr4()) == nil {
				t.Error("a directory entry took a proved member's address away")
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}
