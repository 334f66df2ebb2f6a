package port

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/underlay/simnet"
)

func TestReflectorIsNeitherAmplifierNorFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, err := simnet.New(simnet.Config{}).Listen(4500, addrA.Addr())
		if err != nil {
			t.Fatal(err)
		}
		ring := testRing(t, id.ID{1}, 1)
		p := New(conn, new(seal.Rings))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx, Handlers{}) }()
		r := NewReflector(p, ring)
		ask := func(room int) error {
			return r.Answer(seal.Opened{Type: seal.TypeReflect, Epoch: 1, Payload: ReflectQuery([8]byte{1}), Room: room}, addrB)
		}
		if err := ask(15); err != nil {
			t.Error(err)
		}
		answer, _ := AnswerReflect(ReflectQuery([8]byte{1}), addrB)
		_ = r.Answer(seal.Opened{Type: seal.TypeReflect, Epoch: 1, Payload: answer, Room: seal.PadQuery}, addrB)
		if n, _ := r.Counts(); n != 0 {
			t.Errorf("%d answers to a short query and to an answer", n)
		}
		for range 3 * networkBurst {
			_ = ask(seal.PadQuery)
		}
		if n, limited := r.Counts(); n != networkBurst || limited != 2*networkBurst {
			t.Errorf("of %d at once %d were answered, %d refused", 3*networkBurst, n, limited)
		}
		time.Sleep(time.Second)
		if err := ask(seal.PadQuery); err != nil {
			t.Errorf("a second later: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// testReflector returns a reflector, and a way to ask it from an address, as a
// member and as a super peer.
func testReflector(t *testing.T) (r *Reflector, ask func(from string) error, super func(from string) error) {
	t.Helper()
	conn, err := simnet.New(simnet.Config{}).Listen(4500, addrA.Addr(), netip.MustParseAddr("2001:db8:1::1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r = NewReflector(New(conn, new(seal.Rings)), testRing(t, id.ID{1}, 1))
	o := seal.Opened{Type: seal.TypeReflect, Epoch: 1, Payload: ReflectQuery([8]byte{1}), Room: seal.PadQuery}
	ask = func(from string) error { return r.Answer(o, netip.MustParseAddrPort(from)) }
	super = func(from string) error { return r.AnswerSuper(o, netip.MustParseAddrPort(from)) }
	return r, ask, super
}

// TestOneNetworkDoesNotUseUpReflection: whoever floods takes his network's part, in
// either address family, under as many addresses as it has.
func TestOneNetworkDoesNotUseUpReflection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, ask, super := testReflector(t)
		for i := range 5 * reflectBurst {
			_ = ask(fmt.Sprintf("198.51.100.%d:%d", i%250, 1024+i))
			_ = ask(fmt.Sprintf("[2001:db8:0:%x::%x]:4500", i%250, i))
		}
		if n, _ := r.Counts(); n != 2*networkBurst {
			t.Errorf("two networks were answered %d times, want %d", n, 2*networkBurst)
		}
		for _, other := range []string{"192.0.2.7:4500", "[::ffff:192.0.2.8]:4500", "[2001:db8:0:100::1]:4500"} {
			if err := ask(other); err != nil {
				t.Errorf("%s: %v", other, err)
			}
		}
		for i := range 20 * networkBurst {
			_ = ask(fmt.Sprintf("203.0.%d.1:4500", i%20))
		}
		if err := ask("192.0.2.7:4500"); err == nil {
			t.Error("the limit of all networks together is not kept")
		}
		for range reservedBurst {
			if err := super("192.0.2.1:4500"); err != nil {
				t.Fatalf("a super peer's probe: %v", err)
			}
		}
		if super("192.0.2.1:4500") == nil {
			t.Error("who forges a super peer's address has no limit")
		}
		if err := super("192.0.2.2:4500"); err != nil {
			t.Errorf("another super peer's probe: %v", err)
		}
	})
}

// TestReflectionTellsABoundedNumberOfNetworksApart: forged source addresses fill a
// table that stays small, and that is empty again a moment later.
func TestReflectionTellsABoundedNumberOfNetworksApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, ask, _ := testReflector(t)
		for i := range 4 * maxBuckets {
			_ = ask(fmt.Sprintf("10.%d.%d.1:4500", i/256, i%256))
		}
		if n := len(r.networks.of); n > maxBuckets+1 {
			t.Errorf("%d networks are told apart", n)
		}
		time.Sleep(10 * time.Second)
		_ = ask("192.0.2.7:4500")
		if n := len(r.networks.of); n != 1 {
			t.Errorf("%d networks are remembered when all have been quiet", n)
		}
	})
}
