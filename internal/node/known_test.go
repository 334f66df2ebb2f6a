package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/overlay"
	"icvpn/tun/tuntest"
)

// comeBack starts a machine again, elsewhere, with what it has kept, while no super
// peer answers.
func (w *world) comeBack(p *nodeProc, kept, nodes []byte) *nodeProc {
	w.t.Helper()
	cfg := p.cfg.Join
	if _, err := Join(w.ctx, cfg); !errors.As(err, new(*UnreachableError)) {
		w.t.Fatalf("a super peer answers: %v", err)
	}
	m, err := DecodeMembership(kept, w.svc.ID, cfg.Identity, Seen{}, wallClock())
	if err != nil {
		w.t.Fatal(err)
	}
	b := &nodeProc{dev: tuntest.New("icvpn0", 1400), done: make(chan struct{}), got: make(chan []byte, 4096)}
	b.addr = netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + len(w.nodes))})
	if b.udp, err = w.net.Listen(4500, b.addr); err != nil {
		w.t.Fatal(err)
	}
	own := netip.AddrPortFrom(b.addr, 4500)
	b.Node, err = New(Config{
		Join: cfg, Membership: m, Device: b.dev, UDP: b.udp, Log: cfg.Log, Nodes: nodes,
		Endpoints: func() []netip.AddrPort { return []netip.AddrPort{own} },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	b.cancel = cancel
	w.wg.Go(func() {
		defer close(b.done)
		if b.err = b.Run(ctx); b.err != nil {
			w.t.Error(b.err)
		}
	})
	w.wg.Go(func() { b.kernel(w.ctx) })
	w.nodes = append(w.nodes, b)
	return b
}

// pings says whether a machine reaches another one.
func (w *world) pings(from, to *nodeProc) bool {
	ok := false
	_ = from.Ping(w.ctx, to.addr4().String(), 1, func(r control.PingReply) error {
		ok = r.Error == ""
		return nil
	})
	return ok
}

// All super peers are dead, a machine starts again under another address: it finds
// others, and others find it.
func TestMachineComesBackWhileAllSuperPeersAreDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, "")
		var mu sync.Mutex // guards what machines save
		saved, writes := map[netip.Addr][]byte{}, map[netip.Addr]int{}
		w.node = func(c *Config) {
			at := c.Endpoints()[0].Addr()
			c.NeverHelp = true
			c.SaveNodes = func(b []byte) error {
				mu.Lock()
				defer mu.Unlock()
				saved[at], writes[at] = b, writes[at]+1
				return nil
			}
		}
		first := w.start("app", "app-1") // when there was nobody that a super peer could name
		web, db := w.start("web", "web-1"), w.start("db", "db-1")
		for i := range 3 {
			w.start("app", fmt.Sprintf("app-%d", i+2))
		}
		time.Sleep(5 * time.Minute)
		for _, s := range w.supers {
			s.kill()
		}
		first.kill()
		kept := first.membership.Load().Encode(wallClock())
		mu.Lock()
		nodes, times := saved[first.addr], writes[first.addr]
		mu.Unlock()
		if times > 3 || len(nodes) == 0 || len(nodes) > maxKnownFile {
			t.Errorf("in 5 min nodes were written %d times, %d bytes", times, len(nodes))
		}
		time.Sleep(5 * time.Minute)
		back, began := w.comeBack(first, kept, nodes), time.Now()
		w.eventually("the machine finds db-1", time.Minute, func() bool { return w.pings(back, db) })
		t.Logf("it reached another machine after %v", time.Since(began).Round(time.Millisecond))
		w.eventually("web-1 finds the machine", 2*time.Minute, func() bool { return w.pings(web, back) })
		t.Logf("another one reached it after %v", time.Since(began).Round(time.Millisecond))
	})
}

// usableHere stands in for a node's judgement.
func usableHere(all []netip.AddrPort) []netip.AddrPort {
	if all[0].Addr().IsLoopback() {
		return nil
	}
	return all
}

func nodesAt(now time.Time, from, to int) (all []knownNode) {
	for i := from; i < to; i++ {
		all = append(all, knownNode{PID: id.Hash(fmt.Sprint(i)), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 4500), Seen: now.Unix()})
	}
	return all
}

func everybody(id.ID) bool { return true }

