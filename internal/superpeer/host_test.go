package superpeer

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/admission"
	"icvpn/internal/filter"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/owner/ownertest"
	"icvpn/internal/service"
	"icvpn/internal/underlay/simnet"
)

// newTestHost makes a host of one super peer each of services with these names,
// all with the same addresses. They do not run.
func newTestHost(t testing.TB, tcp net.Listener, names ...string) (*Host, []*gate) {
	t.Helper()
	udp, err := simnet.New(simnet.Config{}).Listen(4500, netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	log := slog.New(slog.DiscardHandler)
	h := NewHost(udp, tcp, log)
	var gates []*gate
	for _, name := range names {
		svc := newTestService(t, name)
		s, err := h.Add(Config{HandOver: handOverOf(t, svc, 0), Ledger: new(ledger.Memory), Log: log, Slots: 1, ABE: keysOf(t)})
		if err != nil {
			t.Fatal(err)
		}
		gates = append(gates, &gate{SuperPeer: s, svc: svc, name: service.ServerName(s.authority.self().Key)})
	}
	return h, gates
}

func newTestService(t testing.TB, name string) *owner.Service {
	t.Helper()
	svc := ownertest.Service(t, owner.Options{
		Name: name, Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"web", "app"}, SuperPeers: []string{"192.0.2.1:4500"},
		Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}}}, Now: time.Now(),
	})
	return svc
}

