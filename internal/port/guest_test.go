package port

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
)

// TestGuestGetsWhatNoRingClaims: two services on one socket, each with a port of
// its own, and neither reads the other's datagrams.
func TestGuestGetsWhatNoRingClaims(t *testing.T) {
	network := simnet.New(simnet.Config{})
	listen := func(a string) Conn {
		c, err := network.Listen(4500, netip.MustParseAddr(a))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	hostConn, far := listen("192.0.2.1"), listen("192.0.2.2")
	own, theirs := testRing(t, id.ID{1}, 1), testRing(t, id.ID{2}, 2)
	rings := func(r *seal.Ring) *seal.Rings { s := new(seal.Rings); s.Add(r); return s }
	host, guest := New(hostConn, rings(own)), NewGuest(hostConn)
	second := New(guest, rings(theirs))
	got := make(chan string, 8)
	say := func(who string) func(seal.Opened, netip.AddrPort) {
		return func(o seal.Opened, _ netip.AddrPort) { got <- who + " " + string(o.Payload) }
	}
	go host.Run(t.Context(), Handlers{Control: say("host"), Unclaimed: guest.Deliver})
	go second.Run(t.Context(), Handlers{Control: say("guest")})
	sender := New(far, new(seal.Rings))
	to := netip.MustParseAddrPort("192.0.2.1:4500")
	for ring, text := range map[*seal.Ring]string{testRing(t, id.ID{1}, 1): "one", testRing(t, id.ID{2}, 2): "two"} {
		if err := sender.SendControl(ring, seal.TypeDHT, seal.Newest, []byte(text), 0, to); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{<-got: true, <-got: true}
	if !seen["host one"] || !seen["guest two"] {
		t.Errorf("seen %v", seen)
	}
	guest.Close()
	if _, err := guest.WriteBatch(make([]underlay.Message, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed guest sends: %v", err)
	}
	for range 2 * guestQueue {
		guest.Deliver([]byte{0, 0, 0, 0, 9}, to) // nobody reads, nobody waits
	}
	if err := sender.SendControl(testRing(t, id.ID{1}, 1), seal.TypeDHT, seal.Newest, []byte("three"), 0, to); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-got:
		if s != "host three" {
			t.Error(s)
		}
	case <-time.After(10 * time.Second):
		t.Error("the host is closed, too")
	}
}
