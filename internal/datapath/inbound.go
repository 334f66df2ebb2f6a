package datapath

import (
	"encoding/binary"
	"time"

	"icvpn/esp"
	"icvpn/internal/ippkt"
	"icvpn/internal/underlay"
)

// The way in:
//
//	reader ─> Receive ─> SAD ─> lane.claim ── small, or lone ──> openBatch, in the reader's buffer
//	                      │        └ else: own ─> queue ─> openBatch
//	                      └ unknown SPI: counted, Stray
//	openBatch ─> Open ─> Owner.Inbound ─> ECN, MSS ─> device

// Receive takes ESP datagrams and trains to their tunnels, those of one SA
// together. It borrows ms until it returns, except that it may exchange
// Message.Buf for another buffer of the same length. Several readers may call it
// at a time.
func (d *Datapath) Receive(ms []underlay.Message) {
	r := receiver{d: d, now: time.Now().UnixNano()}
	for i := range ms {
		r.message(&ms[i])
	}
	r.flush()
}

// receiver is one call of Receive: a batch in the making and the messages it
// borrows from.
type receiver struct {
	d   *Datapath
	now int64
	b   *batch
	to  *Tunnel
	n   int // parts
	of  [maxBatch]part
}

// part is a message and its packets in the batch.
type part struct {
	m     *underlay.Message
	first int  // index of its first packet
	whole bool // all its datagrams are in the batch
}

// message adds the datagrams of m.
func (r *receiver) message(m *underlay.Message) {
	count := m.Count()
	if count == 0 {
		return
	}
	if r.b != nil && r.b.n+count > maxBatch {
		r.flush() // a train is best kept together
	}
	step := m.Segment
	if step <= 0 {
		step = m.N
	}
	begun := false
	for off := 0; off < m.N; off += step {
		end := min(off+step, m.N)
		sa, drop := r.d.cfg.SAD.Find(m.Buf[off:end])
		if sa == nil {
			if drop == esp.DropUnknownSPI && r.d.cfg.Stray != nil {
				r.d.cfg.Stray(binary.BigEndian.Uint32(m.Buf[off:]), m.Addr, end-off)
			}
			continue
		}
		t, ok := sa.Owner().(*Tunnel)
		if !ok {
			continue
		}
		if r.b != nil && (r.b.sa != sa || r.b.n == maxBatch) {
			r.part(m, begun)
			r.flush()
			begun = false
		}
		if r.b == nil {
			r.b, r.to = r.d.mem.get(), t
			r.b.sa = sa
		}
		if !begun {
			begun = true
			r.of[r.n] = part{m: m, first: r.b.n, whole: off == 0}
			r.n++
		}
		r.b.from[r.b.n] = m.Addr
		r.b.add(m.Buf[:end:end], off, end-off, lent, m.TOS)
	}
}

// part notes, if m has packets in the batch, that more of them go elsewhere.
func (r *receiver) part(m *underlay.Message, begun bool) {
	if begun && r.of[r.n-1].m == m {
		r.of[r.n-1].whole = false
	}
}

// flush processes the batch here if that is quick, and queues it otherwise.
func (r *receiver) flush() {
	if r.b == nil {
		return
	}
	lone := r.d.company.lone(r.to, r.now)
	if r.to.in.claim(r.b.n, r.now, lone) {
		r.to.in.finish(r.b)
	} else {
		r.own()
		r.to.in.enqueue(r.b, lone)
	}
	r.b, r.n = nil, 0
}

// own makes the batch independent of the reader's buffers: long ones are taken
// in exchange, short datagrams copied, so that a queue of short ones does not
// hold 64 KiB for each.
func (r *receiver) own() {
	b := r.b
	for i := range r.n {
		pt, end := r.of[i], b.n
		if i+1 < r.n {
			end = r.of[i+1].first
		}
		m := pt.m
		switch {
		case pt.whole && end-pt.first == 1 && len(m.Buf) == r.d.mem.slot:
			p := &b.pkts[pt.first]
			p.Buf, m.Buf = m.Buf, r.d.mem.newSlot(b)
			b.mem[pt.first] = inSlot
		case pt.whole && m.N > copyMost:
			b.trains[b.ntrains] = m.Buf
			b.ntrains++
			m.Buf = r.d.mem.getTrain(len(m.Buf))
			for k := pt.first; k < end; k++ {
				b.mem[k] = inTrain
			}
		default:
			for k := pt.first; k < end; k++ {
				r.copy(k)
			}
		}
	}
}

// copy gives packet k memory of its own.
func (r *receiver) copy(k int) {
	p := &r.b.pkts[k]
	if p.Len > r.d.mem.slot {
		p.Buf, p.Off = append([]byte(nil), p.Bytes()...), 0
		r.b.mem[k] = inTrain // nobody's: the garbage collector has it
		return
	}
	slot := r.d.mem.newSlot(r.b)
	copy(slot, p.Bytes())
	p.Buf, p.Off = slot, 0
	r.b.mem[k] = inSlot
}

// openBatch opens, checks and delivers. It borrows b.
func (t *Tunnel) openBatch(b *batch) {
	now := time.Now()
	n, life := b.sa.Open(now, b.packets())
	o := Opened{Now: now, SA: b.sa, Life: life}
	for i := range b.packets() {
		p := &b.pkts[i]
		if !p.Drop.Authentic() {
			continue
		}
		o.Authentic++
		if p.Newest {
			o.From = b.from[i]
		}
		if p.Drop == esp.DropDummy {
			o.Dummy = max(o.Dummy, p.Len)
		}
	}
	t.owner.Opened(o)
	if n > 0 {
		t.deliver(b, now)
	}
}

// deliver gives what may come in to the device.
func (t *Tunnel) deliver(b *batch, now time.Time) {
	mtu := 0
	if w := t.way.Load(); w != nil && !t.policy.KeepMSS {
		mtu = w.MTU
	}
	n, bytes := 0, 0
	for i := range b.packets() {
		p := &b.pkts[i]
		if p.Drop != esp.DropNone || !t.accept(p.Bytes(), b.tos[i], mtu, now) {
			continue
		}
		b.out[n] = p.Bytes()
		n++
		bytes += p.Len
	}
	if n == 0 {
		return
	}
	t.stats.RxPackets.Add(uint64(n))
	t.stats.RxBytes.Add(uint64(bytes))
	t.d.write(b.out[:n])
	clear(b.out[:n])
}

// accept says whether an inner packet goes on, and changes what has to be
// changed. The TTL is not: the kernel that sends it on from the device does that
// (RFC 4301, Section 5.1.2).
func (t *Tunnel) accept(pkt []byte, outer uint8, mtu int, now time.Time) bool {
	if !t.owner.Inbound(pkt, now) {
		t.d.stats.Refused.Add(1)
		return false
	}
	if !ippkt.Decapsulate(pkt, outer) {
		t.d.stats.Congestion.Add(1)
		return false
	}
	if mtu > 0 && ippkt.ClampMSS(pkt, mtu) {
		t.d.stats.Clamped.Add(1)
	}
	return true
}
