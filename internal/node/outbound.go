package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"icvpn/esp"
	"icvpn/internal/filter"
	"icvpn/internal/underlay"
	"icvpn/tun"
)

// The way out:
//
//	TUN ─> outboundLoop ─> routes ─> tunnel.send ─> sendLoop ─> filter ─> Seal ─> port
//	            │ unknown address: unrouted, read the directory
//	            └ no SA: staged, connect

// outboundLoop reads packets from the TUN device until it is closed.
func (n *Node) outboundLoop(ctx context.Context) error {
	size := n.device.BatchSize()
	own := make([]*buffer, size)
	bufs, sizes := make([][]byte, size), make([]int, size)
	for i := range own {
		own[i] = newBuffer()
		bufs[i] = own[i][:esp.Headroom+maxInner]
	}
	for {
		got, err := n.device.Read(bufs, sizes, esp.Headroom)
		if errors.Is(err, tun.ErrClosed) {
			if ctx.Err() == nil { // not by us
				return fmt.Errorf("node: interface %s was removed while icvpn was using it; start icvpn again", n.device.Name())
			}
			return nil
		}
		if err != nil {
			return err
		}
		n.route(own[:got], sizes[:got])
		for i := range got { // route took them
			own[i] = newBuffer()
			bufs[i] = own[i][:esp.Headroom+maxInner]
		}
	}
}

// route hands packets to their tunnels, runs of one destination together. It
// takes bufs.
func (n *Node) route(bufs []*buffer, sizes []int) {
	var b *batch
	var to *tunnel
	flush := func() {
		if b != nil {
			to.send(b)
			b = nil
		}
	}
	for i, buf := range bufs {
		pkt := buf[esp.Headroom : esp.Headroom+sizes[i]]
		t := n.destination(pkt, buf, sizes[i])
		if t == nil {
			continue
		}
		if t.out.Load() == nil {
			t.stage(buf, sizes[i])
			n.wantTunnel(t)
			continue
		}
		if t != to || b != nil && b.full() {
			flush()
			to = t
		}
		if b == nil {
			b = newBatch()
		}
		b.add(buf, esp.Headroom, sizes[i])
	}
	flush()
}

// destination returns the tunnel a packet goes to. A packet without one is
// consumed: kept until the directory was read, or dropped.
func (n *Node) destination(pkt []byte, buf *buffer, size int) *tunnel {
	_, dst, ok := filter.Endpoints(pkt)
	if !ok || !n.inService(dst) {
		n.stats.notOurs.Add(1)
		buffers.Put(buf)
		return nil
	}
	if t := n.peer(dst); t != nil {
		return t
	}
	n.unrouted.add(dst, buf, size, time.Now())
	n.wantDirectory()
	return nil
}

// inService says whether an address belongs to the overlay: there is no other
// way out of the TUN device.
func (n *Node) inService(a netip.Addr) bool { return n.prefix4.Contains(a) || n.prefix6.Contains(a) }

// sendLoop seals and sends one tunnel's batches.
func (t *tunnel) sendLoop(ctx context.Context, in *queue) { in.serve(ctx, t.sendBatch) }

// sendBatch checks, seals and sends. It borrows b.
func (t *tunnel) sendBatch(b *batch) {
	now := time.Now()
	pair, o := t.pair.Load(), t.out.Load()
	if o == nil || pair == nil {
		t.node.stats.noSA.Add(uint64(b.n))
		return
	}
	b.keep(func(p *esp.Packet) bool {
		if pair.Outbound(p.Bytes(), now) {
			return true
		}
		t.node.stats.filteredOut.Add(1)
		t.node.reject(p.Bytes())
		return false
	})
	if b.n == 0 {
		return
	}
	t.stats.lastData.Store(now.UnixNano())
	t.transmit(now, b, o)
}

// transmit seals what is in b and sends it.
func (t *tunnel) transmit(now time.Time, b *batch, o *outbound) {
	_, life := o.sa.Seal(now, b.packets())
	if life != esp.LifeFresh {
		t.node.lifeEnds(t)
	}
	sealed, bytes := 0, 0
	for i := range b.packets() {
		p := &b.pkts[i]
		if p.Drop != esp.DropNone {
			continue
		}
		b.msgs[sealed] = underlay.Message{Buf: p.Bytes(), N: p.Len, Addr: o.path}
		sealed++
		bytes += p.Len
	}
	if sealed == 0 {
		return
	}
	if _, err := t.node.port.WriteESP(b.msgs[:sealed]); err != nil {
		return // closed: we are leaving
	}
	t.stats.txPackets.Add(uint64(sealed))
	t.stats.txBytes.Add(uint64(bytes))
	t.stats.lastTx.Store(now.UnixNano())
	if !t.armed.Swap(true) {
		select {
		case t.node.awake <- struct{}{}: // watch whether the peer answers
		default:
		}
	}
}
