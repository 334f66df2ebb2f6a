package node

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/id"
)

// helperWorld is a service of machines that all publish a contact.
func helperWorld(t *testing.T, supers, nodes int) *world {
	w := newWorld(t, supers, "")
	for i := range nodes {
		role := []string{"app", "db"}[i%2]
		w.start(role, fmt.Sprintf("%s-%d", role, i))
	}
	return w
}

// named says whom a machine believes to be helpers, after a look at the roots.
func (w *world) named(by *nodeProc) (pids []id.ID) {
	by.readDirectories(w.ctx)
	for _, h := range by.helperView().others {
		pids = append(pids, h.PID)
	}
	if self := by.helperView().self; self.Roles != 0 {
		pids = append(pids, self.PID)
	}
	return pids
}

// listOf returns whom a super peer lists as helpers, as far as p has read.
func (p *nodeProc) listOf(super id.ID) (pids []id.ID) {
	p.helping.mu.Lock()
	defer p.helping.mu.Unlock()
	for _, h := range p.helping.lists[super] {
		pids = append(pids, h.PID)
	}
	return pids
}

func (w *world) helping() (all []*nodeProc) {
	for _, p := range w.nodes {
		select {
		case <-p.done:
			continue
		default:
		}
		if roles, _ := p.helps(); roles != 0 {
			all = append(all, p)
		}
	}
	return all
}

func TestHelpersAppearDieAndOutliveTheSuperPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := helperWorld(t, 2, 8)
		w.eventually("two helpers, and all machines know of them", 10*time.Minute, func() bool {
			return len(w.helping()) >= 2 && !slices.ContainsFunc(w.nodes, func(p *nodeProc) bool { return len(p.helperView().others) == 0 })
		})
		t.Logf("after joining: %d helpers", len(w.helping()))

		// One dies: a minute later it is nobody's helper, and somebody else is.
		dead := w.helping()[0]
		dead.kill()
		died := time.Now()
		watch := w.nodes[slices.IndexFunc(w.nodes, func(p *nodeProc) bool { return p != dead })]
		w.eventually("the dead helper is replaced", time.Minute, func() bool {
			watch.readDirectories(w.ctx)
			for _, s := range w.supers {
				list := watch.listOf(s.sp.PID())
				if len(list) < 2 || slices.Contains(list, dead.self) {
					return false
				}
			}
			return true
		})
		t.Logf("the dead helper was replaced after %v", time.Since(died).Round(time.Second))
		w.eventually("the new helper knows", 10*time.Minute, func() bool { return len(w.helping()) >= 2 })

		// All super peers die, and everybody but helpers and one who reads; what was
		// written before is found.
		pick := func(role string) (found *nodeProc) {
			for _, p := range w.nodes {
				helps := slices.Contains(w.helping(), p)
				if p != dead && p.membership.Load().Credential.Labels["role"] == role && (found == nil || !helps) {
					found = p
				}
			}
			return found
		}
		reader, gone := pick("app"), pick("db")
		if _, err := gone.putContact(w.ctx, gone.membership.Load(), gone.endpoints()); err != nil {
			t.Fatal(err)
		}
		for _, s := range w.supers {
			s.kill()
		}
		for _, p := range w.nodes {
			if p == gone || p != dead && p != reader && !slices.Contains(w.helping(), p) {
				p.kill()
			}
		}
		m := gone.membership.Load().Credential.Member()
		w.eventually("a contact is found through helpers", time.Minute, func() bool {
			c, err := reader.findContact(w.ctx, m)
			return err == nil && len(c.Endpoints) > 0
		})
		if !slices.ContainsFunc(reader.replicas(), func(a netip.AddrPort) bool {
			return slices.ContainsFunc(w.helping(), func(p *nodeProc) bool { return a.Addr() == p.addr })
		}) {
			t.Errorf("replicas %v are no helpers", reader.replicas())
		}
	})
}

func TestOnlyThoseWhoMayAreHelpers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		w.node = func(c *Config) { c.NeverHelp = true }
		never := w.start("app", "app-never")
		nat := netip.MustParseAddrPort("198.51.100.99:4500")
		w.node = func(c *Config) { c.Endpoints = func() []netip.AddrPort { return []netip.AddrPort{nat} } }
		behind := w.start("app", "app-nat")
		w.node = nil
		open := w.start("app", "app-open")
		w.eventually("the open machine helps", 10*time.Minute, func() bool { return len(w.helping()) > 0 })
		time.Sleep(31 * time.Minute)
		if got := w.named(behind); !slices.Equal(got, []id.ID{open.self}) {
			t.Errorf("helpers are %v, want %s alone", got, open.self.Short())
		}
		if !slices.Equal(w.helping(), []*nodeProc{open}) {
			t.Errorf("%d machines help", len(w.helping()))
		}
		if n := never.stats.notHelping.Load(); n == 0 {
			t.Error("the machine that refuses was never tried")
		}
		open.stop() // and who has left is none at once
		w.eventually("nobody helps", 2*time.Minute, func() bool { return len(w.named(behind)) == 0 })
	})
}

