package node

import (
	"context"
	"time"

	"icvpn/esp"
	"icvpn/internal/filter"
	"icvpn/internal/underlay"
	"icvpn/tun"
)

// The way in:
//
//	port ─> onESP ─> SAD ─> tunnel.receive ─> receiveLoop ─> Open ─> source ─> filter ─> TUN
//	          │ unknown SPI: counted, nothing else

// onESP hands a run of datagrams to their tunnels, those of one SA together.
// Called by the port's readers; it copies what it needs.
func (n *Node) onESP(ms []underlay.Message) {
	var b *batch
	var to *tunnel
	for i := range ms {
		for _, d := range ms[i].Datagrams() { // a train may be of several SAs
			sa, _ := n.sad.Find(d)
			if sa == nil {
				continue
			}
			if len(d) > bufSize {
				n.esp.CountDrop(esp.DropNoRoom)
				continue
			}
			t, ok := sa.Owner().(*tunnel)
			if !ok {
				continue
			}
			if b != nil && (b.sa != sa || b.full()) {
				to.receive(b)
				b = nil
			}
			if b == nil {
				b, to = newBatch(), t
				b.sa = sa
			}
			buf := newBuffer()
			copy(buf[:], d)
			b.add(buf, 0, len(d))
		}
	}
	if b != nil {
		to.receive(b)
	}
}

// receiveLoop opens one tunnel's batches and writes them to the TUN device.
func (t *tunnel) receiveLoop(ctx context.Context, in *queue) { in.serve(ctx, t.receiveBatch) }

// receiveBatch opens, checks and delivers. It borrows b.
func (t *tunnel) receiveBatch(b *batch) {
	now := time.Now()
	n, life := b.sa.Open(now, b.packets())
	if authentic(b.packets()) {
		t.stats.lastRx.Store(now.UnixNano())
		t.node.heardOn(t, b.sa)
	}
	if life != esp.LifeFresh {
		t.node.lifeEnds(t)
	}
	if n == 0 {
		return
	}
	t.deliver(now, b)
}

func authentic(ps []esp.Packet) bool {
	for i := range ps {
		if ps[i].Drop.Authentic() {
			return true
		}
	}
	return false
}

// deliver writes what may come in. All packets of a batch are of one suite, so
// all inner packets start at one offset.
func (t *tunnel) deliver(now time.Time, b *batch) {
	count, bytes := 0, 0
	for i := range b.packets() {
		p := &b.pkts[i]
		if p.Drop != esp.DropNone || !t.accept(now, p.Bytes()) {
			continue
		}
		bytes += p.Len
		if t.node.pings.answer(t, p.Bytes(), now) {
			continue
		}
		b.out[count] = p.Buf[p.Off-tun.Headroom : p.Off+p.Len]
		count++
	}
	t.stats.rxPackets.Add(uint64(b.n))
	t.stats.rxBytes.Add(uint64(bytes))
	if count == 0 {
		return
	}
	t.stats.lastData.Store(now.UnixNano())
	t.node.deviceMu.Lock()
	defer t.node.deviceMu.Unlock()
	if _, err := t.node.device.Write(b.out[:count], tun.Headroom); err != nil {
		return // closed: we are leaving
	}
}

// accept says whether an inner packet may come from this peer: its source in
// the peer's credential, its destination ours, and the rules in favour.
func (t *tunnel) accept(now time.Time, pkt []byte) bool {
	m, pair := t.member.Load(), t.pair.Load()
	src, dst, ok := filter.Endpoints(pkt)
	if m == nil || pair == nil || !ok {
		t.node.esp.CountDrop(esp.DropInner)
		return false
	}
	if src != m.Addr4() && src != t.node.address6(t.pid) || !t.node.isOwn(dst) {
		t.node.esp.CountDrop(esp.DropSource)
		return false
	}
	if pair.Inbound(pkt, now) != filter.Pass {
		t.node.stats.filteredIn.Add(1)
		return false
	}
	return true
}
