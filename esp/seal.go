package esp

import (
	"encoding/binary"
	"sync/atomic"
	"time"
)

// Flow of Seal, for a whole batch at a time:
//
//	measure   which packets have room and are IP, how long their ciphertext is
//	admit     book their bytes against the hard limit
//	number    book sequence numbers, write header, padding and trailer
//	transform IV, ciphertext, ICV

// Outbound is an SA that sends.
type Outbound struct {
	sa
	seq atomic.Uint64 // last number used
}

// NewOutbound makes a sending SA. It copies what it needs of c.Keys.
func NewOutbound(c Config) (*Outbound, error) {
	c = c.withDefaults()
	o := new(Outbound)
	if err := o.init(&c); err != nil {
		return nil, err
	}
	o.seq.Store(c.LastSeq)
	return o, nil
}

// Seal turns every inner IP packet of batch into an ESP datagram, in place, and
// returns how many succeeded. It borrows the buffers. Each packet needs Headroom
// before it and Tailroom plus its TFC after it; its Drop tells what became of
// it. Numbers are given in the order of the batch. Seal may be called
// concurrently.
func (o *Outbound) Seal(now time.Time, batch []Packet) (n int, life Life) {
	for i := range batch {
		batch[i].reset()
		o.measureInner(&batch[i])
	}
	return o.seal(now, batch)
}

// SealDummy turns every buffer of batch into a dummy packet with size bytes of
// payload (RFC 4303, Section 2.6): it proves that we hold the keys, and to an
// observer it is a packet like any other. What was in the buffers is lost.
func (o *Outbound) SealDummy(now time.Time, batch []Packet, size int) (n int, life Life) {
	for i := range batch {
		p := &batch[i]
		p.reset()
		p.NextHeader, p.TFC = nextDummy, 0
		if size < 0 || size > len(p.Buf)-Headroom-Tailroom {
			o.drop(p, DropNoRoom)
			continue
		}
		p.Off, p.Len = Headroom, size
		clear(p.Bytes())
	}
	return o.seal(now, batch)
}

// Life returns the SA's state at now.
func (o *Outbound) Life(now time.Time) Life { return o.life.state(now, o.seq.Load()) }

// LastSeq returns the last sequence number used.
func (o *Outbound) LastSeq() uint64 { return o.seq.Load() }

// measureInner drops what is not one whole IP packet with room around it.
func (o *Outbound) measureInner(p *Packet) {
	if !p.inBounds() || p.Off < o.spec.headLen() || p.TFC < 0 || p.TFC > len(p.Buf) ||
		o.spec.cipherLen(p.Len+p.TFC)+o.spec.icv > len(p.Buf)-p.Off {
		o.drop(p, DropNoRoom)
		return
	}
	b := p.Bytes()
	nh, ok := nextHeaderOf(b)
	if !ok {
		o.drop(p, DropInner)
		return
	}
	if n, ok := innerLen(b, nh); !ok || n != len(b) {
		o.drop(p, DropInner)
		return
	}
	p.NextHeader = nh
}

// seal does the rest for packets that are measured.
func (o *Outbound) seal(now time.Time, batch []Packet) (n int, life Life) {
	if !o.life.alive(now) {
		o.refuse(batch)
		return 0, LifeExpired
	}
	t := o.pool.get()
	if t == nil {
		o.refuse(batch)
		return 0, LifeExpired
	}
	defer o.pool.put(t)
	n = o.number(batch, o.admit(batch))
	t.seal(batch)
	return n, o.Life(now)
}

// admit books the batch's ciphertext and returns how many packets may be sent.
// If the limit is reached inside the batch, the rest of it is dropped.
func (o *Outbound) admit(batch []Packet) (n uint64) {
	var total uint64
	for i := range batch {
		if batch[i].Drop == DropNone {
			total += o.cipherBytes(&batch[i])
			n++
		}
	}
	if o.life.takeBytes(total) {
		return n
	}
	n = 0
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		if !o.life.takeBytes(o.cipherBytes(p)) {
			o.life.expired.Store(true)
			o.refuse(batch[i:])
			break
		}
		n++
	}
	return n
}

// number gives the admitted packets their sequence numbers and frames them. It
// returns how many got one.
func (o *Outbound) number(batch []Packet, n uint64) (framed int) {
	first, got := o.take(n)
	var packets, bytes, dummies uint64
	for i := range batch {
		p := &batch[i]
		if p.Drop != DropNone {
			continue
		}
		if uint64(framed) == got {
			// The counter is used up. It never wraps (RFC 4303, Section 3.3.3).
			o.life.expired.Store(true)
			o.refuse(batch[i:])
			break
		}
		p.Seq = first + uint64(framed)
		framed++
		if p.NextHeader == nextDummy {
			dummies++
		} else {
			packets, bytes = packets+1, bytes+uint64(p.Len)
		}
		o.frame(p)
	}
	o.stats.SealedPackets.Add(packets)
	o.stats.SealedBytes.Add(bytes)
	o.stats.SealedDummies.Add(dummies)
	return framed
}

// take reserves up to n numbers in a row and returns the first.
func (o *Outbound) take(n uint64) (first, got uint64) {
	for {
		last := o.seq.Load()
		got = 0
		if last < o.life.hard.Packets {
			got = min(n, o.life.hard.Packets-last)
		}
		if got == 0 || o.seq.CompareAndSwap(last, last+got) {
			return last + 1, got
		}
	}
}

// frame writes SPI, sequence number, TFC padding, padding and trailer around the
// inner packet, and makes Off and Len span the datagram.
func (o *Outbound) frame(p *Packet) {
	head := o.spec.headLen()
	body := int(o.cipherBytes(p))
	start, payload := p.Off-head, p.Len
	p.Off, p.Len = start, head+body+o.spec.icv

	pkt := p.Bytes()
	binary.BigEndian.PutUint32(pkt, o.spi)
	binary.BigEndian.PutUint32(pkt[4:], uint32(p.Seq))
	tail := pkt[head+payload : head+body]
	clear(tail[:p.TFC])
	padLen := copy(tail[p.TFC:len(tail)-trailerLen], padding[:])
	tail[len(tail)-2] = byte(padLen)
	tail[len(tail)-1] = p.NextHeader
}

// cipherBytes is the length of the packet's ciphertext; the packet is not framed
// yet.
func (o *Outbound) cipherBytes(p *Packet) uint64 {
	return uint64(o.spec.cipherLen(p.Len + p.TFC))
}
