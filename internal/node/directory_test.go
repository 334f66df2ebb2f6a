package node

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/underlay/simnet"
)

// cutOff parts one super peer from everybody, or joins it to them again. Newcomers,
// who come over pipes, reach it all the same.
func (w *world) cutOff(sp int, down bool) {
	at := netip.MustParseAddrPort(w.supers[sp].endpoint).Addr()
	part := func(other netip.Addr) {
		l := simnet.Link{Latency: time.Millisecond, Down: down}
		w.net.SetLink(at, other, l)
		w.net.SetLink(other, at, l)
	}
	for i, p := range w.supers {
		if i != sp {
			part(netip.MustParseAddrPort(p.endpoint).Addr())
		}
	}
	for _, p := range w.nodes {
		part(p.addr)
	}
}

// admit has a machine admitted that does not run.
func (w *world) admit(i, sp int) id.ID {
	cfg := w.joinConfig([]string{"web", "app", "db"}[i%3], fmt.Sprintf("newcomer-%d", i), newIdentity(w.t))
	at := w.supers[sp].endpoint
	cfg.Token.SuperPeers = slices.DeleteFunc(slices.Clone(cfg.Token.SuperPeers), func(s service.TokenSuperPeer) bool { return s.Endpoint != at })
	m, err := Join(w.ctx, cfg)
	if err != nil {
		w.t.Fatalf("newcomer %d at super peer %d: %v", i, sp+1, err)
	}
	return m.Credential.PID()
}

// missing says how many of all are not in the roster of one of the nodes.
func (w *world) missing(all []id.ID) (n int) {
	for _, p := range w.nodes {
		for _, pid := range all {
			if !p.table.Has(pid) {
				n++
			}
		}
	}
	return n
}

// TestIdlePeersListNewcomersSoonAfterAPartition: newcomers come all the time, one
// super peer is killed and started again, another one cut off for a while. Two
// minutes after the end every peer lists all of them though no packet waits for
// any, and then a settled peer is quiet.
func TestIdlePeersListNewcomersSoonAfterAPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, "")
		for i := range 4 {
			w.start("web", fmt.Sprintf("idle-%d", i))
		}
		time.Sleep(10 * time.Minute) // long intervals: nothing has happened
		var came []id.ID
		come := func(d time.Duration, supers ...int) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Second) {
				came = append(came, w.admit(len(came), supers[len(came)%len(supers)]))
			}
		}
		come(20*time.Second, 0, 1, 2)
		w.supers[0].kill()
		come(20*time.Second, 1, 2)
		w.startSuper(0, w.supers[0].store)
		come(30*time.Second, 0, 1, 2)
		w.cutOff(1, true)
		come(15*time.Second, 0, 1, 2)
		w.cutOff(1, false)
		healed := time.Now()
		w.eventually("every peer lists every newcomer", 20*time.Minute, func() bool { return w.missing(came) == 0 })
		took := time.Since(healed)
		t.Logf("%d newcomers listed by all %v after the partition healed", len(came), took)
		if took > 2*time.Minute {
			t.Errorf("newcomers were listed %v after the partition healed, want at most 2m", took)
		}
		if testing.Short() {
			return // what follows takes as long as all before
		}
		time.Sleep(10 * time.Minute)
		was := w.nodes[0].traffic()
		const quiet = 30 * time.Minute
		time.Sleep(quiet)
		rate := float64(w.nodes[0].traffic()-was) / quiet.Seconds()
		t.Logf("an idle peer sends and receives %.0f B/s", rate)
		if rate > 1000 {
			t.Errorf("an idle peer sends and receives %.0f B/s, want below 1000", rate)
		}
	})
}

// TestReplicasCatchUpWithDirectories: a super peer that was cut off when another
// one's directory changed, and one that has been started again and remembers
// nothing, soon have what readers ask them for.
func TestReplicasCatchUpWithDirectories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, "")
		web := w.start("web", "web")
		w.admit(0, 0)
		time.Sleep(5 * time.Minute)
		issuer := web.trust().Descriptor.SuperPeers[0] // of 192.0.2.1
		newest := func(sp int, salt []byte) int64 {
			it, err := web.overlay.AskItemAt(w.ctx, netip.MustParseAddrPort(w.supers[sp].endpoint), issuer.Key, salt)
			if err != nil {
				return 0
			}
			return it.Seq
		}
		same := func() bool {
			root, shard := newest(0, discovery.SaltDirectory), newest(0, directory.SaltShard(0))
			return root > 0 && shard > 0 && newest(1, discovery.SaltDirectory) == root && newest(1, directory.SaltShard(0)) == shard
		}
		if !same() {
			t.Fatal("the replicas differ before anything has happened")
		}
		w.cutOff(1, true)
		w.admit(1, 0)
		time.Sleep(15 * time.Second)
		w.cutOff(1, false)
		if same() {
			t.Fatal("the replica has heard of the newcomer while it was cut off")
		}
		w.eventually("the replica that was cut off has the newest directory", time.Minute, same)
		w.supers[1].kill()
		w.startSuper(1, w.supers[1].store)
		w.eventually("the replica that was started again has the newest directory", time.Minute, same)
	})
}

// traffic is the bytes that a node has sent and received.
func (p *nodeProc) traffic() uint64 {
	s := p.udp.Stats()
	return s.ReadBytes.Load() + s.WriteBytes.Load()
}

// TestPacketForWhoIsListedALittleLaterIsNotLost: the first look comes before the super
// peer has published the newcomer, and no other packet makes for another.
func TestPacketForWhoIsListedALittleLaterIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		time.Sleep(10 * time.Second)
		next := web.addr4().Next()
		if err := web.dev.Inject(udp(web.addr4(), next, 1000, 2000, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		app := w.start("app", "app-1")
		if app.addr4() != next {
			t.Fatalf("the newcomer has address %v", app.addr4())
		}
		select {
		case <-app.got:
		case <-time.After(10 * time.Second):
			t.Error("the packet is lost")
		}
	})
}
