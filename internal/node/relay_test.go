package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/id"
	"icvpn/internal/port"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
)

// behindNAT starts a machine that knows nothing of the address that others see it at.
func (w *world) behindNAT(role, name string) *nodeProc {
	before := w.node
	own := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, byte(len(w.nodes) + 1)}), 4500)
	w.node = func(c *Config) { c.Endpoints = func() []netip.AddrPort { return []netip.AddrPort{own} } }
	defer func() { w.node = before }()
	return w.start(role, name)
}

// apart closes or opens the way between two machines.
func (w *world) apart(a, b *nodeProc, down bool) {
	link := simnet.Link{Latency: time.Millisecond, Down: down}
	w.net.SetLink(a.addr, b.addr, link)
	w.net.SetLink(b.addr, a.addr, link)
}

// named waits until a machine's contact record names relays.
func (w *world) namesRelays(p *nodeProc, n int) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("the contact record names %d relays", n), time.Minute, func() bool {
		m := p.membership.Load().Credential.Member()
		for _, other := range w.nodes {
			if c, err := other.findContact(w.ctx, m); err == nil && len(c.Relays) == n {
				return true
			}
		}
		return false
	})
}

// pingVia pings until it is answered, and returns the route.
func (w *world) pingVia(p *nodeProc, target string, limit time.Duration) (last control.PingReply) {
	w.t.Helper()
	w.eventually("ping "+target, limit, func() bool {
		last = control.PingReply{}
		err := p.Ping(w.ctx, target, 1, func(r control.PingReply) error { last = r; return nil })
		return err == nil && last.Error == ""
	})
	return last
}

func TestRelayCarriesWhatCannotGoDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		web, app := w.behindNAT("web", "web-1"), w.behindNAT("app", "app-1")
		w.apart(web, app, true)
		w.namesRelays(app, 2)

		const secret = 0x5ec2e75ec2e75ec2
		inTheClear := binary.BigEndian.AppendUint64(nil, secret)
		var relayed, direct, clear atomic.Int64
		watch := watcher(func(from, to netip.AddrPort, b []byte) bool {
			if underlay.Classify(b) == underlay.Relayed {
				relayed.Add(1)
			} else if from.Addr() == web.addr && to.Addr() == app.addr && underlay.Classify(b) == underlay.ESP {
				direct.Add(1)
			}
			if bytes.Contains(b, inTheClear) {
				clear.Add(1)
			}
			return true
		})
		w.watch.Store(&watch)
		r := w.pingVia(web, "app-1", 10*time.Second)
		if r.Route != control.RouteRelayed || r.Path != w.supers[0].endpoint && r.Path != w.supers[1].endpoint {
			t.Errorf("ping went %s by %q", r.Route, r.Path)
		}
		if err := web.dev.Inject(udp(web.addr4(), app.addr4(), 1000, 2000, secret)); err != nil {
			t.Fatal(err)
		}
		if got, ok := number(<-app.got); !ok || got != secret {
			t.Errorf("app got %x", got)
		}
		if relayed.Load() == 0 || clear.Load() != 0 {
			t.Errorf("%d datagrams relayed, %d of them in the clear", relayed.Load(), clear.Load())
		}
		if s, err := app.Status(w.ctx); err != nil || len(s.Relays) != 2 || !slices.Contains(s.Relays, r.Path) {
			t.Errorf("app's status names the relays %v, %v", s.Relays, err)
		}
		peers, err := app.Peers(w.ctx)
		if i := slices.IndexFunc(peers, func(p control.Peer) bool { return p.Name == "web-1" }); err != nil || i < 0 || peers[i].Route != control.RouteRelayed {
			t.Errorf("app's peers: %+v, %v", peers, err)
		}
		// What every path through a relay carries: 1280 bytes with both headers.
		if mtu := web.innerMTU(w, app); mtu < 1280-48-relay.HeaderLen-90 {
			t.Errorf("the MTU through a relay is %d", mtu)
		}

		// No traffic is lost while it looks for the direct way in vain.
		for range 30 {
			time.Sleep(30 * time.Second)
			if r := w.pingVia(web, "app-1", 6*time.Second); r.Route != control.RouteRelayed {
				t.Fatalf("ping went %s", r.Route)
			}
		}
		// And when it is open, it is taken, for good.
		w.apart(web, app, false)
		w.eventually("the tunnel is direct", 2*directEvery, func() bool {
			return w.pingVia(web, "app-1", 6*time.Second).Route == control.RouteDirect
		})
		relayed.Store(0)
		for range 60 {
			time.Sleep(30 * time.Second)
			if r := w.pingVia(web, "app-1", 6*time.Second); r.Route != control.RouteDirect || r.Path != netip.AddrPortFrom(app.addr, 4500).String() {
				t.Fatalf("ping went %s by %s", r.Route, r.Path)
			}
		}
		if relayed.Load() != 0 || direct.Load() == 0 {
			t.Errorf("%d datagrams were relayed, %d went directly", relayed.Load(), direct.Load())
		}
		// Nobody needs the allocation any more that was made for this tunnel; those in the
		// contact record stay.
		var held int
		web.onControlLoop(w, func() {
			for _, pid := range []int{0, 1} {
				if _, _, ok := web.relaying.holdings.Held(w.supers[pid].sp.PID()); ok {
					held++
				}
			}
		})
		if held != 2 {
			t.Errorf("web holds %d allocations, behind its NAT", held)
		}
	})
}

