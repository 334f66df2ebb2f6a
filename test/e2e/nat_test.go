//go:build linux

package e2e

import (
	"fmt"
	"testing"
	"time"

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

// TestTwoMachinesBehindNATs speak through a super peer at first, and then directly through
// both of the kernel's NATs, although the rules let only one of them look for the other.
func TestTwoMachinesBehindNATs(t *testing.T) {
	besideOthers(t)
	w := newWorld(t, clouds)
	w.create("shop", []string{fmt.Sprintf("%s:4500", w.host("super-1").Addr4)}, tiers...)
	w.startSuper(0)
	web, app := w.behindNAT("web-1", "web"), w.behindNAT("app-2", "app")
	for _, m := range []*machine{web, app} {
		m.start()
	}
	for _, m := range []*machine{web, app} {
		m.awaitUp()
	}
	began := time.Now()
	first := web.awaitPing("app-2")
	t.Logf("first: %s by %s, %v after the start", first.Route, first.Path, time.Since(began).Round(time.Millisecond))
	if first.Route == control.RouteRelayed && first.Path != fmt.Sprintf("%s:4500", w.host("super-1").Addr4) {
		t.Errorf("the relay is %s", first.Path)
	}
	public := fmt.Sprintf("%s:4500", w.host("app-2").Addr4)
	w.eventually("the tunnel is direct", time.Minute, func() error {
		if r := web.awaitPing("app-2"); r.Route != control.RouteDirect || r.Path != public {
			return fmt.Errorf("ping goes %s by %s", r.Route, r.Path)
		}
		return nil
	})
	t.Logf("direct after %v", time.Since(began).Round(time.Second))
}
