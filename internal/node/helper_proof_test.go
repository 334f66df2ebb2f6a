package node

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/underlay"
)

// bystander is an address that has nothing to do with the service.
type bystander struct {
	mu    sync.Mutex
	sizes []int
}

func (w *world) bystander(addr string) *bystander {
	conn, err := w.net.Listen(4500, netip.MustParseAddr(addr))
	if err != nil {
		w.t.Fatal(err)
	}
	b := &bystander{}
	for _, r := range conn.Readers() {
		w.wg.Go(func() {
			for ms := underlay.NewBatch(8, underlay.TrainBuffer); ; {
				n, err := r.ReadBatch(ms)
				if err != nil {
					return
				}
				b.mu.Lock()
				for _, m := range ms[:n] {
					b.sizes = append(b.sizes, m.N)
				}
				b.mu.Unlock()
			}
		})
	}
	w.t.Cleanup(func() { conn.Close() })
	return b
}

func (b *bystander) got() (sizes []int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sizes)
}

// A super peer that lies names a member as a helper at an address of somebody who
// has nothing to do with it.
func TestHelperIsProvedBeforeItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		w.node = func(c *Config) { c.NeverHelp = true } // the super peer finds no helper by itself
		a, b, c := w.start("app", "app-1"), w.start("db", "db-1"), w.start("db", "db-2")
		w.eventually("the machines know each other", time.Minute, func() bool {
			a.readDirectories(w.ctx)
			return a.table.Has(b.self) && a.table.Has(c.self)
		})
		victim, at := w.bystander("203.0.113.7"), netip.MustParseAddrPort("203.0.113.7:4500")
		both := directory.HelperStore | directory.HelperReflect
		until := a.now().Add(directory.HelperLife).Unix()
		honest := directory.Helper{PID: c.self, Addr: netip.AddrPortFrom(c.addr, 4500), Roles: both, Until: until}
		other := directory.Helper{PID: b.self, Addr: honest.Addr, Roles: both, Until: until} // who answers there is c
		a.onHelpers(w.supers[0].sp.PID(), []directory.Helper{{PID: b.self, Addr: at, Roles: both, Until: until}, other, honest})
		w.eventually("the helper that answers is used", 5*time.Second, func() bool { return slices.Contains(a.replicas(), honest.Addr) })
		for range 20 {
			if _, err := a.putContact(w.ctx, a.membership.Load(), a.endpoints()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Second)
		}
		if v := a.helperView(); len(v.proved) != 1 || v.proved[0].PID != c.self || !slices.Equal(v.replicas, []netip.AddrPort{honest.Addr}) {
			t.Errorf("proved are %v, replicas %v", v.proved, v.replicas)
		}
		sizes := victim.got()
		if len(sizes) == 0 || len(sizes) > 20 || slices.Max(sizes) > 200 {
			t.Errorf("an address of a stranger got %d datagrams of %v bytes", len(sizes), sizes)
		}
		t.Logf("in 10 min %d datagrams of up to %d bytes went to the stranger", len(sizes), slices.Max(sizes))
	})
}

func TestProofsOfHelpersAreBoundedAndForgotten(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var listed []directory.Helper
	for i := range 2 * maxProofs {
		listed = append(listed, directory.Helper{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 4500)})
	}
	var p helperProofs
	first := p.due(listed, now)
	if len(first) != maxProofs || len(p.due(listed, now)) != 0 {
		t.Errorf("%d are asked at once", len(first))
	}
	if !p.learn(first[0], true, now) || p.learn(first[1], false, now) {
		t.Error("an answer is no news, or silence is")
	}
	if !p.has(listed[0], now) || p.has(listed[1], now) || p.has(listed[0], now.Add(proofLife)) {
		t.Error("who answered is not proved, or who did not is, or for ever")
	}
	if again := p.due(listed, now); len(again) != 2 || slices.Contains(again, first[0]) || slices.Contains(again, first[1]) {
		t.Errorf("asked are %v", again)
	}
	asked := 0
	silent := helperProofs{}
	for at := now; at.Before(now.Add(time.Hour)); at = at.Add(time.Second) {
		for _, who := range silent.due(listed[:1], at) {
			asked++
			silent.learn(who, false, at)
		}
	}
	if asked > 14 {
		t.Errorf("who is silent was asked %d times in an hour", asked)
	}
	p.due(nil, now)
	if p.has(listed[0], now) || len(p.of) != 0 || p.learn(first[2], true, now) {
		t.Error("who is no longer listed is proved")
	}
}
