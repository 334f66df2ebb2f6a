package overlay_test

import (
	"testing"
	"time"

	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

// Round trips longer than two of the shortest waits, over a satellite or to a busy
// machine, hide no node.
func TestFarNodesAreNotSilent(t *testing.T) {
	inBubble(t, 8, nil, func(t *testing.T, c *cluster) {
		c.net.Change(func(l *overlaytest.Link) { l.Delay, l.Jitter = 350*time.Millisecond, 50*time.Millisecond })
		it := overlay.SignItem(newKey(t), nil, 1, []byte("far"))
		mustPut(t, c.nodes[0], it)
		mustGet(t, c.nodes[7], it)
		time.Sleep(10 * time.Minute) // every contact is asked again
		for _, n := range c.nodes {
			if silent := n.Stats().Silent.Load(); silent > 0 {
				t.Errorf("%d of %d queries counted as silent", silent, n.Stats().Asked.Load())
			}
		}
	})
}
