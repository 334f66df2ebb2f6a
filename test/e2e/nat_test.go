//go:build linux

package e2e

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"icvpn/internal/control"
)

// behindNAT makes a host a NAT and prepares a machine behind it.
func (w *world) behindNAT(host, role string) *machine {
	w.t.Helper()
	m := w.peer(host, role)
	inner, err := w.host(host).BehindNAT(host)
	if err != nil {
		w.t.Fatal(err)
	}
	m.host = inner
	return m
}

// cut has a host send nothing to another one, or do so again.
func (w *world) cut(from, to string, down bool) {
	w.t.Helper()
	addr := w.host(to).Addr4
	route := &netlink.Route{Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}, Type: unix.RTN_BLACKHOLE}
	change := netlink.RouteDel
	if down {
		change = netlink.RouteAdd
	}
	if err := w.host(from).Do(func() error { return change(route) }); err != nil {
		w.t.Fatal(err)
	}
}

// directLimit is more than the time between two looks for a direct way: the first is after
// 20 s, and a slow machine may miss it.
const directLimit = 6 * time.Minute

// TestTwoMachinesBehindNATs speak through a super peer at first, and then directly through
// both of the kernel's NATs, although the rules let only one of them look for the other.
func TestTwoMachinesBehindNATs(t *testing.T) {
	besideOthers(t)
	w := newWorld(t, clouds)
	w.create("shop", []string{fmt.Sprintf("%s:4500", w.host("super-1").Addr4)}, tiers...)
	w.startSuper(0)
	w.cut("web-1", "app-2", true) // the overlay's datagrams may open the NATs at any time
	w.cut("app-2", "web-1", true)
	web, app := w.behindNAT("web-1", "web"), w.behindNAT("app-2", "app")
	for _, m := range []*machine{web, app} {
		m.start()
	}
	for _, m := range []*machine{web, app} {
		m.awaitUp()
	}
	began := time.Now()
	first := web.awaitPing("app-2")
	t.Logf("by %s after %v", first.Path, time.Since(began).Round(time.Millisecond))
	if first.Route != control.RouteRelayed || first.Path != fmt.Sprintf("%s:4500", w.host("super-1").Addr4) {
		t.Errorf("first ping went %s by %s", first.Route, first.Path)
	}
	flow := startTraffic(t, web, app) // TCP in both directions, on either way and from one to the other
	flow.awaitMore(w)
	t.Logf("relayed: %v", flow)
	w.cut("web-1", "app-2", false)
	w.cut("app-2", "web-1", false)
	public := fmt.Sprintf("%s:4500", w.host("app-2").Addr4)
	w.eventually("the tunnel is direct", directLimit, func() error {
		if r := web.awaitPing("app-2"); r.Route != control.RouteDirect || r.Path != public {
			return fmt.Errorf("ping goes %s by %s", r.Route, r.Path)
		}
		return nil
	})
	t.Logf("direct after %v", time.Since(began).Round(time.Second))
	flow.awaitMore(w)
	if err := flow.finish(); err != nil {
		t.Errorf("%v; %v", err, flow)
	}
	t.Log(flow)
}
