package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"icvpn/esp"
	"icvpn/internal/datapath"
	"icvpn/internal/filter"
	"icvpn/internal/ippkt"
	"icvpn/tun"
)

// What the data path asks and tells a tunnel (datapath.Owner). Package datapath
// has the way of a packet; here is what only the node can decide:
//
//	out: no tunnel leads there ─> unrouted, read the directory
//	     the tunnel has no SA  ─> staged, connect
//	     access rules          ─> sent, or the sender told
//	in:  source, destination, access rules ─> delivered
//
// These methods run on goroutines of the data path, and also below the control
// loop when it injects a packet: none of them may wait for that loop.

var _ datapath.Owner = (*tunnel)(nil)

// deviceLoop reads packets from the TUN device until it is closed.
func (n *Node) deviceLoop(ctx context.Context) error {
	err := n.path.ReadLoop()
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the device was closed because we end
	}
	if err == nil || errors.Is(err, tun.ErrGone) { // gone, and not by us
		return fmt.Errorf("node: interface %s was removed while icvpn was using it; start icvpn again", n.device.Name())
	}
	return err
}

// routeTo implements datapath.Config.Route.
func (n *Node) routeTo(dst netip.Addr) *datapath.Tunnel {
	if t := n.way(dst); t != nil && n.inService(dst) {
		return t.path
	}
	return nil
}

// onUnrouted keeps a packet to whose destination there is no tunnel yet.
func (n *Node) onUnrouted(pkt []byte) {
	_, dst, ok := ippkt.Endpoints(pkt)
	if !ok || !n.inService(dst) {
		n.stats.notOurs.Add(1)
		return
	}
	n.unrouted.add(dst, pkt, time.Now())
	if n.listedAt(dst) == nil {
		n.wantDirectory(dst)
	} else if !n.retrying.Swap(true) { // it is to get a tunnel
		n.signal(func() {
			n.retrying.Store(false)
			n.retryUnrouted(time.Now())
		})
	}
}

// inService says whether an address belongs to the overlay: there is no other
// way out of the TUN device.
func (n *Node) inService(a netip.Addr) bool { return n.prefix4.Contains(a) || n.prefix6.Contains(a) }

// Outbound implements datapath.Owner: the access rules.
func (t *tunnel) Outbound(pkt []byte, now time.Time) bool {
	if pair := t.pair.Load(); pair != nil && pair.Outbound(pkt, now) {
		return true
	}
	t.node.stats.filteredOut.Add(1)
	t.node.reject(pkt)
	return false
}

// NoSA implements datapath.Owner: the packet waits for a tunnel.
func (t *tunnel) NoSA(pkt []byte) {
	t.stage(pkt)
	t.node.wantTunnel(t)
}

// Sealed implements datapath.Owner.
func (t *tunnel) Sealed(s datapath.Sealed) {
	if s.Sent > 0 {
		t.stats.lastData.Store(s.Now.UnixNano())
		t.stats.lastTx.Store(s.Now.UnixNano())
	}
	if s.Life != esp.LifeFresh { // after the use was noted: a pair in use gets a successor
		t.node.lifeEnds(t)
	}
	if s.TooLong > 0 && !t.tooLong.Swap(true) {
		t.node.signal(func() {
			t.tooLong.Store(false)
			t.node.onTooLong(t, s.TooLong)
		})
	}
	if s.Sent == 0 {
		return
	}
	if at := s.Now.UnixNano(); at-t.mtuLooked.Load() > int64(mtuLook) {
		t.mtuLooked.Store(at)
		t.node.signal(func() { t.node.tendMTU(t, time.Now()) })
	}
	if !t.armed.Swap(true) { // watch whether the peer answers
		t.node.signal(func() {
			if at := time.Now().Add(deadAfter); at.Before(t.node.upkeepAt) {
				t.node.upkeepAt = at
			}
		})
	}
}

// Opened implements datapath.Owner.
func (t *tunnel) Opened(o datapath.Opened) {
	if o.Authentic > 0 {
		t.stats.lastRx.Store(o.Now.UnixNano())
		t.heardOn()
	}
	if o.Dummy > 0 {
		t.sawDummy(o.SA, o.Dummy)
	}
	if o.Life != esp.LifeFresh {
		t.node.lifeEnds(t)
	}
}

// Inbound implements datapath.Owner. An inner packet may come from this peer if
// its source stands in the peer's credential, its destination is ours and the
// rules are in favour.
func (t *tunnel) Inbound(pkt []byte, now time.Time) bool {
	m, pair := t.member.Load(), t.pair.Load()
	src, dst, ok := ippkt.Endpoints(pkt)
	if m == nil || pair == nil || !ok {
		t.node.esp.CountDrop(esp.DropInner)
		return false
	}
	if src != m.Addr4() && src != t.address6 || !t.node.isOwn(dst) {
		t.node.esp.CountDrop(esp.DropSource)
		return false
	}
	if pair.Inbound(pkt, now) != filter.Pass {
		t.node.stats.filteredIn.Add(1)
		return false
	}
	if t.node.pings.answer(t, pkt, now) {
		return false
	}
	if at := now.UnixNano(); at-t.stats.lastData.Load() > int64(time.Millisecond) {
		t.stats.lastData.Store(at)
	}
	return true
}

// heardOn is told of every authentic batch; it is news while there is a pair that
// was not heard.
func (t *tunnel) heardOn() {
	if t.unheard.Load() == 0 || t.hearing.Swap(true) {
		return
	}
	t.node.signal(func() {
		t.hearing.Store(false) // before looking, so that no packet is overlooked
		t.node.confirmHeard(t)
	})
}

// signal runs f on the control loop, soon. It never waits. Each caller sees to it
// that one of its kind at most is under way for each tunnel.
func (n *Node) signal(f func()) {
	n.signals.mu.Lock()
	n.signals.list = append(n.signals.list, f)
	n.signals.mu.Unlock()
	select {
	case n.awake <- struct{}{}:
	default:
	}
}

// onSignals runs what signal was given. Control loop only.
func (n *Node) onSignals() {
	n.signals.mu.Lock()
	list := n.signals.list
	n.signals.list = nil
	n.signals.mu.Unlock()
	for _, f := range list {
		f()
	}
}
