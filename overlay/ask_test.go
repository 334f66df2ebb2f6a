package overlay_test

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"icvpn/overlay"
)

// TestAskItemCostsOneQuery: one replica is asked, and nobody else.
func TestAskItemCostsOneQuery(t *testing.T) {
	inBubble(t, 16, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		it := overlay.SignItem(key, []byte("salt"), 7, []byte("value"))
		mustPut(t, c.nodes[0], it)
		replica := c.nodes[0].Addr
		reader := c.add(func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return []netip.AddrPort{replica} } })
		c.settle()
		before, _ := c.net.Sent()
		got, err := reader.AskItem(t.Context(), pub(key), []byte("salt"))
		if err != nil || got.Seq != 7 || string(got.Value) != "value" {
			t.Fatalf("AskItem: %+v, %v", got, err)
		}
		if after, _ := c.net.Sent(); after-before > 2 {
			t.Errorf("%d datagrams, want a query and its answer", after-before)
		}
		if _, err := reader.AskItem(t.Context(), pub(newKey(t)), nil); !errors.Is(err, overlay.ErrNotFound) {
			t.Errorf("an item that is not there: %v", err)
		}
		alone := c.add(func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return nil } })
		c.settle()
		if _, err := alone.AskItem(t.Context(), pub(key), []byte("salt")); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("without a replica: %v", err)
		}
		c.nodes[0].Stop()
		if _, err := reader.AskItem(t.Context(), pub(key), []byte("salt")); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("with a silent replica: %v", err)
		}
	})
}

// TestReadObjectAsksReplicasForChunks: with the root from a replica, an object
// costs a query for each chunk and no walk.
func TestReadObjectAsksReplicasForChunks(t *testing.T) {
	inBubble(t, 16, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		data := blob(5500)
		mustPutObject(t, c.nodes[0], object(t, key, 3, data))
		replica := c.nodes[0].Addr
		reader := c.add(func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return []netip.AddrPort{replica} } })
		c.settle()
		before, _ := c.net.Sent()
		root, err := reader.AskItem(t.Context(), pub(key), objSalt)
		if err != nil {
			t.Fatal(err)
		}
		got, err := reader.ReadObject(t.Context(), root)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if after, _ := c.net.Sent(); after-before > 2*11 {
			t.Errorf("%d datagrams for 10 chunks and their root", after-before)
		}
		root.Value = []byte("no root")
		if _, err := reader.ReadObject(t.Context(), root); !errors.Is(err, overlay.ErrObject) {
			t.Errorf("not a root: %v", err)
		}
	})
}

// TestPutObjectAtFillsOneNode: a node that has missed an object, or has an older
// one, is given what it lacks; where it has everything that costs one query.
func TestPutObjectAtFillsOneNode(t *testing.T) {
	inBubble(t, 3, nil, func(t *testing.T, c *cluster) {
		key := newKey(t)
		mustPutObject(t, c.nodes[0], object(t, key, 3, blob(3000)))
		late := c.add(nil)
		c.settle()
		if _, err := c.nodes[0].AskItemAt(t.Context(), late.Addr, pub(key), objSalt); !errors.Is(err, overlay.ErrNotFound) {
			t.Fatalf("the late node has the object before it was given: %v", err)
		}
		for seq, data := range [][]byte{blob(3000), blob(5500)} {
			obj := object(t, key, int64(seq)+3, data)
			if err := c.nodes[0].PutObjectAt(t.Context(), late.Addr, obj); err != nil {
				t.Fatal(err)
			}
			root, err := c.nodes[1].AskItemAt(t.Context(), late.Addr, pub(key), objSalt)
			if err != nil || root.Seq != obj.Root.Seq {
				t.Fatalf("the late node has %d, %v; want %d", root.Seq, err, obj.Root.Seq)
			}
			before, _ := c.net.Sent()
			if err := c.nodes[0].PutObjectAt(t.Context(), late.Addr, obj); err != nil {
				t.Fatal(err)
			}
			if after, _ := c.net.Sent(); after-before > 2 {
				t.Errorf("%d datagrams for what is there, want 2", after-before)
			}
		}
		err := c.nodes[0].PutObjectAt(t.Context(), late.Addr, object(t, key, 3, blob(3000)))
		if !errors.Is(err, overlay.ErrSuperseded) {
			t.Errorf("an older object: %v", err)
		}
		late.Stop()
		if err := c.nodes[0].PutObjectAt(t.Context(), late.Addr, object(t, key, 9, blob(3000))); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("a silent node: %v", err)
		}
	})
}
