package node

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/tun/tuntest"
)

// TestClockThatIsSetDoesNotCutOff sets the machine's clock while it runs: seen
// from the service, time went on as before.
func TestClockThatIsSetDoesNotCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		for _, set := range []time.Duration{time.Hour, -3 * time.Minute, 100 * time.Millisecond} {
			before := web.ring.ClockOffset()
			web.clock.mu.Lock()
			web.clock.wall = web.clock.wall.Add(-set) // as if now were later by set
			web.clock.mu.Unlock()
			web.watchClock()
			want := before - set
			if set < clockStep && set > 0 {
				want = before
			}
			if got := web.ring.ClockOffset(); got != want {
				t.Errorf("clock set by %v: offset %v, want %v", set, got, want)
			}
			web.setClock(before)
		}
		time.Sleep(time.Hour) // time that passes is no step
		if got := web.ring.ClockOffset(); got != 0 {
			t.Errorf("offset %v after an hour", got)
		}
	})
}

// TestRemovedInterfaceEndsTheNode: without its interface a node is of no use, and
// must say so instead of staying.
func TestRemovedInterfaceEndsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		m, err := Join(w.ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		udp, err := w.net.Listen(4500, netip.MustParseAddr("198.51.100.77"))
		if err != nil {
			t.Fatal(err)
		}
		dev := tuntest.New("icvpn0", 1400)
		n, err := New(Config{Join: cfg, Membership: m, Device: dev, UDP: udp, Log: cfg.Log})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- n.Run(w.ctx) }()
		time.Sleep(time.Second)
		dev.Close()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "icvpn0 was removed") {
			t.Errorf("the node ended with %v", err)
		}
	})
}
