package overlay_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"

	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

var objSalt = []byte("obj")

func object(t testing.TB, key ed25519.PrivateKey, seq int64, data []byte) overlay.Object {
	t.Helper()
	obj, err := overlay.NewObject(key, objSalt, seq, data)
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

func mustPutObject(t testing.TB, n *overlaytest.Node, obj overlay.Object) {
	t.Helper()
	if acks, err := n.PutObject(t.Context(), obj); err != nil {
		t.Fatalf("PutObject: %d, %v", acks, err)
	}
}

// gets counts the gets on a network: those of a target, and the others.
type gets struct {
	mu           sync.Mutex
	root, others int
}

func (g *gets) watch(c *cluster, key ed25519.PublicKey) {
	target := overlay.Target(key, objSalt)
	c.net.Change(func(l *overlaytest.Link) {
		l.Tamper = func(pkt []byte, _, _ netip.AddrPort) []byte {
			if bytes.Contains(pkt, []byte("1:q3:get")) {
				g.mu.Lock()
				defer g.mu.Unlock()
				if bytes.Contains(pkt, target[:]) {
					g.root++
				} else {
					g.others++
				}
			}
			return pkt
		}
	})
}

func (g *gets) take() (root, others int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	root, others = g.root, g.others
	g.root, g.others = 0, 0
	return root, others
}

func TestKnownObjectIsNotFetchedAgain(t *testing.T) {
	inBubble(t, 6, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		data := blob(12000)
		mustPutObject(t, c.nodes[0], object(t, key, 5, data))
		var g gets
		g.watch(c, pub(key))
		reader := c.add(nil)
		time.Sleep(5 * time.Second)
		for _, after := range []int64{-1, 0, 4} {
			got, root, err := reader.GetObjectAfter(t.Context(), pub(key), objSalt, after)
			if err != nil || root.Seq != 5 || !bytes.Equal(got, data) {
				t.Fatalf("after %d: %d bytes, seq %d, %v", after, len(got), root.Seq, err)
			}
			if root, others := g.take(); root == 0 || others == 0 {
				t.Errorf("after %d: %d gets for the root, %d for chunks", after, root, others)
			}
		}
		got, root, err := reader.GetObjectAfter(t.Context(), pub(key), objSalt, 5)
		if !errors.Is(err, overlay.ErrUnchanged) || root.Seq != 5 || !root.Verify() || got != nil {
			t.Errorf("after 5: %d bytes, seq %d, %v", len(got), root.Seq, err)
		}
		if root, others := g.take(); root == 0 || others != 0 {
			t.Errorf("after 5: %d gets for the root, %d for chunks", root, others)
		}
	})
}

func TestOlderObjectThanSeenIsNotReturned(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		mustPutObject(t, c.nodes[0], object(t, key, 5, []byte("five")))
		got, root, err := c.nodes[3].GetObjectAfter(t.Context(), pub(key), objSalt, 6)
		if !errors.Is(err, overlay.ErrRollback) || got != nil || root.Key != nil {
			t.Errorf("older: %q, %+v, %v", got, root, err)
		}
		// A withdrawal can be an old one, too.
		mustPut(t, c.nodes[0], overlay.SignItem(key, objSalt, 7, nil))
		if _, _, err = c.nodes[3].GetObjectAfter(t.Context(), pub(key), objSalt, 8); !errors.Is(err, overlay.ErrRollback) {
			t.Errorf("older withdrawal: %v", err)
		}
		if _, root, err = c.nodes[3].GetObjectAfter(t.Context(), pub(key), objSalt, 6); !errors.Is(err, overlay.ErrNotFound) || root.Seq != 7 {
			t.Errorf("withdrawn: seq %d, %v", root.Seq, err)
		}
		if _, _, err = c.nodes[3].GetObjectAfter(t.Context(), pub(newKey(t)), objSalt, 6); !errors.Is(err, overlay.ErrNotFound) || errors.Is(err, overlay.ErrRollback) {
			t.Errorf("nothing there: %v", err)
		}
	})
}

