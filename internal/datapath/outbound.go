package datapath

import (
	"errors"
	"net/netip"
	"time"

	"icvpn/esp"
	"icvpn/internal/ippkt"
	"icvpn/internal/underlay"
	"icvpn/tun"
)

// The way out:
//
//	device ─> ReadLoop ─> route ─> lane.submit ─> sealBatch ─> prepare ─> transmit ─> Send
//	                        │ nobody there: Unrouted     └ filter, MSS, MTU, TOS, TFC

// ReadLoop reads packets from the device until it is closed. Run it on one
// goroutine.
func (d *Datapath) ReadLoop() error {
	size := min(d.cfg.Device.BatchSize(), maxBatch)
	slots, sizes := make([][]byte, size), make([]int, size)
	bufs := make([][]byte, size)
	for i := range slots {
		slots[i] = make([]byte, d.mem.slot)
		bufs[i] = slots[i][:esp.Headroom+d.maxInner]
	}
	for {
		n, err := d.cfg.Device.Read(bufs, sizes, esp.Headroom)
		if errors.Is(err, tun.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		d.route(slots[:n], sizes[:n], true)
		for i := range n { // route has exchanged some of them
			bufs[i] = slots[i][:esp.Headroom+d.maxInner]
		}
	}
}

// Inject sends a packet as if it had come from the device. It borrows pkt.
func (d *Datapath) Inject(pkt []byte) {
	if len(pkt) > d.maxInner {
		d.stats.TooLong.Add(1)
		return
	}
	slot := make([]byte, d.mem.slot)
	copy(slot[esp.Headroom:], pkt)
	d.route([][]byte{slot}, []int{len(pkt)}, false)
}

// route hands packets to their tunnels, runs of one tunnel together. Slots it
// gives away are replaced by others. Only a reader may be made to wait.
func (d *Datapath) route(slots [][]byte, sizes []int, mayWait bool) {
	now := time.Now().UnixNano()
	var b *batch
	var to *Tunnel
	var dst netip.Addr // of to
	for i, slot := range slots {
		pkt := slot[esp.Headroom : esp.Headroom+sizes[i]]
		_, at, ok := ippkt.Endpoints(pkt)
		if !ok {
			d.stats.NotIP.Add(1)
			continue
		}
		t := to
		if t == nil || at != dst {
			if t = d.cfg.Route(at); t == nil {
				d.unrouted(pkt)
				continue
			}
		}
		if t != to && b != nil {
			to.out.submit(b, now, mayWait && d.company.lone(to, now))
			b = nil
		}
		to, dst = t, at
		if b == nil {
			b = d.mem.get()
		}
		slots[i] = d.mem.newSlot(b)
		b.add(slot, esp.Headroom, sizes[i], inSlot, 0)
	}
	if b != nil {
		to.out.submit(b, now, mayWait && d.company.lone(to, now))
	}
}

func (d *Datapath) unrouted(pkt []byte) {
	d.stats.Unrouted.Add(1)
	if d.cfg.Unrouted != nil {
		d.cfg.Unrouted(pkt)
	}
}

// sealBatch checks, seals and sends. It borrows b.
func (t *Tunnel) sealBatch(b *batch) {
	w := t.way.Load()
	if w == nil {
		t.d.stats.NoSA.Add(uint64(b.n))
		for i := range b.packets() {
			t.owner.NoSA(b.pkts[i].Bytes())
		}
		return
	}
	now := time.Now()
	first, kept := 0, 0 // b.pkts[first:kept] are ready to go
	for i := range b.n {
		p := &b.pkts[i]
		switch t.prepare(p, w, now) {
		case goes:
			b.move(kept, i)
			b.tos[kept] = t.outerTOS(b.pkts[kept].Bytes())
			kept++
			continue
		case cut:
			t.transmit(b, first, kept, w, now)
			first = kept
			t.fragment(p, w, now)
		}
		b.discard(i)
	}
	b.n = kept
	t.transmit(b, first, kept, w, now)
}

// fate is what becomes of a packet on its way out.
type fate uint8

const (
	goes fate = iota
	cut       // in pieces
	ends
)

// prepare decides on a packet and changes what has to be changed.
func (t *Tunnel) prepare(p *esp.Packet, w *Way, now time.Time) fate {
	pkt := p.Bytes()
	if !t.owner.Outbound(pkt, now) {
		t.d.stats.Refused.Add(1)
		return ends
	}
	if w.MTU == 0 {
		p.TFC = t.padding(p, p.Len)
		return goes
	}
	if !t.policy.KeepMSS && ippkt.ClampMSS(pkt, w.MTU) {
		t.d.stats.Clamped.Add(1)
	}
	switch {
	case len(pkt) <= w.MTU:
		p.TFC = t.padding(p, w.MTU)
		return goes
	case t.policy.Oversize, ippkt.Is6(pkt) && len(pkt) <= ippkt.MinMTU6:
		return goes
	case ippkt.MayFragment(pkt) && w.MTU >= ippkt.MinFragment:
		return cut
	}
	t.d.stats.TooLong.Add(1)
	t.d.tooBig(pkt, w.MTU, now)
	return ends
}

// padding returns the TFC padding of a packet that may become as long as most.
func (t *Tunnel) padding(p *esp.Packet, most int) int {
	want := p.Len
	switch {
	case t.policy.Pad == PadToMTU:
		want = most
	case t.policy.Pad > 1:
		want = min((p.Len+t.policy.Pad-1)/t.policy.Pad*t.policy.Pad, most)
	}
	room := len(p.Buf) - p.Off - p.Len - esp.Tailroom
	return max(0, min(want-p.Len, room))
}

// outerTOS returns DSCP and ECN of the outer header.
func (t *Tunnel) outerTOS(pkt []byte) uint8 {
	inner := ippkt.TrafficClass(pkt)
	if t.policy.CopyDSCP {
		return inner&^underlay.ECNMask | ippkt.Encapsulate(inner)
	}
	return t.policy.DSCP<<2 | ippkt.Encapsulate(inner)
}

// fragment sends a packet in pieces.
func (t *Tunnel) fragment(p *esp.Packet, w *Way, now time.Time) {
	b := t.d.mem.get()
	defer t.d.mem.put(b)
	pieces := ippkt.Fragment(p.Bytes(), w.MTU, func(n int) []byte {
		if b.n == maxBatch || n > t.d.maxInner {
			return nil
		}
		slot := t.d.mem.newSlot(b)
		b.add(slot, esp.Headroom, n, inSlot, t.outerTOS(p.Bytes()))
		return slot[esp.Headroom : esp.Headroom+n]
	})
	if pieces == 0 {
		t.d.stats.TooLong.Add(1)
		return
	}
	t.d.stats.Fragmented.Add(1)
	t.transmit(b, 0, b.n, w, now)
}

// transmit seals packets first to end of b and sends them.
func (t *Tunnel) transmit(b *batch, first, end int, w *Way, now time.Time) {
	if first == end {
		return
	}
	s := Sealed{Now: now}
	n, bytes := 0, 0
	for i := first; i < end; i++ {
		bytes += b.pkts[i].Len
	}
	_, s.Life = w.SA.Seal(now, b.pkts[first:end])
	for i := first; i < end; i++ {
		p := &b.pkts[i]
		if p.Drop != esp.DropNone {
			bytes -= p.Len // left as it was
			continue
		}
		b.send[n] = underlay.Message{Buf: p.Bytes(), N: p.Len, Addr: w.Path, TOS: b.tos[i]}
		n++
	}
	if n > 0 {
		var err error
		if s.Sent, err = t.d.cfg.Send(b.send[:n]); err != nil {
			return // closed: we are leaving
		}
		if s.Sent < n {
			s.TooLong = refused(b.send[:n])
			t.d.stats.NotSent.Add(uint64(n - s.Sent))
		}
		clear(b.send[:n])
		t.stats.TxPackets.Add(uint64(s.Sent))
		t.stats.TxBytes.Add(uint64(bytes))
	}
	t.owner.Sealed(s)
}

// refused returns the length of the shortest message that was too long.
func refused(ms []underlay.Message) (shortest int) {
	for i := range ms {
		if errors.Is(ms[i].Err, underlay.ErrTooLong) && (shortest == 0 || ms[i].N < shortest) {
			shortest = ms[i].N
		}
	}
	return shortest
}
