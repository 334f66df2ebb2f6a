package esp

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// Flow of Open, for a whole batch at a time; the order is RFC 4303, Section 3.4
// and is law:
//
//	precheck   1 length  2 SPI  3 high sequence bits  4 window
//	transform  5 authenticate  6 decrypt
//	finish     7 padding  8 window again, and commit  9 inside  10 cut TFC padding

// Inbound is an SA that receives.
type Inbound struct {
	sa
	top atomic.Uint64 // window.top, to be read without mu

	mu     sync.Mutex // guards window; taken twice per batch, never across cryptography
	window window
}

// NewInbound makes a receiving SA. It copies what it needs of c.Keys.
func NewInbound(c Config) (*Inbound, error) {
	c = c.withDefaults()
	in := new(Inbound)
	if err := in.init(&c); err != nil {
		return nil, err
	}
	in.window = newWindow(c.Window, c.LastSeq)
	in.top.Store(c.LastSeq)
	return in, nil
}

// Open turns every ESP datagram of batch back into its inner IP packet, in
// place, and returns how many there are to deliver. It borrows the buffers. A
// delivered packet has DropNone; it is whole, authentic, new, and its addresses
// (Packet.Addrs) are still to be checked against what the peer may use. Open may
// be called concurrently.
func (in *Inbound) Open(now time.Time, batch []Packet) (n int, life Life) {
	for i := range batch {
		batch[i].reset()
	}
	// 0. An SA that has ended opens nothing.
	if !in.life.alive(now) {
		in.refuse(batch)
		return 0, LifeExpired
	}
	t := in.pool.get()
	if t == nil {
		in.refuse(batch)
		return 0, LifeExpired
	}
	defer in.pool.put(t)

	in.mu.Lock()
	for i := range batch {
		batch[i].Drop = in.precheck(&batch[i])
	}
	in.mu.Unlock()

	// 5. Authenticate, 6. decrypt.
	t.open(batch)

	return in.finish(batch), in.Life(now)
}

// Life returns the SA's state at now.
func (in *Inbound) Life(now time.Time) Life { return in.life.state(now, in.top.Load()) }

// LastSeq returns the highest sequence number that was authentic.
func (in *Inbound) LastSeq() uint64 { return in.top.Load() }

// precheck is what can be said before the ICV is checked; it only reads state.
// The caller holds mu.
func (in *Inbound) precheck(p *Packet) Drop {
	// 1. Length: header, IV, at least one block, ICV; whole blocks.
	if !p.inBounds() {
		return DropNoRoom
	}
	pkt := p.Bytes()
	if len(pkt) < in.spec.minLen() {
		return DropTooShort
	}
	if (len(pkt)-in.spec.headLen()-in.spec.icv)&(in.spec.align-1) != 0 {
		return DropMisaligned
	}
	// 2. SPI.
	if binary.BigEndian.Uint32(pkt) != in.spi {
		return DropUnknownSPI
	}
	// 3. High sequence bits.
	low := binary.BigEndian.Uint32(pkt[4:])
	p.Seq = uint64(low)
	if in.esn {
		var ok bool
		if p.Seq, ok = in.window.infer(low); !ok {
			return DropReplay
		}
	}
	// 4. Window: spare the cryptography for what is certainly old.
	if !in.window.fresh(p.Seq) {
		return DropReplay
	}
	return DropNone
}

// finish takes authentic plaintexts apart and counts everybody's verdict.
func (in *Inbound) finish(batch []Packet) (n int) {
	// 7. Padding.
	for i := range batch {
		if p := &batch[i]; p.Drop == DropNone {
			p.Drop = in.unpad(p)
		}
	}
	in.commit(batch)

	var total uint64
	for i := range batch {
		p := &batch[i]
		if p.Drop == DropNone {
			p.Drop = in.deliver(p)
		}
		if p.Drop != DropNone {
			in.stats.CountDrop(p.Drop)
			continue
		}
		n++
		total += uint64(p.Len)
	}
	in.stats.OpenedPackets.Add(uint64(n))
	in.stats.OpenedBytes.Add(total)
	return n
}

// unpad checks the padding, which is 1, 2, 3, ... (RFC 4303, Section 2.4), and
// reads the next header. The packet is authentic, so time may tell.
func (in *Inbound) unpad(p *Packet) Drop {
	body := in.body(p)
	padLen := int(body[len(body)-2])
	if padLen > len(body)-trailerLen {
		return DropPadding
	}
	pad := body[len(body)-trailerLen-padLen : len(body)-trailerLen]
	if !bytes.Equal(pad, padding[:padLen]) {
		return DropPadding
	}
	p.NextHeader = body[len(body)-1]
	return DropNone
}

// commit marks the authentic packets as seen, and books them.
func (in *Inbound) commit(batch []Packet) {
	// 8. Window again, and commit: another packet with the number, in this batch
	// or on another goroutine, may have come between. The lock makes check and
	// set one step. Nobody else writes the bytes of an inbound SA, so one store
	// is enough for all.
	in.mu.Lock()
	used := in.life.bytes.Load()
	for i := range batch {
		if p := &batch[i]; p.Drop == DropNone {
			p.Drop = in.commitOne(p, &used)
		}
	}
	in.life.bytes.Store(used)
	in.top.Store(in.window.top)
	in.mu.Unlock()
}

// commitOne books one packet against limits and window; used are the bytes
// booked so far. The caller holds mu.
func (in *Inbound) commitOne(p *Packet, used *uint64) Drop {
	if !in.window.fresh(p.Seq) {
		return DropReplay
	}
	// The sender should have stopped before these; if it did not, we do.
	n := uint64(len(in.body(p)))
	if p.Seq > in.life.hard.Packets || n > in.life.hard.Bytes-*used {
		in.life.expired.Store(true)
	}
	if in.life.expired.Load() {
		return DropExpired
	}
	*used += n
	p.Newest, _ = in.window.commit(p.Seq)
	return DropNone
}

// deliver checks the inside and makes Off and Len span the inner packet.
func (in *Inbound) deliver(p *Packet) Drop {
	body := in.body(p)
	payload := body[:len(body)-trailerLen-int(body[len(body)-2])]
	// 9. Inside: IP of the version that next header says, and complete.
	if p.NextHeader == nextDummy {
		return DropDummy
	}
	n, ok := innerLen(payload, p.NextHeader)
	if !ok {
		return DropInner
	}
	// 10. What is behind it is TFC padding.
	p.Off += in.spec.headLen()
	p.Len = n
	return DropNone
}

// body is the part between IV and ICV. It is valid until deliver moves Off.
func (in *Inbound) body(p *Packet) []byte {
	pkt := p.Bytes()
	return pkt[in.spec.headLen() : len(pkt)-in.spec.icv]
}