func TestOnlySuperPeersMakeHelpersAndOnlyOfMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		a, b := w.start("app", "app-1"), w.start("db", "db-1")
		w.eventually("the machines know each other", time.Minute, func() bool { a.readDirectories(w.ctx); return a.table.Has(b.self) })
		super := w.supers[0].sp.PID()
		at := netip.AddrPortFrom(b.addr, 4500)
		until := a.now().Add(directory.HelperLife).Unix()
		both := directory.HelperStore | directory.HelperReflect
		member := directory.Helper{PID: b.self, Addr: at, Roles: both, Until: until}
		stranger := directory.Helper{PID: id.ID{66}, Addr: at, Roles: both, Until: until}
		inside := directory.Helper{PID: b.self, Addr: netip.MustParseAddrPort("10.42.0.9:4500"), Roles: both, Until: until}
		over := directory.Helper{PID: b.self, Addr: at, Roles: both, Until: a.now().Unix()}
		for _, c := range []struct {
			name   string
			issuer id.ID
			all    []directory.Helper
			want   int
		}{
			{"a super peer, a member", super, []directory.Helper{member}, 1},
			{"a super peer, a stranger", super, []directory.Helper{stranger}, 0},
			{"nobody's word", id.ID{67}, []directory.Helper{member}, 0},
			{"a member's word", b.self, []directory.Helper{member}, 0},
			{"an address of the service itself", super, []directory.Helper{inside}, 0},
			{"ended", super, []directory.Helper{over}, 0},
		} {
			a.helping.lists = nil
			a.onHelpers(c.issuer, c.all)
			time.Sleep(time.Second) // it has answered
			if v := a.helperView(); len(v.others) != c.want || len(v.replicas) != c.want {
				t.Errorf("%s: %d helpers, %d replicas, want %d", c.name, len(v.others), len(v.replicas), c.want)
			}
		}
		a.onHelpers(super, []directory.Helper{member})
		time.Sleep(directory.HelperLife + 30*time.Second)
		if v := a.helperView(); len(v.others) != 0 && v.others[0].Until == until {
			t.Error("a helper is one after its end")
		}
	})
}

func TestHelpersAreInTheOrderInWhichEverybodyHasThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := helperWorld(t, 2, 6)
		w.eventually("everybody is listed", time.Minute, func() bool {
			for _, p := range w.nodes {
				p.readDirectories(w.ctx)
				if p.table.Len() != len(w.nodes)-1 {
					return false
				}
			}
			return true
		})
		until := time.Now().Add(time.Minute).Unix()
		of := func(nodes ...int) (all []directory.Helper) {
			for _, i := range nodes {
				all = append(all, directory.Helper{PID: w.nodes[i].self, Addr: netip.AddrPortFrom(w.nodes[i].addr, 4500), Roles: directory.HelperStore, Until: until, Since: int64(i)})
			}
			return all
		}
		lists := map[id.ID][]directory.Helper{w.supers[0].sp.PID(): of(1, 2, 3), w.supers[1].sp.PID(): of(2, 4, 5)}
		for _, p := range w.nodes[:2] {
			for s, list := range lists {
				p.onHelpers(s, list)
			}
			w.eventually("all have answered", time.Minute, func() bool { p.proveHelpers(); return len(p.helperView().proved) >= 4 })
		}
		var first []netip.AddrPort
		for _, reader := range []int{0} {
			v := w.nodes[reader].viewOf(lists, w.nodes[reader].now())
			if len(v.others) != 5 || len(v.replicas) != maxReplicas {
				t.Fatalf("%d helpers, %d replicas", len(v.others), len(v.replicas))
			}
			first = v.replicas
		}
		// A helper's own view is the others', without itself.
		v := w.nodes[1].viewOf(lists, w.nodes[1].now())
		if v.self.Roles == 0 || len(v.others) != 4 {
			t.Errorf("a helper's view: self %v, %d others", v.self.Roles, len(v.others))
		}
		if shared := slices.DeleteFunc(slices.Clone(first), func(a netip.AddrPort) bool { return !slices.Contains(v.replicas, a) }); len(shared) < maxReplicas-1 {
			t.Errorf("two machines share %d of their replicas", len(shared))
		}
	})
}

func TestOneHelpersWordIsNoAddress(t *testing.T) {
	super := reflector{addr: netip.MustParseAddrPort("192.0.2.1:4500")}
	h1 := reflector{addr: netip.MustParseAddrPort("198.51.100.1:4500"), helper: true}
	h2 := reflector{addr: netip.MustParseAddrPort("198.51.100.2:4500"), helper: true}
	mapped, other := netip.MustParseAddrPort("203.0.113.1:1111"), netip.MustParseAddrPort("203.0.113.1:2222")
	type said struct {
		who  reflector
		what netip.AddrPort
	}
	for _, c := range []struct {
		name   string
		all    []said
		want   []netip.AddrPort
		steady bool
	}{
		{"a super peer", []said{{super, mapped}}, []netip.AddrPort{mapped}, false},
		{"a helper", []said{{h1, mapped}}, nil, false},
		{"one helper twice", []said{{h1, mapped}, {h1, mapped}}, nil, false},
		{"two helpers that differ", []said{{h1, mapped}, {h2, other}}, nil, false},
		{"two helpers that agree", []said{{h1, mapped}, {h2, mapped}}, []netip.AddrPort{mapped}, true},
		{"a super peer and a helper that agree", []said{{super, mapped}, {h1, mapped}}, []netip.AddrPort{mapped}, true},
		{"a super peer and a helper that differ", []said{{super, mapped}, {h1, other}}, []netip.AddrPort{mapped}, false},
	} {
		o := new(observed)
		o.begin()
		for _, s := range c.all {
			o.learn(o.expect(s.who), s.who.addr, s.what)
		}
		if got := o.all(); !slices.Equal(got, c.want) {
			t.Errorf("%s: addresses %v, want %v", c.name, got, c.want)
		}
		if steady, _ := o.begin(); steady != c.steady {
			t.Errorf("%s: steady is %v", c.name, steady)
		}
	}
	o := new(observed)
	o.begin()
	o.learn(o.expect(h1), h1.addr, mapped)
	if o.learn(o.expect(h2), h1.addr, mapped) {
		t.Error("a helper answered for another one")
	}
}
