package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/esp"
	"icvpn/internal/control"
	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// udp returns an inner IPv4 UDP packet that carries a number.
func udp(src, dst netip.Addr, sport, dport uint16, number uint64) []byte {
	b := make([]byte, 20+8+8)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], sport)
	binary.BigEndian.PutUint16(b[22:], dport)
	binary.BigEndian.PutUint16(b[24:], 16)
	binary.BigEndian.PutUint64(b[28:], number)
	return b
}

// number returns what udp put in, false for another packet.
func number(pkt []byte) (uint64, bool) {
	if len(pkt) != 36 || pkt[9] != 17 {
		return 0, false
	}
	return binary.BigEndian.Uint64(pkt[28:]), true
}

// tally counts how often each number arrived.
func tally(got <-chan []byte) map[uint64]int {
	seen := map[uint64]int{}
	for {
		select {
		case pkt := <-got:
			if n, ok := number(pkt); ok {
				seen[n]++
			}
		default:
			return seen
		}
	}
}

const shortLife = `sa_lifetime: 20s
rules:
- from: {role: web}
  to: {role: app}
`

func TestRekeyUnderTrafficLosesNoPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, shortLife)
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		handshakes := 0
		var last time.Time
		const packets = 3000
		for i := range uint64(packets) { // a minute and a half of traffic, both ways
			if err := web.dev.Inject(udp(web.addr4(), app.addr4(), 1000, 2000, i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Millisecond)
			if err := app.dev.Inject(udp(app.addr4(), web.addr4(), 2000, 1000, i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Millisecond)
			ps, err := web.Peers(w.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if !ps[0].LastHandshake.Equal(last) {
				last = ps[0].LastHandshake
				handshakes++
			}
		}
		time.Sleep(time.Second)
		if handshakes < 5 {
			t.Errorf("%d handshakes in 90 s with SAs of 20 s, want at least 5", handshakes)
		}
		for who, p := range map[string]*nodeProc{"app": app, "web": web} {
			seen := tally(p.got)
			for i := range uint64(packets) {
				if seen[i] != 1 {
					t.Fatalf("%s got packet %d %d times, want once (%d rekeys)", who, i, seen[i], handshakes-1)
				}
			}
		}
		// Old keys do not pile up: the pair in use, one lingering, one to come.
		if err := web.call(w.ctx, func() {
			if n := len(web.tunnels[app.self].pairs); n > 3 {
				t.Errorf("%d pairs held", n)
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestIdleTunnelIsNotRekeyedAndItsKeysExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, shortLife)
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		time.Sleep(time.Minute) // one rekey, since the ping used the first pair
		for _, p := range []*nodeProc{web, app} {
			ps, err := p.Peers(w.ctx)
			if err != nil || len(ps) != 1 || ps[0].State != control.TunnelNone {
				t.Errorf("after the SA's life: %+v, %v", ps, err)
			}
		}
		w.pingOK(web, "app-1") // and it comes back on demand
	})
}

// TestUnusedPairIsLeftAloneUntilItIsUsed: past its soft limit it is not looked at
// again and again, and yet its first packet gets it a successor.
func TestUnusedPairIsLeftAloneUntilItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, shortLife)
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		first, pair := web.pairWith(w, app), (*saPair)(nil)
		w.eventually("a second pair, past its soft limits", time.Minute, func() bool {
			now := time.Now()
			pair = web.pairWith(w, app)
			return pair != nil && pair != first && min(pair.in.Life(now), pair.out.Life(now)) == esp.LifeRekey
		})
		web.lifeEnds(web.tunnelTo(w, app)) // as a dummy or a probe coming in does
		time.Sleep(1100 * time.Millisecond)
		_, hard := pair.in.Deadlines()
		web.onControlLoop(w, func() {
			if !web.upkeepAt.Equal(hard) {
				t.Errorf("the next look is in %v, want at the hard limit in %v", time.Until(web.upkeepAt), time.Until(hard))
			}
		})
		if err := web.dev.Inject(udp(web.addr4(), app.addr4(), 1000, 2000, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if time.Now().After(hard) {
			t.Fatal("the pair has expired")
		}
		if web.pairWith(w, app) == pair {
			t.Error("no rekey although the pair is used")
		}
	})
}

