package node

import (
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/metrics"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
)

// scrape returns the samples of a source, by name and label values.
func scrape(t *testing.T, src metrics.Source) map[string]float64 {
	t.Helper()
	all, err := metrics.NewRegistry(src).Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

func TestCountersMoveWithPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { countersMove(t) })
}

func countersMove(t *testing.T) {
	w := newWorld(t, 1, "")
	web, app := w.start("web", "web-1"), w.start("app", "app-1")
	w.pingOK(web, "app-1")
	before := scrape(t, web)
	if before["icvpn_up"] != 1 || before["icvpn_members"] != 1 || before["icvpn_tunnels up"] != 1 || before["icvpn_tunnels idle"] != 0 {
		t.Errorf("up %v, members %v, tunnels up %v, idle %v", before["icvpn_up"], before["icvpn_members"], before["icvpn_tunnels up"], before["icvpn_tunnels idle"])
	}
	const pings = 3
	for range pings {
		if err := web.Ping(w.ctx, "app-1", 1, func(control.PingReply) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := web.dev.Inject([]byte{0x45, 0}); err != nil { // no IP packet: for nobody
		t.Fatal(err)
	}
	synctest.Wait()
	after := scrape(t, web)
	for name, least := range map[string]float64{
		"icvpn_outbound_packets_total": pings, "icvpn_outbound_bytes_total": pings * 28,
		"icvpn_inbound_packets_total": pings, "icvpn_inbound_bytes_total": pings * 28,
		"icvpn_underlay_sent_datagrams_total": pings, "icvpn_underlay_received_datagrams_total": pings,
		"icvpn_tun_read_packets_total": 1, "icvpn_node_drops_total not_ip": 1,
	} {
		if got := after[name] - before[name]; got < least {
			t.Errorf("%s moved by %v, want at least %v", name, got, least)
		}
	}
	for _, name := range []string{
		"icvpn_keyex_completed_total initiator", "icvpn_control_received_datagrams_total", "icvpn_control_sent_datagrams_total",
		"icvpn_overlay_received_datagrams_total service", "icvpn_overlay_sent_queries_total service", "icvpn_overlay_nodes service",
		"icvpn_credential_expiry_seconds", "icvpn_epoch",
	} {
		if after[name] == 0 {
			t.Errorf("%s is 0", name)
		}
	}
	super := scrape(t, w.supers[0].sp)
	if super["icvpn_members"] != 2 || super["icvpn_leases"] != 2 || super["icvpn_leases_limit"] == 0 {
		t.Errorf("super peer: members %v, leases %v of %v", super["icvpn_members"], super["icvpn_leases"], super["icvpn_leases_limit"])
	}
	if got := super["icvpn_admissions_total granted"]; got != 2 {
		t.Errorf("admissions granted: %v", got)
	}
	app.stop()
	if got := scrape(t, app); got["icvpn_up"] != 0 {
		t.Errorf("a machine that has left is up: %v", got["icvpn_up"])
	}
}

func TestRefusedAdmissionsAreCountedByCode(t *testing.T) {
	w := newWorld(t, 1, "")
	cfg := w.joinConfig("web", "web-1", newIdentity(t))
	cfg.Labels = map[string]string{"role": "db"}
	if _, err := Join(w.ctx, cfg); err == nil {
		t.Fatal("admitted as db with the secret of web")
	}
	c, err := w.dial(w.ctx, w.supers[0].endpoint)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.eventually("both counted", 10*time.Second, func() bool {
		s := scrape(t, w.supers[0].sp)
		return s["icvpn_admissions_total scope"] == 1 && s["icvpn_admissions_total abandoned"] == 1 && s["icvpn_admissions_running"] == 0
	})
}

// TestUnclaimedDatagramsAreCounted: what outsiders send is in no ring's Stats.
func TestUnclaimedDatagramsAreCounted(t *testing.T) {
	w := newWorld(t, 1, "")
	web := w.start("web", "web-1")
	stranger, err := w.net.Listen(4500, netip.MustParseAddr("203.0.113.9"))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	junk := make([]byte, 100) // non-ESP marker, type, no kid of ours
	junk[4] = byte(seal.TypeDHT)
	if _, err := stranger.WriteBatch([]underlay.Message{{Buf: junk, N: len(junk), Addr: netip.AddrPortFrom(web.addr, 4500)}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the datagram is counted", 10*time.Second, func() bool {
		s := scrape(t, web)
		return s["icvpn_control_drops_total unknown_kid"]+s["icvpn_control_drops_total type"]+s["icvpn_control_drops_total length"] == 1
	})
}

// TestEveryDropOfTheNodeHasAName: a drop without a counter is a bug, and so is
// a counter that nobody sees.
func TestEveryDropOfTheNodeHasAName(t *testing.T) {
	w := newWorld(t, 1, "")
	n := w.start("web", "web-1").Node
	// Of these the filters keep account; and datapath.Stats counts five more here.
	const filtered, ofDataPath = 2, 5
	drops := n.drops()
	if want := reflect.TypeFor[stats]().NumField() - filtered + ofDataPath; len(drops) != want {
		t.Errorf("%d counters have names, want %d", len(drops), want)
	}
	seen := map[string]bool{}
	for _, c := range drops {
		if seen[c.Name] || c.N != 0 {
			t.Errorf("%s: named twice, or of another counter", c.Name)
		}
		seen[c.Name] = true
	}
}