func handOverOf(t testing.TB, svc *owner.Service, i int) service.HandOver {
	t.Helper()
	key, err := owner.ParseKey(svc.Supers[i].Key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := service.OpenHandOver(svc.Supers[i].HandOver, key)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// atTheGates runs f beside the acceptLoop of a host of two services.
func atTheGates(t *testing.T, f func(t *testing.T, shop, wiki *gate)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		h, gates := newTestHost(t, p, "shop", "wiki")
		for _, g := range gates {
			g.pipes = p
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.all[0].acceptLoop(ctx) }()
		f(t, gates[0], gates[1])
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestServerNameChoosesTheService(t *testing.T) {
	atTheGates(t, func(t *testing.T, shop, wiki *gate) {
		for _, g := range []*gate{shop, wiki} {
			if err := g.admit(newcomerAt, nil); err != nil {
				t.Errorf("%s: %v", g.service.trust().Descriptor.Name, err)
			}
		}
		wiki.name = ""
		wantCode(t, "no name leads to the first service, a token of the second", wiki.admit(newcomerAt, nil), admission.CodeServiceUnknown)
		shop.name = ""
		if err := shop.admit(newcomerAt, nil); err != nil {
			t.Errorf("no name leads to the first service: %v", err)
		}
	})
}

func TestUnknownServerNameIsRefusedWithItsAlert(t *testing.T) {
	atTheGates(t, func(t *testing.T, shop, _ *gate) {
		for _, name := range []string{"00112233445566778899aabbccddeeff.icvpn", "example.net"} {
			shop.name = name
			_, err := shop.visit(newcomerAt, nil)
			var alert *net.OpError
			if !errors.As(err, &alert) || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := shop.door.running(); n != 0 {
			synctest.Wait()
			if n = shop.door.running(); n != 0 {
				t.Errorf("%d places kept", n)
			}
		}
	})
}

// TestTokenOfOneServiceIsRefusedByTheOther: its members, its secrets and its
// address block are its own, though ranges and roles are the same.
func TestTokenOfOneServiceIsRefusedByTheOther(t *testing.T) {
	atTheGates(t, func(t *testing.T, shop, wiki *gate) {
		if err := shop.admit(newcomerAt, nil); err != nil {
			t.Fatal(err)
		}
		stray := &gate{SuperPeer: wiki.SuperPeer, pipes: wiki.pipes, svc: shop.svc, name: wiki.name}
		wantCode(t, "token of shop at wiki", stray.admit(newcomerAt, nil), admission.CodeServiceUnknown)
		wantCode(t, "secret of shop at wiki", wiki.admit(newcomerAt, func(c *admission.ClientConfig) {
			c.SecretID, c.Secret = shop.svc.Tokens[0].Token.SecretID, shop.svc.Tokens[0].Token.Secret
		}), admission.CodeWrongSecret)
		pid := comer(shop.svc, "web", 1).who.PID
		if !shop.authority.isMember(pid) || wiki.authority.isMember(pid) {
			t.Error("the member of one is not the member of one only")
		}
	})
}

func TestCredentialOfOneServiceIsRefusedByTheOther(t *testing.T) {
	_, gates := newTestHost(t, listenLocal(t), "shop", "wiki")
	shop, wiki := gates[0], gates[1]
	g, err := comer(shop.svc, "web", 1).ask(t, shop.authority, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wiki.authority.trust().VerifyCredential(time.Now(), g.Credential, g.Epoch); err == nil || !strings.Contains(err.Error(), "another service") {
		t.Errorf("credential: %v", err)
	}
	k := shop.service.ring
	b, err := k.Seal(nil, time.Now(), 1, g.Epoch, []byte("hello"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if o, drop := wiki.rings.Open(time.Now(), b, newcomerAt); drop != 0 || o.Service != shop.svc.ID {
		t.Errorf("a datagram of shop opens as %v's (%v)", o.Service, drop)
	}
	if _, drop := wiki.service.ring.Open(time.Now(), b, newcomerAt); drop == 0 {
		t.Error("a datagram of shop opens under wiki's key")
	}
}

func TestHostRefusesOneServiceTwice(t *testing.T) {
	h, gates := newTestHost(t, listenLocal(t), "shop")
	_, err := h.Add(Config{HandOver: handOverOf(t, gates[0].svc, 0), Ledger: new(ledger.Memory), Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "two hand-overs are of service shop") {
		t.Error(err)
	}
}

// TestFloodOfOneServiceLeavesPlacesToTheOther: its machines come from more
// networks than the door tells apart.
func TestFloodOfOneServiceLeavesPlacesToTheOther(t *testing.T) {
	_, gates := newTestHost(t, listenLocal(t), "shop", "wiki")
	shop, wiki := gates[0].desk, gates[1].desk
	now, n := time.Now(), 0
	for i := range 4 * maxConnections {
		if shop.enter(now.Add(time.Duration(i)*time.Second), admission.Source{Addr: host(i)}) {
			n++
		}
	}
	if n != maxConnections-maxConnections/4 {
		t.Errorf("one service took %d places of %d", n, maxConnections)
	}
	for i := range maxConnections / 4 {
		if !wiki.enter(now.Add(time.Duration(i)*time.Second), admission.Source{Addr: host(i)}) {
			t.Fatalf("the other got %d", i)
		}
	}
	shop.leave()
	if !wiki.enter(now.Add(time.Hour), admission.Source{Addr: newcomerAt}) {
		t.Error("a place that was given back is nobody's")
	}
}

func TestRateOfOneServiceIsNotTheOthers(t *testing.T) {
	_, gates := newTestHost(t, listenLocal(t), "shop", "wiki")
	shop, wiki := gates[0].desk, gates[1].desk
	now, from := time.Now(), admission.Source{Addr: newcomerAt}
	for shop.enter(now, from) {
		shop.leave()
	}
	if !wiki.enter(now, from) {
		t.Error("a storm at one service used up the other's rate")
	}
}

// TestStepsOfOneServiceLeaveAWorkerToTheOther: with all of its workers at work
// and its queue full, one is told "busy", and the other admits.
func TestStepsOfOneServiceLeaveAWorkerToTheOther(t *testing.T) {
	atTheGates(t, func(t *testing.T, shop, wiki *gate) {
		release := make(chan struct{})
		for range cap(shop.desk.newcomers.slots) + maxQueue {
			go shop.desk.newcomers.do(t.Context(), false, func() { <-release })
		}
		synctest.Wait()
		wantCode(t, "flooded service", shop.admit(newcomerAt, nil), admission.CodeBusy)
		if err := wiki.admit(newcomerAt, nil); err != nil {
			t.Errorf("the other: %v", err)
		}
		close(release)
		synctest.Wait()
		if len(shop.desk.newcomers.slots) != 0 || shop.desk.newcomers.waiting.Load() != 0 {
			t.Error("workers lost")
		}
		if err := shop.admit(newcomerAt, nil); err != nil {
			t.Errorf("after the flood: %v", err)
		}
	})
}

func listenLocal(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
