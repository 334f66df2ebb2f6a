package overlay

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/id"
)

// Anybody may have named an address to begin at. Only those of super peers are asked
// more than whether somebody is there, before anybody answered.
func TestBootstrapAddressGetsNoMoreThanPings(t *testing.T) {
	super, named := at(2), at(3)
	m, err := NewMachine(Config{
		Self: id.Hash("m"), Rand: rand.NewPCG(1, 2),
		Bootstrap: func() []netip.AddrPort { return []netip.AddrPort{super, named} },
		Replicas:  func() []netip.AddrPort { return []netip.AddrPort{super} },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Start(day)
	largest := map[netip.AddrPort]int{}
	for now := day; now.Before(day.Add(10 * time.Minute)); now = now.Add(100 * time.Millisecond) {
		if now.Second() == 0 {
			m.Put(signed("", 1, "x"), func(int, error) {})
			m.Get(signed("", 1, "x").Key, nil, func(Item, int, error) {})
		}
		m.Tick(now)
		m.Flush(func(d Datagram) error {
			largest[d.To] = max(largest[d.To], PaddedLen(d.Pkt))
			return nil
		})
	}
	if n := largest[named]; n == 0 || n > 100 {
		t.Errorf("an address that somebody named gets %d bytes at once", n)
	}
	if largest[super] != MaxPayload {
		t.Errorf("a super peer gets %d bytes", largest[super])
	}
}
