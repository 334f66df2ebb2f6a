package node

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// TestRunningMemberRenewsByDatagram: without a connection, unless the datagrams get
// lost.
func TestRunningMemberRenewsByDatagram(t *testing.T) {
	for name, c := range map[string]struct {
		lost  func(nth int32) bool // of the datagrams of renewals
		dials bool
	}{
		"all arrive":           {lost: func(int32) bool { return false }},
		"the ask is lost":      {lost: func(n int32) bool { return n == 1 }},
		"the offer is lost":    {lost: func(n int32) bool { return n == 2 }},
		"the renewal is lost":  {lost: func(n int32) bool { return n == 3 }},
		"the answer is lost":   {lost: func(n int32) bool { return n == 4 }},
		"all answers are lost": {lost: func(n int32) bool { return n%4 == 0 }, dials: true},
		"none arrives":         {lost: func(int32) bool { return true }, dials: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, "")
				var dials, datagrams atomic.Int32
				cfg := w.joinConfig("web", "web-1", newIdentity(t))
				cfg.Dial = func(ctx context.Context, endpoint string) (net.Conn, error) {
					dials.Add(1)
					return w.dial(ctx, endpoint)
				}
				web := w.startWith(cfg)
				w.start("app", "app-1")
				w.pingOK(web, "app-1")
				before := web.membership.Load()
				joined := dials.Load()
				watch := watcher(func(_, _ netip.AddrPort, b []byte) bool {
					return seal.Type(b[4]) != seal.TypeRenewal || b[0] != 0 || !c.lost(datagrams.Add(1))
				})
				w.watch.Store(&watch)
				for range 3 {
					time.Sleep(time.Minute)
					web.renewNow <- struct{}{}
					w.eventually("renewed", renewSpread+20*time.Second, func() bool { return web.membership.Load() != before })
					m := web.membership.Load()
					if m.Session.Key == before.Session.Key || !m.Credential.Expires().After(before.Credential.Expires()) || m.Credential.Addr4() != before.Credential.Addr4() ||
						m.Key != before.Key || len(m.Grant.EpochKey) == 0 || (m.Offset-before.Offset).Abs() > 10*time.Millisecond || string(m.Claim) == string(before.Claim) {
						t.Errorf("renewed until %v, before until %v, clock off by %v, before by %v", m.Credential.Expires(), before.Credential.Expires(), m.Offset, before.Offset)
					}
					before = m
				}
				if got := dials.Load() > joined; got != c.dials || datagrams.Load() == 0 {
					t.Errorf("%d connections after the first %d, %d datagrams", dials.Load()-joined, joined, datagrams.Load())
				}
				w.pingOK(web, "app-1")
			})
		})
	}
}

// TestDatagramsGiveWayToTLSWhereThereIsNews: a member that renews by datagram for
// ever hears of everything all the same.
func TestDatagramsGiveWayToTLSWhereThereIsNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		var dials atomic.Int32
		cfg := w.joinConfig("web", "web-1", newIdentity(t))
		cfg.Dial = func(ctx context.Context, endpoint string) (net.Conn, error) {
			dials.Add(1)
			return w.dial(ctx, endpoint)
		}
		web := w.startWith(cfg)
		seq := web.trust().Descriptor.Seq
		before, joined := web.membership.Load(), dials.Load()
		web.renewNow <- struct{}{}
		w.eventually("renewed", renewSpread+20*time.Second, func() bool { return web.membership.Load() != before })
		if dials.Load() != joined {
			t.Fatal("it went over TLS")
		}
		before = web.membership.Load()
		w.announce(0, time.Hour)
		web.renewNow <- struct{}{}
		w.eventually("renewed", renewSpread+20*time.Second, func() bool { return web.membership.Load() != before })
		if m := web.membership.Load(); dials.Load() == joined || m.Epochs.Last() == before.Epochs.Last() || m.Trust.Descriptor.Seq < seq {
			t.Errorf("%d connections; epochs until %d, before %d", dials.Load()-joined, m.Epochs.Last(), before.Epochs.Last())
		}
	})
}

// TestRenewalKeepsNewerDocuments: the owners' documents may come while a member waits
// for its renewal, which began with the older ones.
func TestRenewalKeepsNewerDocuments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, "")
		web := w.start("web", "web-1")
		renewed := *web.membership.Load()
		c := w.changeSupers(owner.AddSuper, "192.0.2.2:4500")
		if c.Number != 1 {
			t.Fatalf("super peer %d was added", c.Number)
		}
		w.startSuper(1, new(ledger.Memory))
		_, trust := w.supers[1].trustOf(w)
		key, err := owner.ParseKey(w.svc.Supers[1].Key)
		if err != nil {
			t.Fatal(err)
		}
		h, err := service.OpenHandOver(w.svc.Supers[1].HandOver, key)
		if err != nil {
			t.Fatal(err)
		}
		var adopted error
		if err := web.call(w.ctx, func() {
			web.adoptDescriptor(trust, h.Service.Documents)
			adopted = web.adoptRenewed(&renewed)
		}); err != nil || adopted != nil {
			t.Fatal(err, adopted)
		}
		if m := web.membership.Load(); m.Trust.Descriptor.Seq != trust.Descriptor.Seq || m.Trust.Policy == nil || len(m.Documents.Descriptor.Body) != len(h.Service.Documents.Descriptor.Body) {
			t.Errorf("descriptor %d after a renewal that began with %d, %d was known", m.Trust.Descriptor.Seq, renewed.Trust.Descriptor.Seq, trust.Descriptor.Seq)
		}
	})
}
