package overlay_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"icvpn/internal/id"
	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

// split blocks everything between two halves of the network.
func split(left func(netip.AddrPort) bool) func(*overlaytest.Link) {
	return func(l *overlaytest.Link) {
		l.Blocked = func(from, to netip.AddrPort) bool { return left(from) != left(to) }
	}
}

func heal(l *overlaytest.Link) { l.Blocked = nil }

func TestIslandOfOneComesBack(t *testing.T) {
	inBubble(t, 8, nil, func(t *testing.T, c *cluster) {
		lost := c.nodes[5]
		c.net.Change(split(func(a netip.AddrPort) bool { return a == lost.Addr }))
		time.Sleep(30 * time.Minute)
		if n := len(lost.Nodes()); n != 0 {
			t.Errorf("after half an hour alone: %d contacts answer", n)
		}
		for i, n := range c.nodes {
			for _, k := range n.Nodes() {
				if i != 5 && k.Addr == lost.Addr {
					t.Errorf("node %d still hands out the lost one", i)
				}
			}
		}
		c.net.Change(heal)
		time.Sleep(time.Minute)
		it := overlay.SignItem(newKey(t), nil, 1, []byte("back"))
		if acks := mustPut(t, lost, it); acks != 8 {
			t.Errorf("%d acknowledgements, want 8", acks)
		}
		mustGet(t, c.nodes[1], it)
	})
}

// Two halves that each have a super peer forget each other, stay busy, and join
// again although no table is empty.
func TestIslandsJoinAgain(t *testing.T) {
	// Each half is more than a walk's nearest nodes, which would ask themselves.
	inBubble(t, 30, nil, func(t *testing.T, c *cluster) {
		even := func(a netip.AddrPort) bool { return a.Addr().As4()[2]%2 == 0 }
		c.net.Change(split(even))
		time.Sleep(30 * time.Minute)
		left := overlay.SignItem(newKey(t), nil, 1, []byte("left"))
		mustPut(t, c.nodes[4], left)
		if _, err := c.nodes[5].Get(t.Context(), left.Key, nil); !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("across the split: %v", err)
		}
		c.net.Change(heal)
		time.Sleep(10 * time.Minute)
		mustGet(t, c.nodes[5], left)
		all := overlay.SignItem(newKey(t), nil, 1, []byte("all"))
		if acks := mustPut(t, c.nodes[7], all); acks < 8 {
			t.Errorf("%d acknowledgements", acks)
		}
		mustGet(t, c.nodes[6], all)
	})
}

func TestLonePeerFindsASuperPeerThatComesLater(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		c.nodes[0].Stop()
		c.nodes[1].Stop()
		c.nodes = nil
		c.setBootstrap(overlaytest.Addr(1))
		early := c.add(nil)
		time.Sleep(10 * time.Minute)
		select {
		case <-early.Ready():
			t.Error("ready with nobody there")
		default:
		}
		late := c.add(nil)
		time.Sleep(40 * time.Second) // the longest retry interval and its jitter
		select {
		case <-early.Ready():
		default:
			t.Error("not ready although the super peer came")
		}
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		if acks := mustPut(t, early, it); acks != 2 {
			t.Errorf("%d acknowledgements", acks)
		}
		mustGet(t, late, it)
	})
}

// On a small overlay the library would keep the dead for ever.
func TestTheDeadAreForgottenAndNewcomersKnown(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		for range 10 { // ten rolling restarts, each under a new ID
			for i := 2; i < 4; i++ {
				c.nodes[i].Stop()
			}
			old := c.nodes
			c.nodes = append(old[:2:2], c.replace(2), c.replace(3))
			time.Sleep(2 * time.Minute)
		}
		time.Sleep(5 * time.Minute)
		for i, n := range c.nodes {
			if known := len(n.Nodes()); known != 3 {
				t.Errorf("node %d knows %d nodes, want 3", i, known)
			}
		}
		start := time.Now()
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		if acks := mustPut(t, c.nodes[3], it); acks != 4 {
			t.Errorf("%d acknowledgements, want 4", acks)
		}
		if d := time.Since(start); d > 200*time.Millisecond {
			t.Errorf("put took %v: it asked the dead", d)
		}
	})
}

// replace starts a node under a fresh ID at address i.
func (c *cluster) replace(i int) *overlaytest.Node {
	c.Helper()
	c.generation++
	n, err := c.net.Start(overlaytest.Addr(i), overlay.Config{
		Self:      id.Hash("replaced", []byte{c.generation}),
		Bootstrap: c.bootstrap,
	})
	if err != nil {
		c.Fatal(err)
	}
	return n
}

// A peer whose address changes (NAT rebinding, restart) is found at the new one.
func TestRoamingNodeIsFoundAtItsNewAddress(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		roamer := c.nodes[3]
		self := id.Hash("test node", []byte("3"))
		roamer.Stop()
		moved, err := c.net.Start(overlaytest.Addr(33), overlay.Config{Self: self, Bootstrap: c.bootstrap})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[3] = moved
		time.Sleep(3 * time.Minute)
		for i, n := range c.nodes[:3] {
			var at netip.AddrPort
			for _, k := range n.Nodes() {
				if k.ID == self {
					at = k.Addr
				}
			}
			if at != moved.Addr {
				t.Errorf("node %d has it at %v, want %v", i, at, moved.Addr)
			}
		}
	})
}