// nats stand before machines, each with a public address of its own, whose ports they
// keep: what comes is let in from where something was sent to within the last 30 s, an
// address or an address and port (RFC 4787, Section 5).
type nats struct {
	at    map[netip.Addr]bool
	ports bool
	sent  map[[2]netip.AddrPort]time.Time
}

func (n *nats) pass(from, to netip.AddrPort, b []byte) bool {
	if n.at[from.Addr()] && n.at[to.Addr()] && underlay.Classify(b) == underlay.Control && seal.Type(b[4]) == seal.TypeDHT {
		return false // the overlay would open them now and then
	}
	key := func(in, out netip.AddrPort) [2]netip.AddrPort {
		if !n.ports {
			out = netip.AddrPortFrom(out.Addr(), 0)
		}
		return [2]netip.AddrPort{in, out}
	}
	if n.at[from.Addr()] {
		n.sent[key(from, to)] = time.Now()
	}
	at, open := n.sent[key(to, from)]
	return !n.at[to.Addr()] || open && time.Since(at) < 30*time.Second
}

// TestKnockOpensBothNATs: two machines whose NATs let in only answers begin through a relay,
// and find the direct way, although the rules let only one of them look for it. They are
// found again after an hour, and keep their tunnel while it is used.
func TestKnockOpensBothNATs(t *testing.T) {
	for _, ports := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 2, "")
			n := &nats{at: map[netip.Addr]bool{}, ports: ports, sent: map[[2]netip.AddrPort]time.Time{}}
			for i := range 2 {
				n.at[netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)})] = true
			}
			pass := watcher(n.pass)
			w.watch.Store(&pass)
			web, app := w.behindNAT("web", "web-1"), w.behindNAT("app", "app-1")
			w.namesRelays(app, 2)
			for range 2 {
				if r := w.pingVia(web, "app-1", 10*time.Second); r.Route != control.RouteRelayed {
					t.Fatalf("ping went %s through two NATs", r.Route)
				}
				began := time.Now()
				w.eventually("the tunnel is direct", time.Minute, func() bool {
					return w.pingVia(web, "app-1", 6*time.Second).Route == control.RouteDirect
				})
				t.Logf("direct after %v", time.Since(began).Round(time.Second))
				for range 30 {
					time.Sleep(20 * time.Second)
					if r := w.pingVia(web, "app-1", 6*time.Second); r.Route != control.RouteDirect {
						t.Fatalf("ping went %s", r.Route)
					}
				}
				time.Sleep(10 * time.Minute) // idle, and the NATs stay open
				if r := w.pingVia(web, "app-1", time.Second); r.Route != control.RouteDirect {
					t.Fatalf("after a pause ping went %s", r.Route)
				}
				time.Sleep(time.Hour) // the tunnel ends, the NATs close
			}
		})
	}
}

// TestTunnelThatEndsWhileItLooksForTheDirectWay comes back through its relay: the exchange
// that was to find the direct way becomes the one that is needed.
func TestTunnelThatEndsWhileItLooksForTheDirectWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.behindNAT("web", "web-1"), w.behindNAT("app", "app-1")
		w.apart(web, app, true)
		w.namesRelays(app, 1)
		w.pingVia(web, "app-1", 10*time.Second)
		looks := func() (yes bool) {
			web.onControlLoop(w, func() { yes = web.tunnels[app.self].tryingDirect })
			return yes
		}
		w.eventually("it looks for the direct way", time.Minute, looks)
		app.onControlLoop(w, func() { app.deleteTunnel(app.tunnels[web.self]) })
		w.eventually("the tunnel has ended", time.Second, func() bool { return web.pairWith(w, app) == nil })
		if !looks() {
			t.Fatal("it does not look any more: the test proves nothing")
		}
		if r := w.pingVia(web, "app-1", 6*time.Second); r.Route != control.RouteRelayed {
			t.Errorf("ping went %s", r.Route)
		}
	})
}

