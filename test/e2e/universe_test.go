//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"icvpn/internal/control"
	"icvpn/internal/lab"
)

// TestOperatorsFindEachOthersServices: two operators' super peers meet in a
// universal overlay that a third one runs. It starts after them, so both serve
// without it first; and one of them goes on when it is gone.
func TestOperatorsFindEachOthersServices(t *testing.T) {
	besideOthers(t)
	w := newWorld(t, []lab.Cloud{
		{Name: "east", Hosts: []string{"super-1", "web-1"}}, {Name: "west", Hosts: []string{"super-2"}}, {Name: "north", Hosts: []string{"super-3"}},
	})
	at := func(host string) []string { return []string{fmt.Sprintf("%s:4500", w.host(host).Addr4)} }
	w.create("uni", at("super-3"), "--universe")
	w.create("shop", at("super-1"), append(tiers, "--join-universe", w.path("uni", "super.token"))...)
	w.create("wiki", at("super-2"), append(tiers, "--join-universe", w.path("uni", "super.token"))...)
	run := func(host, service string) *machine {
		m := w.machine(host, "super", "--config", w.path(service, "super-1.yaml"))
		m.start()
		m.awaitAnswer()
		return m
	}
	first, second := run("super-1", "shop"), run("super-2", "wiki")
	first.awaitUp()
	web := w.of("shop", "web-1", "web")
	web.start()
	web.awaitUp()
	universe := run("super-3", "uni")

	list := func(m *machine) map[string]control.Service {
		r := w.run(w.command("service", "list", "--json", "--state-dir", m.state()))
		var all control.ServiceList
		if err := json.Unmarshal([]byte(r.stdout), &all); err != nil || r.code != 0 {
			t.Fatalf("service list: %v, %v", err, r)
		}
		out := map[string]control.Service{}
		for _, s := range all.Services {
			out[s.Name] = s
		}
		return out
	}
	shows := func(m *machine, name string) func() error {
		return func() error {
			if s := list(m)[name]; len(s.SuperPeers) != 1 || s.SuperPeers[0].Seen.IsZero() || s.Universe != "uni" {
				return fmt.Errorf("%s knows %+v", m.name, s)
			}
			return nil
		}
	}
	w.eventually("the first operator finds the second's service", 2*startLimit, shows(first, "wiki"))
	w.eventually("the second operator finds the first's service", 2*startLimit, shows(second, "shop"))
	if s := list(first)["wiki"]; s.Own || len(s.Rules) != 0 || s.SuperPeers[0].Endpoints[0] != at("super-2")[0] || !strings.HasPrefix(s.SuperPeers[0].Fingerprint, "SHA256:") {
		t.Errorf("the other's service: %+v", s)
	}
	r := w.run(w.command("service", "show", "shop", "--state-dir", first.state()))
	for _, want := range []string{"served here, shown in uni", "role=web may reach role=app", "10.42.0.0/16", "admit, authority"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("show lacks %q: %v", want, r)
		}
	}
	if r := w.run(w.command("service", "list", "--state-dir", web.state())); r.code != exitRefused || !strings.Contains(r.stderr, "this process is a peer") {
		t.Errorf("a peer was asked: %v", r)
	}
	universe.kill()
	if err := shows(first, "wiki")(); err != nil {
		t.Errorf("without the universe's super peer: %v", err)
	}
	if s := first.status(); s.State != control.StateUp || s.PeersKnown != 1 {
		t.Errorf("the first super peer is %s, with %d members", s.State, s.PeersKnown)
	}
}
