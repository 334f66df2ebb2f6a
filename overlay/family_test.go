package overlay_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"

	"icvpn/internal/id"
	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

// mixed starts n nodes whose addresses are of the families that family says.
func mixed(t *testing.T, n int, family func(i int) func(int) netip.AddrPort) *cluster {
	c := &cluster{TB: t, net: overlaytest.New(1)}
	c.net.Change(func(l *overlaytest.Link) { l.Delay = 10 * time.Millisecond })
	c.setBootstrap(family(0)(0), family(1)(1))
	for i := range n {
		node, err := c.net.Start(family(i)(i), overlay.Config{Self: id.Hash("test node", fmt.Append(nil, i)), Bootstrap: c.bootstrap})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, node)
	}
	t.Cleanup(c.stop)
	time.Sleep(5 * time.Second)
	return c
}

// IPv6 contacts are met, handed on, asked, checked and forgotten like IPv4 ones.
func TestAddressFamilies(t *testing.T) {
	for name, family := range map[string]func(i int) func(int) netip.AddrPort{
		"IPv4": func(int) func(int) netip.AddrPort { return overlaytest.Addr },
		"IPv6": func(int) func(int) netip.AddrPort { return overlaytest.Addr6 },
		"both": func(i int) func(int) netip.AddrPort {
			if i%2 == 0 {
				return overlaytest.Addr
			}
			return overlaytest.Addr6
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, nil, func(t *testing.T, _ *cluster) {
				c := mixed(t, 24, family)
				for i := range 12 {
					it := overlay.SignItem(newKey(t), nil, 1, []byte("x"))
					if acks := mustPut(t, c.nodes[i], it); acks < 8 {
						t.Errorf("%d acknowledgements", acks)
					}
					mustGet(t, c.nodes[23-i], it)
				}
				gone := map[netip.AddrPort]bool{}
				for _, n := range c.nodes[20:] {
					gone[n.Addr] = true
					n.Stop()
				}
				time.Sleep(40 * time.Minute)
				for i, n := range c.nodes[:20] {
					families := map[bool]int{}
					for _, k := range n.Nodes() {
						families[k.Addr.Addr().Is4()]++
						if gone[k.Addr] {
							t.Errorf("node %d still hands out %v", i, k.Addr)
						}
					}
					if name == "both" && (families[true] == 0 || families[false] == 0) {
						t.Errorf("node %d knows %v", i, families)
					}
				}
			})
		})
	}
}

// A flood from one prefix does not silence a contact of the same prefix.
func TestFloodFromItsPrefixDoesNotSilenceAContact(t *testing.T) {
	for name, host := range map[string]func(i int) netip.AddrPort{
		"IPv4": func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 4500)
		},
		"IPv6": func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 6: 1, 7: byte(i), 15: 1}), 4500)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 2, func(c *overlay.Config) { c.AnswerRate = 50 }, func(t *testing.T, c *cluster) {
				neighbour, err := c.net.Start(host(250), overlay.Config{Self: id.Hash("neighbour"), Bootstrap: c.bootstrap})
				if err != nil {
					t.Fatal(err)
				}
				c.nodes = append(c.nodes, neighbour)
				time.Sleep(5 * time.Second)
				ping := bencode.MustMarshal(krpc.Msg{T: "x", Y: "q", Q: "ping", A: &krpc.MsgArgs{ID: krpc.ID(id.Hash("flood"))}})
				for range 20 {
					for i := range 200 {
						c.net.Inject(ping, host(i), c.nodes[0].Addr)
					}
					time.Sleep(50 * time.Millisecond)
					if _, err := neighbour.Ping(t.Context(), c.nodes[0].Addr); err != nil {
						t.Fatalf("the neighbour is silenced: %v", err)
					}
				}
				if c.nodes[0].Stats().Dropped(overlay.DropRate) == 0 {
					t.Error("nothing dropped for the rate")
				}
			})
		})
	}
}