// TestMachineWithoutNATAsksARelayWhenItHasTo: it holds nothing before, and nothing long
// after.
func TestMachineWithoutNATAsksARelayWhenItHasTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.behindNAT("app", "app-1")
		w.apart(web, app, true)
		w.namesRelays(app, 1)
		time.Sleep(time.Minute)
		holds := func() (ok bool) {
			web.onControlLoop(w, func() { _, _, ok = web.relaying.holdings.Held(w.supers[0].sp.PID()) })
			return ok
		}
		if holds() || len(web.contactRelays()) != 0 {
			t.Error("a machine without NAT holds an allocation that nobody needs")
		}
		if r := w.pingVia(web, "app-1", 10*time.Second); r.Route != control.RouteRelayed || !holds() {
			t.Errorf("ping went %s", r.Route)
		}
		w.eventually("the allocation is let go", 2*relayKept+idleLife, func() bool { time.Sleep(time.Minute); return !holds() })
		if r := w.pingVia(web, "app-1", 10*time.Second); r.Route != control.RouteRelayed {
			t.Errorf("later, ping went %s", r.Route)
		}
	})
}

func TestAnotherRelayTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, "")
		web, app := w.behindNAT("web", "web-1"), w.behindNAT("app", "app-1")
		w.apart(web, app, true)
		w.namesRelays(app, 2)
		first := w.pingVia(web, "app-1", 10*time.Second)
		dead := slices.IndexFunc(w.supers, func(p *superProc) bool { return p.endpoint == first.Path })
		if dead < 0 {
			t.Fatalf("ping went by %q", first.Path)
		}
		w.supers[dead].kill()
		died := time.Now()
		var second control.PingReply
		w.eventually("ping by another relay", 2*time.Minute, func() bool {
			second = w.pingVia(web, "app-1", 2*time.Minute)
			return second.Path != first.Path
		})
		t.Logf("by another relay after %v", time.Since(died).Round(time.Second))
		if second.Route != control.RouteRelayed {
			t.Errorf("ping went %s by %q", second.Route, second.Path)
		}
		w.eventually("two relays are named again", time.Minute, func() bool {
			named := app.contactRelays()
			return len(named) == 2 && !slices.ContainsFunc(named, func(r service.ContactRelay) bool { return r.PID == w.supers[dead].sp.PID() })
		})
	})
}

// TestRestartedRelayGoesOn: it gives everybody the names they had, and nobody makes a new
// tunnel.
func TestRestartedRelayGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.behindNAT("web", "web-1"), w.behindNAT("app", "app-1")
		w.apart(web, app, true)
		w.namesRelays(app, 1)
		w.pingVia(web, "app-1", 10*time.Second)
		before := web.pairWith(w, app)
		store := w.supers[0].store
		w.supers[0].kill()
		w.startSuper(0, store)
		time.Sleep(30 * time.Second) // both have asked again
		if r := w.pingVia(web, "app-1", 6*time.Second); r.Route != control.RouteRelayed || web.pairWith(w, app) != before {
			t.Errorf("ping went %s, with keys of before: %v", r.Route, web.pairWith(w, app) == before)
		}
	})
}

// TestHelpersRelay: when the super peer is gone, those that it has promoted carry on.
func TestHelpersRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		for i := range 3 {
			w.start("db", fmt.Sprintf("db-%d", i))
		}
		app := w.behindNAT("app", "app-1")
		web := w.behindNAT("web", "web-1")
		w.apart(web, app, true)
		w.eventually("helpers", 10*time.Minute, func() bool { return len(w.helping()) >= 2 })
		w.eventually("a helper is named as a relay", 15*time.Minute, func() bool {
			return len(app.contactRelays()) == 2 && len(web.relayHelpers()) > 0
		})
		w.namesRelays(app, 2)
		w.supers[0].kill()
		r := w.pingVia(web, "app-1", 2*time.Minute)
		helper := slices.ContainsFunc(w.helping(), func(p *nodeProc) bool { return r.Path == netip.AddrPortFrom(p.addr, 4500).String() })
		if r.Route != control.RouteRelayed || !helper {
			t.Errorf("ping went %s by %q", r.Route, r.Path)
		}
	})
}

