package overlay_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/id"
	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

// cluster is some nodes on a network in memory. Node 0, and 1 if there is one,
// are the super peers: everybody's bootstrap addresses.
type cluster struct {
	testing.TB
	net   *overlaytest.Net
	nodes []*overlaytest.Node

	mu   sync.Mutex
	boot []netip.AddrPort

	generation byte // of replaced nodes
}

func newCluster(t testing.TB, n int, change func(*overlay.Config)) *cluster {
	c := &cluster{TB: t, net: overlaytest.New(1)}
	c.net.Change(func(l *overlaytest.Link) { l.Delay, l.Jitter = 10*time.Millisecond, 5*time.Millisecond })
	for i := range min(n, 2) {
		c.boot = append(c.boot, overlaytest.Addr(i))
	}
	for range n {
		c.add(change)
	}
	t.Cleanup(c.stop)
	return c
}

func (c *cluster) add(change func(*overlay.Config)) *overlaytest.Node {
	c.Helper()
	i := len(c.nodes)
	cfg := overlay.Config{
		Self:      id.Hash("test node", fmt.Append(nil, i)),
		Bootstrap: c.bootstrap,
	}
	if change != nil {
		change(&cfg)
	}
	n, err := c.net.Start(overlaytest.Addr(i), cfg)
	if err != nil {
		c.Fatal(err)
	}
	c.nodes = append(c.nodes, n)
	return n
}

func (c *cluster) bootstrap() []netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

func (c *cluster) setBootstrap(addrs ...netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot = addrs
}

func (c *cluster) stop() {
	for _, n := range c.nodes {
		n.Stop()
	}
}

// settle waits until the nodes know each other.
func (c *cluster) settle() { time.Sleep(5 * time.Second) }

// inBubble runs f on a cluster in simulated time. The bubble fails the test if a
// goroutine, ours or the library's, outlives the nodes.
func inBubble(t *testing.T, n int, change func(*overlay.Config), f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, n, change)
		c.settle()
		f(t, c)
	})
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pub(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func mustPut(t testing.TB, n *overlaytest.Node, it overlay.Item) int {
	t.Helper()
	acks, err := n.Put(t.Context(), it)
	if err != nil {
		t.Fatalf("Put: %d acks, %v", acks, err)
	}
	return acks
}

func mustGet(t testing.TB, n *overlaytest.Node, want overlay.Item) {
	t.Helper()
	got, err := n.Get(t.Context(), want.Key, want.Salt)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	if got.Seq != want.Seq || !bytes.Equal(got.Value, want.Value) || !got.Verify() {
		t.Fatalf("Get = seq %d %q, want seq %d %q", got.Seq, got.Value, want.Seq, want.Value)
	}
}

func TestPutGetOnNetworksOfManySizes(t *testing.T) {
	for _, size := range []int{1, 2, 8, 64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			inBubble(t, size, nil, func(t *testing.T, c *cluster) {
				for i := range 20 {
					key := newKey(t)
					it := overlay.SignItem(key, []byte("salt"), int64(i), bytes.Repeat([]byte{byte(i)}, overlay.MaxValue))
					acks := mustPut(t, c.nodes[rand.IntN(size)], it)
					if want := min(size, 3); acks < want {
						t.Errorf("%d acknowledgements, want %d", acks, want)
					}
					start := time.Now()
					mustGet(t, c.nodes[rand.IntN(size)], it)
					if d := time.Since(start); d > 600*time.Millisecond {
						t.Errorf("get took %v", d)
					}
				}
				if _, largest := c.net.Sent(); largest > overlay.MaxPayload {
					t.Errorf("a datagram of %d bytes", largest)
				}
			})
		})
	}
}

func TestGetTellsAbsenceFromSilence(t *testing.T) {
	inBubble(t, 3, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		if _, err := c.nodes[2].Get(t.Context(), pub(key), nil); !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("with everybody there: %v, want ErrNotFound", err)
		}
		c.nodes[0].Stop()
		c.nodes[1].Stop()
		if _, err := c.nodes[2].Get(t.Context(), pub(key), nil); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("with nobody there: %v, want ErrUnreachable", err)
		}
		it := overlay.SignItem(key, nil, 1, []byte("x"))
		if acks, err := c.nodes[2].Put(t.Context(), it); acks != 1 || !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("put with nobody there: %d acks, %v, want 1 and ErrUnreachable", acks, err)
		}
	})
}

