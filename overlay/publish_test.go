package overlay_test

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

func tenMinutes(c *overlay.Config) { c.Expiry = 10 * time.Minute }

func TestPublishedItemOutlivesItsExpiry(t *testing.T) {
	inBubble(t, 8, tenMinutes, func(t *testing.T, c *cluster) {
		kept := overlay.SignItem(newKey(t), nil, 1, []byte("kept"))
		left := overlay.SignItem(newKey(t), nil, 1, []byte("left"))
		if err := c.nodes[3].Publish(kept); err != nil {
			t.Fatal(err)
		}
		mustPut(t, c.nodes[3], left)
		mustGet(t, c.nodes[4], left)
		for range 6 {
			time.Sleep(10*time.Minute + time.Second)
			mustGet(t, c.nodes[4], kept)
		}
		if _, err := c.nodes[4].Get(t.Context(), left.Key, nil); !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("an item put once is there after its expiry: %v", err)
		}
		if !c.nodes[3].Unpublish(kept.Key, nil) || c.nodes[3].Unpublish(kept.Key, nil) {
			t.Error("Unpublish does not say what there was")
		}
		time.Sleep(10*time.Minute + time.Second)
		if _, err := c.nodes[4].Get(t.Context(), kept.Key, nil); !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("after Unpublish: %v", err)
		}
	})
}

func TestWithdraw(t *testing.T) {
	inBubble(t, 8, tenMinutes, func(t *testing.T, c *cluster) {
		key := newKey(t)
		it := overlay.SignItem(key, nil, 5, []byte("here"))
		if err := c.nodes[3].Publish(it); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		mustGet(t, c.nodes[6], it)
		if _, err := c.nodes[3].Withdraw(t.Context(), overlay.SignItem(key, nil, 6, []byte("x"))); !errors.Is(err, overlay.ErrInvalid) {
			t.Errorf("Withdraw with a value: %v", err)
		}
		if acks, err := c.nodes[3].Withdraw(t.Context(), overlay.SignItem(key, nil, 6, nil)); err != nil || acks < 3 {
			t.Fatalf("Withdraw: %d, %v", acks, err)
		}
		if c.nodes[3].Unpublish(it.Key, nil) {
			t.Error("Withdraw left the publication")
		}
		for _, n := range c.nodes {
			got, err := n.Get(t.Context(), it.Key, nil)
			if !errors.Is(err, overlay.ErrNotFound) || got.Seq != 6 || !got.Withdrawn() || !got.Verify() {
				t.Errorf("after Withdraw: seq %d, %v", got.Seq, err)
			}
		}
		time.Sleep(9 * time.Minute)
		if _, err := c.nodes[1].Get(t.Context(), it.Key, nil); !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("published again after Withdraw: %v", err)
		}
	})
}

func TestPublishReplacesAndIsReplaced(t *testing.T) {
	inBubble(t, 4, tenMinutes, func(t *testing.T, c *cluster) {
		key := newKey(t)
		one := overlay.SignItem(key, nil, 1, []byte("one"))
		two := overlay.SignItem(key, nil, 2, []byte("two"))
		three := overlay.SignItem(key, nil, 3, []byte("three"))
		for _, it := range []overlay.Item{one, two} {
			if err := c.nodes[2].Publish(it); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.nodes[2].Publish(one); !errors.Is(err, overlay.ErrSuperseded) {
			t.Errorf("going back: %v", err)
		}
		if err := c.nodes[2].Publish(overlay.Item{Key: one.Key}); !errors.Is(err, overlay.ErrInvalid) {
			t.Errorf("unsigned: %v", err)
		}
		time.Sleep(time.Second)
		mustGet(t, c.nodes[3], two)
		// Another writer, a second run of the same machine: the older one gives way.
		mustPut(t, c.nodes[3], three)
		time.Sleep(9 * time.Minute)
		mustGet(t, c.nodes[1], three)
		if c.nodes[2].Unpublish(two.Key, nil) {
			t.Error("a superseded publication goes on")
		}
	})
}

func TestPublishRetriesUntilSomebodyIsThere(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		c.net.Change(func(l *overlaytest.Link) { l.Loss = 1 })
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		if err := c.nodes[3].Publish(it); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		c.net.Change(func(l *overlaytest.Link) { l.Loss = 0 })
		time.Sleep(2 * time.Minute)
		mustGet(t, c.nodes[0], it)
		st := c.nodes[3].Stats()
		if st.Published.Load() != 1 || st.Unpublished.Load() < 5 {
			t.Errorf("%d published, %d not", st.Published.Load(), st.Unpublished.Load())
		}
	})
}

func TestPublishBeforeRunTakesEffect(t *testing.T) {
	inBubble(t, 2, nil, func(t *testing.T, c *cluster) {
		o, err := overlay.New(overlay.Config{
			Self: id.Hash("early"), Transport: c.net.Transport(overlaytest.Addr(9)),
			Bootstrap: c.bootstrap,
		})
		if err != nil {
			t.Fatal(err)
		}
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		if err := o.Publish(it); err != nil {
			t.Fatal(err)
		}
		c.net.Attach(overlaytest.Addr(9), o)
		done := make(chan error)
		go func() { done <- o.Run(t.Context()) }()
		time.Sleep(time.Second)
		mustGet(t, c.nodes[1], it)
		// The bubble's context ends with the test; Run has to have ended before.
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	})
}

// Expiry goes by the clock passed in, not by the process's.
func TestExpiryByAPassedInClock(t *testing.T) {
	var offset atomic.Int64
	clock := func(c *overlay.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	}
	inBubble(t, 2, clock, func(t *testing.T, c *cluster) {
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		mustPut(t, c.nodes[0], it)
		offset.Add(int64(119 * time.Minute))
		mustGet(t, c.nodes[1], it)
		offset.Add(int64(2 * time.Minute))
		if _, err := c.nodes[1].Get(t.Context(), it.Key, nil); !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("after two hours: %v", err)
		}
	})
}

func TestQuorum(t *testing.T) {
	inBubble(t, 4, nil, func(t *testing.T, c *cluster) {
		// Puts of node 3 get lost; everything else arrives.
		c.net.Change(func(l *overlaytest.Link) {
			l.Tamper = func(pkt []byte, from, to netip.AddrPort) []byte {
				if from == c.nodes[3].Addr && overlay.PaddedLen(pkt) == overlay.MaxPayload && containsPut(pkt) && to != c.nodes[0].Addr {
					return nil
				}
				return pkt
			}
		})
		it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
		acks, err := c.nodes[3].Put(t.Context(), it)
		if acks != 2 || !errors.Is(err, overlay.ErrNoQuorum) {
			t.Errorf("%d acks, %v; want 2 and ErrNoQuorum", acks, err)
		}
		if acks := mustPut(t, c.nodes[2], it); acks != 4 {
			t.Errorf("%d acks of 4", acks)
		}
	})
}
