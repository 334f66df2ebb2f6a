package datapath

import (
	"net/netip"
	"sync"

	"icvpn/esp"
	"icvpn/internal/underlay"
)

// memory says whose the bytes of a packet are.
type memory uint8

const (
	inSlot  memory = iota // in a slot that the packet owns: Packet.Buf is all of it
	inTrain               // in one of the batch's receive buffers
	lent                  // in a reader's buffer, until the reader's call returns
)

// batch is packets of one tunnel on their way in one direction. Whoever holds
// it owns it and what its packets own.
type batch struct {
	next *batch // in a lane
	sa   *esp.Inbound

	n    int
	pkts [maxBatch]esp.Packet
	mem  [maxBatch]memory
	tos  [maxBatch]uint8          // of the outer header: in, as received; out, to be sent
	from [maxBatch]netip.AddrPort // in: source of the datagram

	// free are slots without a packet. A slot given away is paid for with one of
	// these, so that slots circulate with the batches and no pool of single slots
	// is asked for each packet.
	nfree int
	free  [maxBatch][]byte

	// trains are receive buffers that came in exchange for others.
	ntrains int
	trains  [maxBatch][]byte

	send [maxBatch]underlay.Message // scratch of the sender
	out  [maxBatch][]byte           // scratch of the writer to the device
}

// pools are a Datapath's memory. They grow with the load, and the garbage
// collector takes back what lies idle.
type pools struct {
	slot    int // bytes
	batches sync.Pool
	trains  sync.Pool // of *[]byte
}

func (p *pools) init(slot int) {
	p.slot = slot
	p.batches.New = func() any { return new(batch) }
}

// get returns an empty batch.
func (p *pools) get() *batch { return p.batches.Get().(*batch) }

// put takes the batch back. The caller may not touch it again.
func (p *pools) put(b *batch) {
	for i := range b.n {
		b.discard(i)
	}
	for i := range b.ntrains {
		p.putTrain(b.trains[i])
		b.trains[i] = nil
	}
	b.n, b.ntrains, b.sa, b.next = 0, 0, nil, nil
	p.batches.Put(b)
}

// newSlot returns memory for a packet: one of the batch's or a new one.
func (p *pools) newSlot(b *batch) []byte {
	if b.nfree == 0 {
		return make([]byte, p.slot)
	}
	b.nfree--
	s := b.free[b.nfree]
	b.free[b.nfree] = nil
	return s
}

// getTrain returns a receive buffer of that size.
func (p *pools) getTrain(size int) []byte {
	if t, ok := p.trains.Get().(*[]byte); ok && len(*t) == size {
		return *t
	}
	return make([]byte, size)
}

func (p *pools) putTrain(t []byte) { p.trains.Put(&t) }

// discard gives packet i's memory up. The caller removes the packet.
func (b *batch) discard(i int) {
	p := &b.pkts[i]
	if b.mem[i] == inSlot && b.nfree < maxBatch {
		b.free[b.nfree] = p.Buf
		b.nfree++
	}
	p.Buf = nil
}

// add appends a packet in memory of kind mem; a slot is taken.
func (b *batch) add(buf []byte, off, length int, mem memory, tos uint8) {
	b.pkts[b.n] = esp.Packet{Buf: buf, Off: off, Len: length}
	b.mem[b.n], b.tos[b.n] = mem, tos
	b.n++
}

// packets returns the packets in the batch.
func (b *batch) packets() []esp.Packet { return b.pkts[:b.n] }

// move puts packet from in the place of packet to, whose memory was discarded.
func (b *batch) move(to, from int) {
	if to == from {
		return
	}
	b.pkts[to], b.mem[to] = b.pkts[from], b.mem[from]
	b.pkts[from].Buf = nil
}

// merge appends the packets of src if they fit, and leaves src empty. Many
// batches of one packet in a queue would cost a batch's memory each, and a
// system call each.
func (b *batch) merge(src *batch) bool {
	if b.sa != src.sa || b.n+src.n > maxBatch || b.ntrains+src.ntrains > maxBatch {
		return false
	}
	for i := range src.n {
		b.pkts[b.n], b.mem[b.n], b.tos[b.n], b.from[b.n] = src.pkts[i], src.mem[i], src.tos[i], src.from[i]
		src.pkts[i].Buf = nil
		b.n++
		if src.mem[i] == inSlot && b.nfree > 0 && src.nfree < maxBatch {
			b.nfree--
			src.free[src.nfree] = b.free[b.nfree]
			b.free[b.nfree] = nil
			src.nfree++
		}
	}
	for i := range src.ntrains {
		b.trains[b.ntrains] = src.trains[i]
		src.trains[i] = nil
		b.ntrains++
	}
	src.n, src.ntrains = 0, 0
	return true
}
