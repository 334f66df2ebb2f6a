package overlay_test

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

// Each chunk of an object costs one query while a replica lives, however many nodes
// there are.
func TestChunksCostOneQueryEachFromALiveReplica(t *testing.T) {
	for _, c := range []struct {
		size, chunks int
	}{
		{600, 1},
		{9600, 16},
		{overlay.MaxObject, 110 + 7}, // and their indexes
	} {
		inBubble(t, 40, nil, func(t *testing.T, cl *cluster) {
			key := newKey(t)
			data := blob(c.size)
			mustPutObject(t, cl.nodes[5], object(t, key, 1, data))
			reader := cl.add(nil) // one that has nothing itself
			time.Sleep(5 * time.Second)
			var g gets
			g.watch(cl, pub(key))
			got, _, err := reader.GetObject(t.Context(), pub(key), objSalt)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("GetObject: %d bytes, %v", len(got), err)
			}
			if root, others := g.take(); others != c.chunks || root == 0 {
				t.Errorf("%d bytes: %d gets for %d chunks, %d for the root", c.size, others, c.chunks, root)
			}
		})
	}
}

// What the replica lacks is looked for; a silent one is asked once or a few times
// and then another one.
func TestChunksThatAReplicaLacksAreLookedFor(t *testing.T) {
	inBubble(t, 40, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		data := blob(6000)
		mustPutObject(t, c.nodes[5], object(t, key, 1, data))
		for _, replica := range []netip.AddrPort{overlaytest.Addr(39), overlaytest.Addr(99)} {
			reader := c.add(func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return []netip.AddrPort{replica} } })
			time.Sleep(5 * time.Second)
			if replica == overlaytest.Addr(39) {
				c.nodes[39].Stop()
				c.nodes[39] = c.replace(39) // it is there, and has nothing
			}
			if got, _, err := reader.GetObject(t.Context(), pub(key), objSalt); err != nil || !bytes.Equal(got, data) {
				t.Errorf("replica %v: %v", replica, err)
			}
		}
		replicas := []netip.AddrPort{overlaytest.Addr(99), c.nodes[1].Addr}
		reader := c.add(func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return replicas } })
		time.Sleep(5 * time.Second)
		var g gets
		g.watch(c, pub(key))
		if got, _, err := reader.GetObject(t.Context(), pub(key), objSalt); err != nil || !bytes.Equal(got, data) {
			t.Errorf("one of two replicas silent: %v", err)
		}
	})
}

// A replica that has nothing, or is silent, sends nobody on a walk while another one
// has everything: walks cost dozens of questions, and come when nodes are busiest.
func TestAnotherReplicaIsAskedBeforeAWalk(t *testing.T) {
	inBubble(t, 40, nil, func(t *testing.T, c *cluster) {
		key, data := newKey(t), blob(9600)
		const chunks = 16
		mustPutObject(t, c.nodes[5], object(t, key, 1, data))
		c.nodes[39].Stop()
		c.nodes[39] = c.replace(39) // it is there, and has nothing
		has := c.nodes[5].Addr      // who publishes keeps everything
		for _, first := range []netip.AddrPort{overlaytest.Addr(39), overlaytest.Addr(99)} {
			replicas := []netip.AddrPort{first, has}
			reader := c.add(func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return replicas } })
			time.Sleep(5 * time.Second)
			var g gets
			g.watch(c, pub(key))
			if got, _, err := reader.GetObject(t.Context(), pub(key), objSalt); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%v first: %v", first, err)
			}
			if _, others := g.take(); others > 2*chunks+8 {
				t.Errorf("%v first: %d questions for %d chunks", first, others, chunks)
			}
		}
	})
}

func TestLargeObjects(t *testing.T) {
	large := func(cfg *overlay.Config) {
		cfg.MaxObject, cfg.StorePerReplica, cfg.StorePerSource = overlay.MaxLargeObject, 4096, 4096
	}
	for _, size := range []int{overlay.MaxObject + 1, 256*600 + 1, overlay.MaxLargeObject} {
		inBubble(t, 3, large, func(t *testing.T, c *cluster) {
			key, data := newKey(t), blob(size)
			if _, err := overlay.NewObject(key, objSalt, 1, data); !errors.Is(err, overlay.ErrInvalid) {
				t.Errorf("NewObject of %d bytes: %v", size, err)
			}
			obj, err := overlay.NewLargeObject(key, objSalt, 1, data)
			if err != nil {
				t.Fatal(err)
			}
			mustPutObject(t, c.nodes[0], obj)
			got, _, err := c.nodes[2].GetObject(t.Context(), pub(key), objSalt)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("GetObject of %d bytes: %d, %v", size, len(got), err)
			}
			// A reader that did not say that it takes so much does not begin.
			modest := c.add(nil)
			time.Sleep(time.Second)
			var g gets
			g.watch(c, pub(key))
			if _, _, err := modest.GetObject(t.Context(), pub(key), objSalt); !errors.Is(err, overlay.ErrObject) {
				t.Errorf("a reader of small objects: %v", err)
			}
			if _, others := g.take(); others != 0 {
				t.Errorf("it asked for %d chunks", others)
			}
		})
	}
	if _, err := overlay.NewLargeObject(newKey(t), nil, 1, make([]byte, overlay.MaxLargeObject+1)); !errors.Is(err, overlay.ErrInvalid) {
		t.Errorf("beyond the largest: %v", err)
	}
}
