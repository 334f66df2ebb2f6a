package node

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// unrouted are packets whose destination nobody in the directory has, until
// it was read again.
type unrouted struct {
	mu   sync.Mutex
	pkts []strayPacket
}

type strayPacket struct {
	dst  netip.Addr
	pkt  []byte
	came time.Time
}

// add keeps a packet, dropping the oldest when full. It borrows pkt.
func (u *unrouted) add(dst netip.Addr, pkt []byte, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.pkts) == maxUnrouted {
		u.pkts = u.pkts[1:]
	}
	u.pkts = append(u.pkts, strayPacket{dst, bytes.Clone(pkt), now})
}

// waiting are the destinations of packets that are kept.
func (u *unrouted) waiting(now time.Time) (all []netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range u.pkts {
		if now.Sub(p.came) < unroutedLife && !slices.Contains(all, p.dst) {
			all = append(all, p.dst)
		}
	}
	return all
}

// retryUnrouted routes what has a destination now and drops what has waited too long.
// Control loop only.
func (n *Node) retryUnrouted(now time.Time) {
	n.unrouted.mu.Lock()
	var keep []strayPacket
	found := map[*tunnel]bool{}
	for _, p := range n.unrouted.pkts {
		switch t := n.peer(p.dst); {
		case t != nil:
			t.stage(p.pkt)
			found[t] = true
		case now.Sub(p.came) < unroutedLife:
			keep = append(keep, p)
		default:
			n.stats.unknownPeer.Add(1)
		}
	}
	n.unrouted.pkts = keep
	n.unrouted.mu.Unlock()
	for t := range found {
		n.want(t, now)
	}
}
