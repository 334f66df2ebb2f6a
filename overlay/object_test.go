package overlay_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"

	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

func containsPut(pkt []byte) bool { return bytes.Contains(pkt, []byte("1:q3:put")) }

func blob(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func mustObject(t testing.TB, n int, seq int64) (overlay.Object, []byte) {
	t.Helper()
	data := blob(n)
	obj, err := overlay.NewObject(newKey(t), []byte("obj"), seq, data)
	if err != nil {
		t.Fatal(err)
	}
	return obj, data
}

func TestObjectRoundTrip(t *testing.T) {
	for _, size := range []int{1, 599, 600, 601, 16 * 600, 16*600 + 1, 20000, 32 * 600, overlay.MaxObject} {
		for _, nodes := range []int{1, 8} {
			t.Run(fmt.Sprintf("size=%d/nodes=%d", size, nodes), func(t *testing.T) {
				inBubble(t, nodes, nil, func(t *testing.T, c *cluster) {
					obj, data := mustObject(t, size, 4)
					start := time.Now()
					if acks, err := c.nodes[0].PutObject(t.Context(), obj); err != nil || acks < min(nodes, 3) {
						t.Fatalf("PutObject: %d, %v", acks, err)
					}
					put := time.Since(start)
					got, root, err := c.nodes[nodes-1].GetObject(t.Context(), obj.Root.Key, []byte("obj"))
					if err != nil || !bytes.Equal(got, data) || root.Seq != 4 {
						t.Fatalf("GetObject: %d bytes, seq %d, %v", len(got), root.Seq, err)
					}
					t.Logf("put %v, get %v", put, time.Since(start)-put)
				})
			})
		}
	}
}

func TestObjectLimits(t *testing.T) {
	key := newKey(t)
	for _, n := range []int{0, overlay.MaxObject + 1} {
		if _, err := overlay.NewObject(key, nil, 1, make([]byte, n)); !errors.Is(err, overlay.ErrInvalid) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := overlay.NewObject(key, make([]byte, overlay.MaxSalt+1), 1, []byte("x")); !errors.Is(err, overlay.ErrInvalid) {
		t.Errorf("salt: %v", err)
	}
	if _, err := overlay.NewObject(key, nil, -1, []byte("x")); !errors.Is(err, overlay.ErrInvalid) {
		t.Errorf("negative sequence number: %v", err)
	}
}

// One member serves chunks with a byte changed; the others' are used.
func TestTamperedChunkIsNotUsed(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		m := c.hostile(50, func(q *krpc.Msg, _ netip.AddrPort) *krpc.Return {
			r := withToken(&krpc.Return{})
			if q.Q == "get" {
				r.V = bencode.MustMarshal(blob(600))
			}
			return r
		})
		m.join(c)
		obj, data := mustObject(t, 5000, 1)
		if _, err := c.nodes[0].PutObject(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		// One that has nothing itself, and asks the hostile member for each chunk.
		reader := c.add(func(cfg *overlay.Config) {
			cfg.Replicas = func() []netip.AddrPort { return []netip.AddrPort{m.addr} }
		})
		time.Sleep(time.Second)
		// The hostile member answers first.
		c.net.Change(func(l *overlaytest.Link) {
			l.Tamper = func(pkt []byte, from, to netip.AddrPort) []byte {
				if to == reader.Addr && from != m.addr {
					time.AfterFunc(20*time.Millisecond, func() { reader.Deliver(pkt, from) })
					return nil
				}
				return pkt
			}
		})
		got, _, err := reader.GetObject(t.Context(), obj.Root.Key, obj.Root.Salt)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("GetObject: %v", err)
		}
		if n := reader.Stats().Contradicted.Load(); n < 9 {
			t.Errorf("%d tampered chunks were seen", n)
		}
	})
}

func TestMissingChunkIsAnError(t *testing.T) {
	inBubble(t, 3, nil, func(t *testing.T, c *cluster) {
		obj, _ := mustObject(t, 5000, 1)
		mustPut(t, c.nodes[0], obj.Root) // without its chunks
		_, _, err := c.nodes[2].GetObject(t.Context(), obj.Root.Key, obj.Root.Salt)
		if !errors.Is(err, overlay.ErrObject) || !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("GetObject: %v", err)
		}
	})
}

func TestSignedNonsenseIsNoObject(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		for i, value := range []string{"x", "\x80", "\x84\x01\x1a\xff\xff\xff\xff\x40\x40"} {
			mustPut(t, c.nodes[0], overlay.SignItem(key, nil, int64(i), []byte(value)))
			if _, _, err := c.nodes[1].GetObject(t.Context(), pub(key), nil); !errors.Is(err, overlay.ErrObject) {
				t.Errorf("%q: %v", value, err)
			}
		}
		if _, _, err := c.nodes[1].GetObject(t.Context(), pub(newKey(t)), nil); !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("no root: %v", err)
		}
	})
}

// A reader never sees a root before its chunks: chunks that nobody takes keep the
// root at home.
func TestRootWaitsForItsChunks(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		c.net.Change(func(l *overlaytest.Link) {
			l.Tamper = func(pkt []byte, from, _ netip.AddrPort) []byte {
				if from == c.nodes[3].Addr && containsPut(pkt) && !bytes.Contains(pkt, []byte("3:sig64:")) {
					return nil
				}
				return pkt
			}
		})
		obj, data := mustObject(t, 3000, 1)
		if _, err := c.nodes[3].PutObject(t.Context(), obj); !errors.Is(err, overlay.ErrNoQuorum) {
			t.Fatalf("PutObject: %v", err)
		}
		c.net.Change(func(l *overlaytest.Link) { l.Tamper = nil })
		stored, _ := c.nodes[0].Stored()
		if stored != 0 {
			t.Errorf("%d entries on another node", stored)
		}
		got, _, err := c.nodes[3].GetObject(t.Context(), obj.Root.Key, obj.Root.Salt)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("GetObject where it was put: %v", err)
		}
	})
}

func TestPublishedObjectOutlivesItsExpiry(t *testing.T) {
	inBubble(t, 4, tenMinutes, func(t *testing.T, c *cluster) {
		obj, data := mustObject(t, 12000, 1)
		if err := c.nodes[0].PublishObject(obj); err != nil {
			t.Fatal(err)
		}
		time.Sleep(35 * time.Minute)
		got, _, err := c.nodes[3].GetObject(t.Context(), obj.Root.Key, obj.Root.Salt)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("GetObject: %v", err)
		}
	})
}

func TestObjectUnderLoss(t *testing.T) {
	inBubble(t, 8, nil, func(t *testing.T, c *cluster) {
		c.net.Change(func(l *overlaytest.Link) { l.Loss = 0.1 })
		obj, data := mustObject(t, 20000, 1)
		if _, err := c.nodes[1].PutObject(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		got, _, err := c.nodes[5].GetObject(t.Context(), obj.Root.Key, obj.Root.Salt)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("GetObject: %v", err)
		}
	})
}