// TestNoHelperMakesItselfTheFirstRelay: the nearest PID, which a key can be made for, is first
// no more often than others, and a machine keeps to its order.
func TestNoHelperMakesItselfTheFirstRelay(t *testing.T) {
	const helpers, machines = 32, 320
	first := 0
	for range machines {
		r := relaying{seed: maphash.MakeSeed()}
		all := make([]id.ID, helpers)
		for i := range all {
			all[i][len(all[i])-1] = byte(i) // the machine itself is 0: in the order of their distance
		}
		slices.SortFunc(all, r.order)
		if all[0] == (id.ID{}) {
			first++
		}
		again := slices.Clone(all)
		slices.Reverse(again)
		if slices.SortFunc(again, r.order); !slices.Equal(again, all) {
			t.Fatal("a machine has two orders")
		}
	}
	if first > 4*machines/helpers {
		t.Errorf("the nearest helper is first for %d of %d machines", first, machines)
	}
}

// relayHelpers are the helpers that a machine may use as relays.
func (p *nodeProc) relayHelpers() (all []service.ContactRelay) {
	for _, pid := range p.relayCandidates() {
		if _, super := p.trust().Descriptor.SuperPeer(pid); !super {
			all = append(all, service.ContactRelay{PID: pid})
		}
	}
	return all
}

// impostor is somebody who has the group key, at an address of its own.
type impostor struct {
	w        *world
	udp      *simnet.Conn
	ring     *seal.Ring
	conn     *relay.Conn
	port     *port.Port
	holdings *relay.Holdings
}

func (w *world) impostor(like *nodeProc, addr string, key ed25519.PrivateKey) *impostor {
	w.t.Helper()
	udp, err := w.net.Listen(4500, netip.MustParseAddr(addr))
	if err != nil {
		w.t.Fatal(err)
	}
	m := &impostor{w: w, udp: udp, conn: relay.NewConn(udp), ring: seal.NewRing(seal.Config{Service: like.service, IsAnswer: port.IsAnswer})}
	for _, e := range like.ring.Epochs() {
		if err := m.ring.Install(e); err != nil {
			w.t.Fatal(err)
		}
	}
	m.port = port.New(m.conn, new(seal.Rings))
	m.holdings = relay.NewHoldings(relay.Config{Service: like.service, Key: key, Rand: rand.Reader, Conn: m.conn})
	return m
}

func (m *impostor) send(out relay.Output) {
	for _, q := range out.Send {
		if err := m.port.SendControl(m.ring, seal.TypeRelay, seal.Newest, q.Payload, seal.PadQuery, q.To); err != nil {
			m.w.t.Error(err)
		}
	}
}

// allocation asks a super peer until it answers or is silent.
func (m *impostor) allocation(super *superProc) (held bool) {
	pid, at := super.sp.PID(), netip.MustParseAddrPort(super.endpoint)
	m.send(m.holdings.Want(time.Now(), pid, at, time.Now().Add(time.Hour)))
	for r := m.udp.Readers()[0]; !held; _, _, held = m.holdings.Held(pid) {
		buf, came := underlay.NewBatch(1, underlay.TrainBuffer), make(chan int, 1)
		go func() {
			n, _ := r.ReadBatch(buf)
			came <- n
		}()
		select {
		case <-came:
		case <-time.After(5 * time.Second):
			m.udp.Close()
			<-came
			return false
		}
		o, drop := m.ring.Open(time.Now(), buf[0].Bytes(), at.Addr())
		if drop != seal.Passed {
			m.w.t.Fatal(drop)
		}
		m.send(m.holdings.Receive(time.Now(), at, o.Payload))
	}
	return true
}

// TestStrangersAreNotRelayed: somebody who has the group key, but is no member, gets no
// allocation; and a member's DHT datagrams get nowhere through a relay.
func TestStrangersAreNotRelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web, app := w.start("web", "web-1"), w.behindNAT("app", "app-1")
		w.namesRelays(app, 1)
		if w.impostor(app, "203.0.113.66", newIdentity(t)).allocation(w.supers[0]) {
			t.Error("a stranger holds an allocation")
		}
		member := w.impostor(app, "203.0.113.67", web.key)
		if !member.allocation(w.supers[0]) {
			t.Fatal("a member gets no allocation")
		}
		to, ok := member.conn.Virtual(netip.MustParseAddrPort(w.supers[0].endpoint), relay.ID(app.contactRelays()[0].Allocation))
		if !ok {
			t.Fatal("no way to app")
		}
		if err := member.port.SendControl(member.ring, seal.TypeDHT, seal.Newest, []byte("d1:q4:pinge"), seal.PadQuery, to); err != nil {
			t.Error(err)
		}
		w.eventually("it is counted", time.Second, func() bool { return app.stats.misrelayed.Load() == 1 })
		member.udp.Close()
	})
}
