//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// twoServices starts one super peer of two services, shop and wiki, which both
// have the same addresses, roles and rules.
func twoServices(t *testing.T) (w *world, super *machine) {
	w = newWorld(t, clouds)
	at := []string{fmt.Sprintf("%s:4500", w.host("super-1").Addr4)}
	w.create("shop", at, tiers...)
	w.create("wiki", at, tiers...)
	config := "listen: \":4500\"\nhandover: [shop/super-1.handover, wiki/super-1.handover]\nhandover_key_file: [shop/super-1.key, wiki/super-1.key]\n"
	if err := os.WriteFile(w.path("both.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	super = w.machine("super-1", "super", "--config", w.path("both.yaml"))
	super.start()
	super.awaitAnswer()
	return w, super
}

// of prepares a machine of a service.
func (w *world) of(service, name, role string, args ...string) *machine {
	w.t.Helper()
	return w.machine(name, append([]string{"up", "--token-file", w.path(service, role+".token"), "--name", name}, args...)...)
}

// TestTwoServicesOnOneSuperPeerDoNotMix: machines of both, with overlapping
// addresses, find their own and never the others. A restart of the super peer
// without the owner's files changes nothing.
func TestTwoServicesOnOneSuperPeerDoNotMix(t *testing.T) {
	w, super := twoServices(t)
	members := map[string][]*machine{
		"shop": {w.of("shop", "web-1", "web"), w.of("shop", "app-1", "app")},
		"wiki": {w.of("wiki", "web-2", "web"), w.of("wiki", "app-2", "app")},
	}
	for _, ms := range members {
		for _, m := range ms {
			m.start()
		}
		for _, m := range ms {
			m.awaitUp()
		}
	}
	separate := func() {
		t.Helper()
		for service, ms := range members {
			ms[0].awaitPing(ms[1].name)
			own := map[string]bool{ms[0].name: true, ms[1].name: true}
			for _, m := range ms {
				for name := range m.peers() {
					if !own[name] {
						t.Errorf("%s of %s knows %s of the other service", m.name, service, name)
					}
				}
			}
		}
	}
	separate()
	if s := super.status(); len(s.Services) != 2 || s.PeersKnown != 4 || s.Services[0].PeersKnown != 2 || s.Services[1].Name != "wiki" {
		t.Errorf("status of the super peer: %+v", s.Services)
	}
	super.kill()
	for _, name := range []string{"shop", "wiki"} {
		for _, suffix := range []string{"handover", "key"} {
			if err := os.Remove(w.path(name, "super-1."+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	super.start()
	super.awaitUp()
	for _, s := range super.status().Services {
		if s.PeersKnown != 2 {
			t.Errorf("%s: %d members after a restart", s.Name, s.PeersKnown)
		}
	}
	separate()
}

// TestSecondServiceInOneNamespaceIsRefusedByItsAddresses, and welcome in another
// namespace of the machine.
func TestSecondServiceInOneNamespaceIsRefusedByItsAddresses(t *testing.T) {
	w, _ := twoServices(t)
	first := w.of("shop", "web-1", "web")
	first.start()
	first.awaitUp()
	second := w.command("up", "--token-file", w.path("wiki", "web.token"), "--name", "web-1", "--state-dir", w.path("second"),
		"--tun-name", "icvpn1", "--listen", ":4600")
	mistake{code: exitFailure, says: []string{"another icvpn already runs here", "10.42.0.0/16", "interface icvpn0", "icvpn down", "network namespace", "another range"},
		run: func() result { return w.runIn(w.host("web-1"), second) }}.check(t)
	w.eventually("nobody of wiki is listed", startLimit, func() error {
		for name := range first.peers() {
			return errors.New(name)
		}
		return nil
	})
	other := w.of("wiki", "web-2", "web") // a namespace of its own on the same kernel
	other.start()
	other.awaitUp()
	if s := first.status(); s.ServiceName != "shop" || strings.Join(s.Warnings, "") != "" {
		t.Errorf("the first machine is in %s, with warnings %q", s.ServiceName, s.Warnings)
	}
}
