package overlay_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

// Whenever the caller of an object call, or the node, gives up, the call ends:
// also between two of its parts, when the first has found what it wanted.
func TestObjectCallsEndWhenTheyAreCancelled(t *testing.T) {
	for name, call := range map[string]func(context.Context, *overlaytest.Node, overlay.Object){
		"get": func(ctx context.Context, n *overlaytest.Node, o overlay.Object) {
			n.GetObject(ctx, o.Root.Key, o.Root.Salt) //nolint:errcheck // any end will do
		},
		"put": func(ctx context.Context, n *overlaytest.Node, o overlay.Object) {
			n.PutObject(ctx, o) //nolint:errcheck // any end will do
		},
	} {
		for _, after := range []time.Duration{0, 15, 25, 35, 50, 100, 200, 290, 310, 350, 700, 1500} {
			after *= time.Millisecond //nolint:durationcheck // the numbers above have no unit
			t.Run(fmt.Sprintf("%s/%v", name, after), func(t *testing.T) {
				inBubble(t, 40, nil, func(t *testing.T, c *cluster) {
					obj, _ := mustObject(t, 5000, 4)
					if _, err := c.nodes[0].PutObject(t.Context(), obj); err != nil {
						t.Fatal(err)
					}
					// Silent nodes make each part last until they are given up.
					for _, n := range c.nodes[2:30] {
						n.Stop()
					}
					ctx, cancel := context.WithTimeout(t.Context(), after)
					defer cancel()
					ended := make(chan struct{})
					go func() {
						defer close(ended)
						call(ctx, c.nodes[39], obj)
					}()
					time.Sleep(after + time.Millisecond)
					synctest.Wait()
					select {
					case <-ended:
					default:
						t.Errorf("cancelled after %v, the call goes on", after)
					}
				})
			})
		}
	}
}