// Members who agree on an old version and are quick do not outrun the one honest
// node that has the new one, for a reader that knows there is a newer.
func TestOldCopiesDoNotEndTheSearch(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		old, now := object(t, key, 1, []byte("old")), object(t, key, 3, []byte("now"))
		stale := func(q *krpc.Msg, _ netip.AddrPort) *krpc.Return {
			r := withToken(&krpc.Return{})
			if q.Q == "get" && q.A.Target == krpc.ID(overlay.Target(pub(key), objSalt)) {
				r.V, r.Seq = bencode.MustMarshal(old.Root.Value), &old.Root.Seq
				r.K, r.Sig = [32]byte(old.Root.Key), old.Root.Sig
			}
			return r
		}
		for i := range 4 {
			c.hostile(50+i, stale).join(c)
		}
		mustPutObject(t, c.nodes[0], now) // before the reader is there to store a copy
		// Replicas are asked in any case; here nobody but the slow node is honest.
		reader := c.add(func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return nil } })
		for i := range 4 {
			reader.AddNode(overlaytest.Addr(50 + i))
		}
		time.Sleep(5 * time.Second)
		c.nodes[1].Stop()
		c.net.Change(func(l *overlaytest.Link) {
			l.Tamper = func(pkt []byte, from, to netip.AddrPort) []byte {
				if to == c.nodes[0].Addr && !containsPut(pkt) {
					time.AfterFunc(550*time.Millisecond, func() { c.nodes[0].Deliver(pkt, from) })
					return nil
				}
				return pkt
			}
		})
		got, root, err := reader.GetObjectAfter(t.Context(), pub(key), objSalt, 2)
		if err != nil || root.Seq != 3 || string(got) != "now" {
			t.Errorf("GetObjectAfter: %q, seq %d, %v", got, root.Seq, err)
		}
	})
}

// The chunks of an object go when its publisher said, the root stays against a
// rollback; putting it again renews both and adds nothing.
func TestObjectsChunksEndWithItsLife(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		obj := object(t, newKey(t), 1, blob(6000))
		obj.Life = 10 * time.Minute
		mustPutObject(t, c.nodes[0], obj)
		n, _ := c.nodes[3].Stored()
		if n != 11 {
			t.Fatalf("%d entries, want 10 chunks and a root", n)
		}
		time.Sleep(6 * time.Minute)
		mustPutObject(t, c.nodes[0], obj)
		time.Sleep(6 * time.Minute)
		if n, _ := c.nodes[3].Stored(); n != 11 {
			t.Errorf("%d entries after a second put", n)
		}
		time.Sleep(6 * time.Minute)
		for i, node := range c.nodes {
			if n, _ := node.Stored(); n != 1 {
				t.Errorf("node %d: %d entries after the object's life, want the root", i, n)
			}
		}
	})
}

func TestPublishedObjectIsPutAgainWithinItsLife(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		data := blob(3000)
		obj := object(t, newKey(t), 1, data)
		obj.Life = 10 * time.Minute
		if err := c.nodes[0].PublishObject(obj); err != nil {
			t.Fatal(err)
		}
		for range 6 {
			time.Sleep(11 * time.Minute)
			if got, _, err := c.nodes[3].GetObject(t.Context(), obj.Root.Key, objSalt); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("GetObject: %v", err)
			}
		}
	})
}

// Chunks that too few nodes take come again, each after a wait of its own and the
// second wait longer than the first.
func TestPutObjectBacksOff(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		var mu sync.Mutex
		puts := make(map[string][]time.Time) // by value
		c.net.Change(func(l *overlaytest.Link) {
			l.Tamper = func(pkt []byte, from, to netip.AddrPort) []byte {
				if from != c.nodes[3].Addr || !containsPut(pkt) || to != c.nodes[0].Addr && to != c.nodes[1].Addr {
					return pkt
				}
				mu.Lock()
				defer mu.Unlock()
				value := string(pkt[bytes.Index(pkt, []byte("1:v")):][:40])
				if to == c.nodes[0].Addr {
					puts[value] = append(puts[value], time.Now())
				}
				if len(puts[value]) > 6 { // three sends each time
					return pkt
				}
				return nil
			}
		})
		noQuorumOfTwo := object(t, newKey(t), 1, blob(2400))
		c.nodes[2].Stop()
		time.Sleep(time.Hour) // nobody waits for it any more
		began := time.Now()
		mustPutObject(t, c.nodes[3], noQuorumOfTwo)
		if d := time.Since(began); d < 2*time.Second {
			t.Errorf("PutObject took %v: it did not wait", d)
		}
		waits := make(map[time.Duration]bool)
		mu.Lock()
		defer mu.Unlock()
		for value, at := range puts {
			if len(at) < 7 {
				t.Errorf("%q was sent %d times", value, len(at))
				continue
			}
			// After the third send a query waits twice as long as before it, by the
			// trips it has seen; what is more is the pause.
			first, second := at[3].Sub(at[2])-2*at[2].Sub(at[1]), at[6].Sub(at[5])-2*at[5].Sub(at[4])
			if second <= first {
				t.Errorf("waits of %v and %v", first, second)
			}
			waits[first.Round(time.Millisecond)] = true
		}
		if len(waits) < 3 {
			t.Errorf("waits %v: in lock step", waits)
		}
	})
}