func TestOwnAddressAmongBootstrapAddresses(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		// The lone survivor of two super peers, not told its own public address.
		c.nodes[1].Stop()
		c.setBootstrap(overlaytest.Addr(1))
		o, err := c.net.Start(overlaytest.Addr(1), overlay.Config{
			Self: id.Hash("me"), Bootstrap: c.bootstrap,
		})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[0].Stop()
		c.nodes = []*overlaytest.Node{o}
		time.Sleep(30 * time.Minute)
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		if acks, err := o.Put(t.Context(), it); acks != 1 || err != nil {
			t.Errorf("Put alone: %d acks, %v", acks, err)
		}
		mustGet(t, o, it)
		if len(o.Nodes()) != 0 {
			t.Errorf("contacts %v", o.Nodes())
		}
	})
}

func TestPingAndAddNode(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		got, err := c.nodes[0].Ping(t.Context(), c.nodes[1].Addr)
		if err != nil || got != id.Hash("test node", []byte("1")) {
			t.Errorf("Ping = %v, %v", got, err)
		}
		if _, err := c.nodes[0].Ping(t.Context(), overlaytest.Addr(99)); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("Ping into the void: %v", err)
		}
		stranger := c.add(func(cfg *overlay.Config) { cfg.Bootstrap = nil })
		stranger.AddNode(c.nodes[0].Addr)
		time.Sleep(time.Second)
		if len(stranger.Nodes()) == 0 || len(c.nodes[0].Nodes()) != 2 {
			t.Errorf("stranger knows %v, node 0 %v", stranger.Nodes(), c.nodes[0].Nodes())
		}
	})
}

// What an idle node costs: figures for docs/protocol/overlay.md.
func TestIdleTrafficIsSmall(t *testing.T) {
	for size, most := range map[int]uint64{1: 0, 2: 12, 24: 200} {
		inBubble(t, size, nil, func(t *testing.T, c *cluster) {
			time.Sleep(5 * time.Minute)
			before, _ := c.net.Sent()
			time.Sleep(10 * time.Minute)
			after, _ := c.net.Sent()
			perMinute := (after - before) / 10 / uint64(size)
			t.Logf("%d nodes: %d datagrams a minute and node", size, perMinute)
			if perMinute > most {
				t.Errorf("%d nodes: %d datagrams a minute and node, want %d at most", size, perMinute, most)
			}
		})
	}
}

func TestRunTwice(t *testing.T) {
	inBubble(t, 1, nil, func(t *testing.T, c *cluster) {
		if err := c.nodes[0].Run(t.Context()); err == nil {
			t.Error("second Run accepted")
		}
	})
}

func TestNewStartsNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	net := overlaytest.New(1)
	o, err := overlay.New(overlay.Config{Self: id.Hash("x"), Transport: net.Transport(overlaytest.Addr(0))})
	if err != nil {
		t.Fatal(err)
	}
	o.Deliver([]byte("d"), overlaytest.Addr(1))
	if n := o.Stats().Dropped(overlay.DropNotRunning); n != 1 {
		t.Errorf("Deliver before Run: %d drops", n)
	}
	if _, err := o.Get(t.Context(), pub(newKey(t)), nil); !errors.Is(err, overlay.ErrNotRunning) {
		t.Errorf("Get before Run: %v", err)
	}
}

// In real time, outside a bubble, with calls in progress.
func TestRunLeavesNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c := newCluster(t, 4, nil)
	for _, n := range c.nodes[2:] {
		<-n.Ready()
	}
	it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
	if _, err := c.nodes[2].Put(context.Background(), it); err != nil {
		t.Error(err)
	}
	if err := c.nodes[3].Publish(it); err != nil {
		t.Error(err)
	}
	c.net.Change(func(l *overlaytest.Link) { l.Loss = 1 })
	go c.nodes[1].Get(context.Background(), pub(newKey(t)), nil) //nolint:errcheck // only its end counts
	c.stop()
}

func TestConfigNamesTheBadField(t *testing.T) {
	good := overlay.Config{Self: id.Hash("x"), Transport: overlaytest.New(1).Transport(overlaytest.Addr(0))}
	if _, err := overlay.New(good); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*overlay.Config){
		"Self":            func(c *overlay.Config) { c.Self = id.ID{} },
		"Transport":       func(c *overlay.Config) { c.Transport = nil },
		"Expiry":          func(c *overlay.Config) { c.Expiry = time.Second },
		"Resend":          func(c *overlay.Config) { c.Resend = time.Minute },
		"Revalidate":      func(c *overlay.Config) { c.Revalidate = -1 },
		"Refresh":         func(c *overlay.Config) { c.Refresh = time.Second },
		"Quorum":          func(c *overlay.Config) { c.Quorum = 9 },
		"Bucket":          func(c *overlay.Config) { c.Bucket = 7 },
		"Paths":           func(c *overlay.Config) { c.Paths = 9 },
		"MaxObject":       func(c *overlay.Config) { c.MaxObject = overlay.MaxLargeObject + 1 },
		"StoreItems":      func(c *overlay.Config) { c.StoreItems = -1 },
		"StoreBytes":      func(c *overlay.Config) { c.StoreBytes = -1 },
		"StorePerKey":     func(c *overlay.Config) { c.StorePerKey = -1 },
		"StorePerReplica": func(c *overlay.Config) { c.StorePerReplica = -1 },
		"StorePerSource":  func(c *overlay.Config) { c.StorePerSource = -1 },
		"QueryRate":       func(c *overlay.Config) { c.QueryRate = -1 },
		"AnswerRate":      func(c *overlay.Config) { c.AnswerRate = -1 },
	} {
		bad := good
		change(&bad)
		if _, err := overlay.New(bad); err == nil || !strings.Contains(err.Error(), "field "+field+" ") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