func TestHighestSequenceWinsAndRollbackIsRefused(t *testing.T) {
	inBubble(t, 8, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		one := overlay.SignItem(key, nil, 1, []byte("one"))
		two := overlay.SignItem(key, nil, 2, []byte("two"))
		mustPut(t, c.nodes[0], one)
		// Half of the overlay misses the second version.
		c.net.Change(func(l *overlaytest.Link) {
			l.Blocked = func(from, to netip.AddrPort) bool { return from == c.nodes[3].Addr && to.Addr().As4()[2] >= 4 }
		})
		if _, err := c.nodes[3].Put(t.Context(), two); err != nil {
			t.Fatal(err)
		}
		c.net.Change(func(l *overlaytest.Link) { l.Blocked = nil })
		for _, n := range c.nodes {
			mustGet(t, n, two)
		}
		_, err := c.nodes[7].Put(t.Context(), one)
		var newer *overlay.SupersededError
		if !errors.As(err, &newer) || newer.Seq != 2 || !errors.Is(err, overlay.ErrSuperseded) {
			t.Fatalf("rollback: %v, want SupersededError{2}", err)
		}
		other := overlay.SignItem(key, nil, 2, []byte("twin"))
		if _, err := c.nodes[6].Put(t.Context(), other); !errors.Is(err, overlay.ErrSuperseded) {
			t.Fatalf("second value under one sequence number: %v", err)
		}
	})
}

func TestKilledNodes(t *testing.T) {
	inBubble(t, 64, nil, func(t *testing.T, c *cluster) {
		var items []overlay.Item
		for i := range 30 {
			it := overlay.SignItem(newKey(t), nil, int64(i), []byte("v"))
			mustPut(t, c.nodes[i], it)
			items = append(items, it)
		}
		// Every fifth goes, one super peer among them, without a word.
		for i := 0; i < 64; i += 5 {
			c.nodes[i].Stop()
		}
		var slowest time.Duration
		for i, it := range items {
			start := time.Now()
			mustGet(t, c.nodes[(2*i+1)%60/5*5+1], it)
			slowest = max(slowest, time.Since(start))
		}
		t.Logf("slowest get right after the kill: %v", slowest)
		if slowest > 3*time.Second {
			t.Errorf("a get took %v", slowest)
		}
	})
}

// Replicas have every item, near to it or not, and one is asked in every get.
func TestReplicasHaveEverythingAndAreAsked(t *testing.T) {
	replica := overlaytest.Addr(1)
	only := func(c *overlay.Config) { c.Replicas = func() []netip.AddrPort { return []netip.AddrPort{replica} } }
	inBubble(t, 40, only, func(t *testing.T, c *cluster) {
		const items = 20
		key := newKey(t)
		for i := range items {
			mustPut(t, c.nodes[2+i], overlay.SignItem(key, []byte{byte(i)}, 1, []byte("v")))
		}
		if n, _ := c.nodes[1].Stored(); n != items {
			t.Errorf("the replica has %d of %d items", n, items)
		}
		if n, _ := c.nodes[39].Stored(); n == items {
			t.Error("every node has every item: the test shows nothing")
		}
		// Newer versions that only the replica has.
		c.net.Change(split(func(a netip.AddrPort) bool { return a == replica }))
		for i := range items {
			it := overlay.SignItem(key, []byte{byte(i)}, 2, []byte("newer"))
			if acks, err := c.nodes[1].Put(t.Context(), it); acks != 1 || !errors.Is(err, overlay.ErrUnreachable) {
				t.Fatalf("put on an island: %d acks, %v", acks, err)
			}
		}
		c.net.Change(heal)
		for i := range items {
			mustGet(t, c.nodes[39-i], overlay.SignItem(key, []byte{byte(i)}, 2, []byte("newer")))
		}
	})
}

// Silent nodes among the holders do not hold a get up once enough copies agree.
func TestGetDoesNotWaitForTheSilent(t *testing.T) {
	inBubble(t, 8, nil, func(t *testing.T, c *cluster) {
		it := overlay.SignItem(newKey(t), nil, 1, []byte("v"))
		mustPut(t, c.nodes[7], it)
		c.nodes[4].Stop()
		c.nodes[5].Stop()
		start := time.Now()
		mustGet(t, c.nodes[6], it)
		if d := time.Since(start); d > 500*time.Millisecond {
			t.Errorf("get took %v, want one resend interval and a round trip", d)
		}
	})
}

func TestPutUnderLoss(t *testing.T) {
	inBubble(t, 8, nil, func(t *testing.T, c *cluster) {
		c.net.Change(func(l *overlaytest.Link) { l.Loss = 0.1 })
		for i := range 30 {
			it := overlay.SignItem(newKey(t), nil, 1, []byte("v"))
			mustPut(t, c.nodes[i%8], it)
			mustGet(t, c.nodes[(i+3)%8], it)
		}
	})
}

func TestRunEndsQuicklyAndCallsWithIt(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		c.net.Change(func(l *overlaytest.Link) { l.Loss = 1 })
		failed := make(chan error, 1)
		go func() {
			_, err := c.nodes[1].Get(context.Background(), pub(newKey(t)), nil)
			failed <- err
		}()
		time.Sleep(time.Millisecond)
		start := time.Now()
		c.nodes[1].Stop()
		if err := <-failed; !errors.Is(err, overlay.ErrNotRunning) {
			t.Errorf("Get during the end of Run: %v", err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("Stop took %v of simulated time", d)
		}
		if _, err := c.nodes[1].Put(t.Context(), overlay.SignItem(newKey(t), nil, 1, nil)); !errors.Is(err, overlay.ErrNotRunning) {
			t.Errorf("Put after Run: %v", err)
		}
	})
}
