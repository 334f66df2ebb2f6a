package overlay_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2/krpc"

	"icvpn/internal/id"
	"icvpn/overlay"
	"icvpn/overlay/overlaytest"
)

var hostileHost = netip.MustParseAddr("10.200.0.1")

// eclipse is a hostile member with as many friends as it wants, each nearer to
// whatever is asked for than anybody, all of which answer and name more of them.
func (c *cluster) eclipse(self id.ID) *member {
	const friends = 300
	ip := hostileHost
	as16 := ip.As16()
	friend := func(i int, target krpc.ID) krpc.NodeInfo {
		binary.BigEndian.PutUint32(target[16:], binary.BigEndian.Uint32(target[16:])^uint32(friends-i+1))
		return krpc.NodeInfo{ID: target, Addr: krpc.NodeAddr{IP: as16[:], Port: 4500 + i}}
	}
	var first *member
	for i := range friends {
		m := c.hostileAt(netip.AddrPortFrom(ip, uint16(4500+i)), self, func(q *krpc.Msg, _ netip.AddrPort) *krpc.Return {
			r := withToken(&krpc.Return{})
			if q.Q != "get" {
				return r
			}
			if i > 0 {
				r.ID = friend(i, q.A.Target).ID
			}
			for j := i + 1; j < min(i+9, friends); j++ {
				r.Nodes6 = append(r.Nodes6, friend(j, q.A.Target))
			}
			return r
		})
		if i == 0 {
			first = m
		}
	}
	return first
}

// One member near the start of a path, with any number of friends, hides next to no
// item from a lookup over two paths, even if no replica helps; it does from one path.
// Keys and nodes are drawn anew each time, and of some 700 lookups over two paths or
// three one or two found nothing: so one of 12 may.
func TestEclipseOfOnePathHidesNothing(t *testing.T) {
	for paths, hidden := range map[int]bool{1: true, 2: false, 3: false} {
		t.Run(fmt.Sprintf("paths=%d", paths), func(t *testing.T) {
			nobody := func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return nil } }
			inBubble(t, 60, nobody, func(t *testing.T, c *cluster) {
				// The hostile member answers first.
				c.net.Change(func(l *overlaytest.Link) {
					l.Delay, l.Jitter = 20*time.Millisecond, 0
					l.Tamper = func(pkt []byte, from, to netip.AddrPort) []byte {
						if from.Addr() != hostileHost {
							return pkt
						}
						c.net.Pass(pkt, from, to)
						return nil
					}
				})
				const items = 12
				missed, asked := 0, 0
				for i := range items {
					it := overlay.SignItem(newKey(t), nil, 1, []byte("here"))
					mustPut(t, c.nodes[i], it)
					// A reader that is new and knows few; its nearest contact is hostile.
					m := c.eclipse(overlay.Target(it.Key, nil))
					few := []netip.AddrPort{m.addr, c.nodes[20].Addr, c.nodes[21].Addr}
					reader := c.add(func(cfg *overlay.Config) {
						nobody(cfg)
						cfg.Paths = paths
						cfg.Bootstrap = func() []netip.AddrPort { return few }
					})
					time.Sleep(time.Second)
					got, err := reader.Get(t.Context(), it.Key, nil)
					switch {
					case errors.Is(err, overlay.ErrNotFound):
						missed++
					case err != nil || string(got.Value) != "here":
						t.Errorf("Get: %q, %v", got.Value, err)
					}
					asked += m.count("get")
					reader.Stop()
				}
				t.Logf("%d of %d items hidden", missed, items)
				if hidden && missed == 0 || !hidden && missed > 1 {
					t.Errorf("%d of %d items hidden", missed, items)
				}
				if asked < items {
					t.Errorf("the hostile member was asked %d times", asked)
				}
			})
		})
	}
}

// A put over two paths leaves copies with honest nodes near the target, whatever
// one path was told.
func TestEclipsedPutReachesHonestNodes(t *testing.T) {
	nobody := func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return nil } }
	inBubble(t, 40, nobody, func(t *testing.T, c *cluster) {
		it := overlay.SignItem(newKey(t), nil, 1, []byte("here"))
		m := c.eclipse(overlay.Target(it.Key, nil))
		few := []netip.AddrPort{m.addr, c.nodes[20].Addr, c.nodes[21].Addr}
		writer := c.add(func(cfg *overlay.Config) {
			nobody(cfg)
			cfg.Bootstrap = func() []netip.AddrPort { return few }
		})
		time.Sleep(time.Second)
		if acks, err := writer.Put(t.Context(), it); err != nil || acks < 5 {
			t.Fatalf("Put: %d, %v", acks, err)
		}
		writer.Stop()
		for _, n := range c.nodes[:10] {
			mustGet(t, n, it)
		}
	})
}

// When the replica that is asked is silent, the next one is, within the same get.
func TestSilentReplicaGivesWayToTheNext(t *testing.T) {
	replicas := []netip.AddrPort{overlaytest.Addr(0), overlaytest.Addr(1), overlaytest.Addr(2)}
	all := func(cfg *overlay.Config) { cfg.Replicas = func() []netip.AddrPort { return replicas } }
	inBubble(t, 40, all, func(t *testing.T, c *cluster) {
		it := overlay.SignItem(newKey(t), nil, 1, []byte("kept"))
		c.net.Change(split(func(a netip.AddrPort) bool { return a == replicas[2] }))
		if acks, err := c.nodes[2].Put(t.Context(), it); acks != 1 || !errors.Is(err, overlay.ErrUnreachable) {
			t.Fatalf("put on an island: %d, %v", acks, err)
		}
		c.net.Change(heal)
		c.nodes[0].Stop()
		c.nodes[1].Stop()
		for _, n := range c.nodes[30:] {
			mustGet(t, n, it)
		}
	})
}