func TestKnownNodesAreBoundedAndTheOldestStay(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var k knownNodes
	if b := k.see(nil, everybody, now); b != nil {
		t.Error("nobody was written")
	}
	written := k.see(nodesAt(now, 0, 20), everybody, now)
	if k.see(nodesAt(now, 0, 20), everybody, now.Add(knownEvery)) != nil {
		t.Error("the same nodes were written again")
	}
	if k.see(nodesAt(now, 0, 20), everybody, now.Add(knownRenew)) == nil {
		t.Error("the same nodes were not written again after a day")
	}
	later := now.Add(25 * time.Hour)
	k.see(nodesAt(later, 10, 100), everybody, later)
	if len(k.nodes) != maxKnownNodes || k.nodes[0].PID != id.Hash("10") || k.nodes[9].PID != id.Hash("19") || len(k.some()) != knownAsked {
		t.Errorf("%d nodes, first %v", len(k.nodes), k.nodes[0].Addr)
	}
	k.see(nil, everybody, later.Add(time.Hour)) // cut off
	if len(k.nodes) != maxKnownNodes {
		t.Errorf("%d nodes are left of those that are silent now", len(k.nodes))
	}
	if k.see(nodesAt(later, 200, 201), everybody, later.Add(knownLife+time.Hour)); len(k.nodes) != 1 {
		t.Errorf("%d nodes, of which one was heard of lately", len(k.nodes))
	}

	k = knownNodes{}
	k.see(nodesAt(now, 0, 2), everybody, now)
	last := id.Hash("1")
	if b := k.see(nil, func(pid id.ID) bool { return pid == last }, now); b == nil || len(k.nodes) != 1 || k.nodes[0].PID != last {
		t.Errorf("%d nodes are left, of which one is believed", len(k.nodes))
	}
	none := k.see(nil, func(id.ID) bool { return false }, now)
	if k.see(nil, everybody, now.Add(knownRenew)) != nil {
		t.Error("nobody was written twice")
	}

	for name, c := range map[string]struct {
		b    []byte
		at   time.Time
		want int
	}{
		"a day later":    {written, now.Add(24 * time.Hour), 20},
		"a month later":  {written, now.Add(30 * 24 * time.Hour), 0},
		"truncated":      {written[:len(written)-1], now, -1},
		"trailing byte":  {append(written[:len(written):len(written)], 0), now, -1},
		"empty":          {[]byte{}, now, -1},
		"nobody":         {none, now, 0},
		"of a later day": {written, now.Add(-24 * time.Hour), 20},
	} {
		var k knownNodes
		if err := k.load(c.b, c.at, usableHere); err != nil != (c.want < 0) || len(k.nodes) != max(0, c.want) {
			t.Errorf("%s: %d nodes, %v", name, len(k.nodes), err)
		}
	}
	for i := range written {
		if k := new(knownNodes); k.load(written[:i], now, usableHere) == nil {
			t.Fatalf("accepted a truncation to %d bytes", i)
		}
	}
}

// What is kept of nodes is a hint: they are believed for a while, and never sent
// more than a ping before they answered.
func TestKnownNodesAreBelievedForAWhileOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		first := w.start("app", "app-1")
		var k knownNodes
		b := k.see(nodesAt(time.Now(), 1, 3), everybody, time.Now())
		var saved atomic.Pointer[[]byte]
		w.node = func(c *Config) {
			c.Nodes, c.SaveNodes = b, func(b []byte) error { saved.Store(&b); return nil }
		}
		n := w.start("db", "db-1")
		w.eventually("it has read the directory", time.Minute, func() bool { return n.table.Has(first.self) && !n.reading.Load() })
		stranger, known := id.Hash("stranger"), id.Hash("1")
		if n.mayJoinOverlay(stranger, netip.AddrPort{}) || !n.mayJoinOverlay(known, netip.AddrPort{}) {
			t.Error("a stranger may be a contact, or a node of before may not")
		}
		time.Sleep(knownGrace)
		if n.mayJoinOverlay(known, netip.AddrPort{}) {
			t.Error("who is listed nowhere may be a contact for ever")
		}
		time.Sleep(knownEvery)
		var kept knownNodes
		if err := kept.load(*saved.Load(), time.Now(), usableHere); err != nil || !kept.had(first.self) || kept.had(known) {
			t.Errorf("%d nodes are kept, %v; want the member that is listed", len(kept.nodes), err)
		}
		w.node = func(c *Config) { c.Nodes = []byte("nonsense") }
		w.start("db", "db-2")
	})
}

// nobodyServes is an overlay of silent replicas.
type nobodyServes struct{}

func (nobodyServes) AskItem(context.Context, ed25519.PublicKey, []byte) (overlay.Item, error) {
	return overlay.Item{}, overlay.ErrUnreachable
}

func (nobodyServes) ReadObject(context.Context, overlay.Item) ([]byte, error) {
	return nil, overlay.ErrUnreachable
}

func (nobodyServes) GetObjectAfter(context.Context, ed25519.PublicKey, []byte, int64) ([]byte, overlay.Item, error) {
	return nil, overlay.Item{}, overlay.ErrUnreachable
}

// While a directory is read for the first time anybody may be in the part that is
// missing: whole fleets that start at once would else turn each other down.
func TestWhoMayNotHaveBeenReadYetMayBeAContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		n := w.start("db", "db-1")
		other := w.start("app", "app-1")
		w.eventually("it has read the directory", time.Minute, func() bool { return n.table.Has(other.self) && !n.reading.Load() })
		stranger := id.Hash("stranger")
		if n.mayJoinOverlay(stranger, netip.AddrPort{}) {
			t.Fatal("a stranger may be a contact though the directory was read")
		}
		unread := directory.NewFollower(n.trust().Descriptor.SuperPeers[0], directory.Follow{Source: nobodyServes{}, Now: n.now})
		n.onControlLoop(w, func() {
			n.followers.Store(&map[id.ID]*directory.Follower{id.Hash("another super peer"): unread})
			n.settleRoster()
		})
		if !n.mayJoinOverlay(stranger, netip.AddrPort{}) {
			t.Error("who may be in a directory that was not read yet may not be a contact")
		}
		time.Sleep(knownGrace)
		n.onControlLoop(w, n.settleRoster)
		if n.mayJoinOverlay(stranger, netip.AddrPort{}) {
			t.Error("a directory that nobody serves lets strangers in for ever")
		}
	})
}

func TestContactRecordsAreNumberedAndTheLastIsTheLast(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	var c contactRecord
	first, _ := c.next(now, false)
	second, ok := c.next(now.Add(-time.Hour), false) // a clock that was set back
	if !ok || second != first+1 || !c.ends().Equal(now.Add(-time.Hour+contactLife)) {
		t.Errorf("numbers %d and %d, until %v", first, second, c.ends())
	}
	ends := c.ends()
	if seq, ok := c.next(now.Add(time.Second), true); !ok || seq <= second || !c.ends().Equal(ends) {
		t.Errorf("the withdrawal has number %d", seq)
	}
	if _, ok := c.next(now.Add(time.Minute), false); ok {
		t.Error("a record after the withdrawal")
	}
}
