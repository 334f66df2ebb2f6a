package superpeer

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/discovery"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/service"
	"icvpn/internal/underlay/simnet"
	"icvpn/internal/wire"
)

// TestServiceDocumentsAreInTheUniversalOverlay reads at one super peer what the
// other published, and verifies it against nothing but the ServiceID.
func TestServiceDocumentsAreInTheUniversalOverlay(t *testing.T) {
	_, svc := newTestSuper(t, new(ledger.Memory), nil)
	ctx, cancel := context.WithCancel(t.Context())
	network := simnet.New(simnet.Config{})
	var supers []*SuperPeer
	done := make(chan error, 2)
	for i, f := range svc.Supers {
		key, err := owner.ParseKey(f.Key)
		if err != nil {
			t.Fatal(err)
		}
		h, err := service.OpenHandOver(f.HandOver, key)
		if err != nil {
			t.Fatal(err)
		}
		udp, err := network.Listen(4500, netip.MustParseAddrPort(f.Endpoint).Addr())
		if err != nil {
			t.Fatal(err)
		}
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{HandOver: h, Ledger: new(ledger.Memory), UDP: udp, TCP: tcp, Log: slog.New(slog.DiscardHandler), Slots: 1, ABE: keysOf(t)})
		if err != nil {
			t.Fatalf("super peer %d: %v", i+1, err)
		}
		supers = append(supers, s)
		go func() { done <- s.Run(ctx) }()
	}
	defer func() {
		cancel()
		for range supers {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}()
	wait, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	for {
		b, _, err := supers[1].universe.overlay.GetObject(wait, supers[0].authority.self().Key, discovery.SaltService(svc.ID))
		if err != nil {
			if !sleep(wait, 50*time.Millisecond) {
				t.Fatalf("documents not found: %v", err)
			}
			continue
		}
		var docs service.Documents
		if err := wire.Unmarshal(b, &docs, service.MaxSigned); err != nil {
			t.Fatal(err)
		}
		if tr, err := service.Open(docs, svc.ID, 1, time.Now()); err != nil || tr.Descriptor.Name != "shop" {
			t.Fatalf("documents: %v", err)
		}
		return
	}
}