// TestLimitOfARetiredPairHidesNoOther: packets that come late, on a pair past its
// limit, must not keep the data path from telling of the pair in use.
func TestLimitOfARetiredPairHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		tn := web.tunnelTo(w, app)
		web.lifeEnds(tn)
		synctest.Wait()
		if tn.ending.Load() {
			t.Error("the end of the pair in use would not be told")
		}
	})
}

// tunnelTo returns a node's tunnel to another.
func (p *nodeProc) tunnelTo(w *world, to *nodeProc) (tn *tunnel) {
	w.t.Helper()
	p.onControlLoop(w, func() { tn = p.tunnels[to.self] })
	return tn
}

// pairWith returns the pair that a node uses with another, nil if there is none.
func (p *nodeProc) pairWith(w *world, to *nodeProc) (pair *saPair) {
	w.t.Helper()
	p.onControlLoop(w, func() { pair = p.tunnels[to.self].current() })
	return pair
}

func TestBothEndsStartAtOnceAndAgreeOnOnePair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "rules:\n- from: {role: web}\n  to: {role: app}\n- from: {role: app}\n  to: {role: web}\n")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		for _, p := range []*nodeProc{web, app} {
			w.eventually("directory", directoryHeard, func() bool { return known(w, p) == 1 })
		}
		time.Sleep(time.Second) // contacts are published
		for i := range uint64(200) {
			if err := web.dev.Inject(udp(web.addr4(), app.addr4(), 1000, 2000, i)); err != nil {
				t.Fatal(err)
			}
			if err := app.dev.Inject(udp(app.addr4(), web.addr4(), 3000, 4000, i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		for who, p := range map[string]*nodeProc{"app": app, "web": web} {
			seen := tally(p.got)
			for i := range uint64(200) {
				if seen[i] != 1 {
					t.Fatalf("%s got packet %d %d times, want once", who, i, seen[i])
				}
			}
		}
		transcripts := map[[32]byte]bool{}
		for _, p := range []*nodeProc{web, app} {
			if err := p.call(w.ctx, func() {
				for _, tn := range p.tunnels {
					if cur := tn.current(); cur != nil {
						transcripts[cur.result.Transcript] = true
					}
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		if len(transcripts) != 1 {
			t.Errorf("the ends use %d different pairs, want one", len(transcripts))
		}
	})
}

func known(w *world, p *nodeProc) int {
	ps, err := p.Peers(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(ps)
}

func TestPeerThatLostItsKeysIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		key := newIdentity(t)
		web := w.start("web", "web-1")
		app := w.startAs("app", "app-1", key)
		w.pingOK(web, "app-1")
		app.kill() // no goodbye; it comes back as the same machine elsewhere
		again := w.startAs("app", "app-1", key)
		if again.addr4() != app.addr4() {
			t.Errorf("address %s after a restart, %s before", again.addr4(), app.addr4())
		}
		began := time.Now()
		for i := uint64(0); ; i++ {
			if err := web.dev.Inject(udp(web.addr4(), app.addr4(), 1000, 2000, i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
			if len(tally(again.got)) > 0 {
				break
			}
			if time.Since(began) > 90*time.Second {
				t.Fatal("web did not find the restarted machine within 90 s")
			}
		}
		t.Logf("found again after %v", time.Since(began))
	})
}

func TestMembershipIsRenewedWithoutCuttingFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web := w.start("web", "web-1")
		w.start("app", "app-1")
		w.pingOK(web, "app-1")
		before := web.membership.Load()
		if d := web.untilRenewal(); d < 14*time.Hour || d > 16*time.Hour {
			t.Errorf("renewal of a credential of 24 h in %v, want with a third of it left", d)
		}
		time.Sleep(10 * time.Second)
		app := idOf(web, "app-1")
		var handshake time.Time
		if err := web.call(w.ctx, func() { handshake = web.tunnels[app].handshake }); err != nil {
			t.Fatal(err)
		}
		next := web.renew(w.ctx)
		after := web.membership.Load()
		if after == before || after.Credential.NotAfter <= before.Credential.NotAfter || next < 14*time.Hour {
			t.Fatalf("not renewed: next in %v", next)
		}
		if after.Credential.Addr4() != before.Credential.Addr4() {
			t.Error("address changed by a renewal")
		}
		w.pingOK(web, "app-1")
		if err := web.call(w.ctx, func() {
			if !web.tunnels[app].handshake.Equal(handshake) {
				t.Error("the renewal cut the tunnel")
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// idOf returns the PID of a member by name.
func idOf(p *nodeProc, name string) (pid id.ID) {
	if err := p.call(context.Background(), func() {
		t, _ := p.lookUp(name)
		pid = t.pid
	}); err != nil {
		panic(err)
	}
	return pid
}

func TestSuperPeerRestartGivesNoAddressTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		key := newIdentity(t)
		seen := map[netip.Addr]string{}
		join := func(name string) *service.Credential {
			cfg := w.joinConfig("web", name, newIdentity(t))
			if name == "web-0" {
				cfg.Identity = key
			}
			m, err := Join(w.ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			return m.Credential
		}
		for _, name := range []string{"web-0", "web-1", "web-2"} {
			seen[join(name).Addr4()] = name
		}
		w.supers[0].kill()
		w.startSuper(0, w.supers[0].store)
		if c := join("web-0"); seen[c.Addr4()] != "web-0" {
			t.Errorf("web-0 got %s, which was %q's", c.Addr4(), seen[c.Addr4()])
		}
		if c := join("web-9"); seen[c.Addr4()] != "" {
			t.Errorf("web-9 got %s, which is %s's", c.Addr4(), seen[c.Addr4()])
		}
	})
}

func TestRevokedPeerLosesItsTunnelAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		next, trust, policy := *web.membership.Load(), *web.trust(), *web.trust().Policy
		policy.Out.Peers = []string{app.self.String()}
		trust.Policy, next.Trust = &policy, &trust
		if err := web.call(w.ctx, func() {
			if err := web.adoptRenewed(&next); err != nil {
				t.Error(err)
			}
			if n := len(web.tunnels[app.self].pairs); n != 0 {
				t.Errorf("%d pairs with a revoked peer", n)
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRenewalMayNotJumpTheEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		next := *web.membership.Load()
		next.Grant.Epoch = 1 << 31
		if err := web.call(w.ctx, func() {
			if err := web.adoptRenewed(&next); err == nil {
				t.Error("an epoch far ahead was adopted")
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRefusedRenewalChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		before := web.membership.Load()
		for name, change := range map[string]func(*Membership){
			"another address long before the end": func(m *Membership) {
				c := *m.Credential
				c.Address4 = []byte{10, 42, 0, 99}
				m.Credential = &c
			},
			"a policy that names a suite twice": func(m *Membership) {
				trust, policy := *m.Trust, *m.Trust.Policy
				policy.Suites = []string{policy.Suites[0], policy.Suites[0]}
				trust.Policy, m.Trust = &policy, &trust
			},
		} {
			next := *before
			next.Grant.Epoch++
			next.Grant.EpochKey = bytes.Repeat([]byte{7}, len(before.Grant.EpochKey))
			change(&next)
			if err := web.call(w.ctx, func() {
				if err := web.adoptRenewed(&next); err == nil {
					t.Errorf("%s was adopted", name)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if web.membership.Load() != before {
				t.Errorf("%s: refused, but in force", name)
			}
			if e := web.ring.Epochs(); len(e) != 1 || e[0].Number != before.Grant.Epoch {
				t.Errorf("%s: refused, but its group key is installed: %d epochs", name, len(e))
			}
		}
	})
}

func TestLosingThePairInUseLeavesNoBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		if err := web.call(w.ctx, func() {
			tn := web.tunnels[app.self]
			id := tn.current().result.RekeyID
			web.initiate(tn, &id)
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the old pair lingers beside the new one
		if err := web.call(w.ctx, func() {
			tn := web.tunnels[app.self]
			if len(tn.pairs) != 2 {
				t.Fatalf("%d pairs, want the new one and the old", len(tn.pairs))
			}
			web.removePair(tn, tn.current())
			if tn.state != tunnelIdle {
				t.Errorf("state %d without a pair to send on", tn.state)
			}
		}); err != nil {
			t.Fatal(err)
		}
		w.pingOK(web, "app-1")
	})
}

// A machine that restarts where it was says that it has lost its keys, so that nobody
// has to wait for dead peer detection.
func TestRestartedMachineSaysThatItHasLostItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		key := newIdentity(t)
		web, app := w.start("web", "web-1"), w.startAs("app", "app-1", key)
		w.pingOK(web, "app-1")
		app.kill()
		w.at = app.addr
		again := w.startAs("app", "app-1", key)
		began := time.Now()
		for i := uint64(0); len(tally(again.got)) == 0; i++ {
			if err := web.dev.Inject(udp(web.addr4(), app.addr4(), 1000, 2000, i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
			if time.Since(began) > deadAfter/2 {
				t.Fatalf("nothing has reached the restarted machine after %v", deadAfter/2)
			}
		}
		t.Logf("reached after %v", time.Since(began))
	})
}

// Whoever says that a peer has lost its keys is believed only if the peer is silent.
func TestWordOfLostKeysIsNotBelievedWhileThePeerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		tn := web.tunnelTo(w, app)
		var spi uint32
		var path netip.AddrPort
		var installed int
		web.onControlLoop(w, func() { p := tn.current(); spi, path, installed = p.out.SPI(), p.path, tn.installed })
		elsewhere := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), 4500)
		for range 20 {
			web.onControlLoop(w, func() {
				web.onNotice(encodeLost(spi+1), path)
				web.onNotice(encodeLost(spi), elsewhere)
				if tn.doubted {
					t.Error("another SA, or a word from elsewhere, makes it doubt")
				}
				web.onNotice(encodeLost(spi), path)
			})
			time.Sleep(lostEvery / 4)
		}
		web.onControlLoop(w, func() {
			if tn.lostAt.IsZero() || tn.installed != installed {
				t.Errorf("asked: %v; %d exchanges, %d before", !tn.lostAt.IsZero(), tn.installed, installed)
			}
		})
		w.pingOK(web, "app-1")
	})
}

// Somebody without any key sends ESP of unknown SPIs to a machine, with another machine's
// source address. The words of lost keys that it says for that are sealed, and so would
// fill the other's nonce set of notices.
func TestOutsiderFillsNoNonceSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.start("app", "app-1")
		w.pingOK(web, "app-1")
		for spi := range uint32(60 * 480) {
			app.onStray(1000+spi, netip.AddrPortFrom(web.addr, 4500), 100)
			time.Sleep(time.Second / 60)
		}
		if n := web.ring.Stats().Dropped(seal.DropBusy); n > 0 {
			t.Errorf("%d control datagrams of a member are dropped as too many", n)
		}
	})
}

// What a machine says of SPIs that it does not know is bounded and no amplifier.
func TestWordOfLostKeysIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		asks := w.bystander("203.0.113.77")
		at := netip.MustParseAddrPort("203.0.113.77:4500")
		for range 10 {
			web.onStray(0x1234, at, lostOnWire-1)
		}
		time.Sleep(10 * time.Millisecond)
		if n := len(asks.got()); n != 0 {
			t.Errorf("%d answers to datagrams shorter than they are", n)
		}
		stranger := netip.MustParseAddrPort("203.0.113.9:4500") // sends as well, far more
		for web.strays.place(stranger.Addr()) == web.strays.place(at.Addr()) {
			stranger = netip.AddrPortFrom(stranger.Addr().Next(), 4500) // one in 1024 shares its turns
		}
		for range 100 {
			for range 250 {
				web.onStray(0x5678, stranger, lostOnWire)
			}
			web.onStray(0x1234, at, lostOnWire)
			time.Sleep(lostEvery / 50)
		}
		if sizes := asks.got(); len(sizes) != 2 || slices.Max(sizes) != lostOnWire {
			t.Errorf("%d answers of at most %d bytes in %v, want 2 of %d", len(sizes), slices.Max(append(sizes, 0)), 2*lostEvery, lostOnWire)
		}
		said := 0
		for i := range 100 * lostBurst {
			if web.strays.allow(time.Minute, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})) {
				said++
			}
		}
		if said == 0 || said > lostBurst {
			t.Errorf("%d answers to as many addresses at once, want %d at most", said, lostBurst)
		}
		time.Sleep(lostFor)
		before := len(asks.got())
		web.onStray(0x1234, at, lostOnWire)
		time.Sleep(10 * time.Millisecond)
		if n := len(asks.got()); n != before {
			t.Error("it answers long after its start")
		}
	})
}
