package node

import (
	"sync"

	"icvpn/esp"
	"icvpn/internal/underlay"
)

// buffer is one packet's memory: Headroom before the inner packet and Tailroom
// after it, so that sealing and opening need no copy.
type buffer [bufSize]byte

// maxInner is the longest inner packet a buffer holds.
const maxInner = bufSize - esp.Headroom - esp.Tailroom

// batch is packets of one tunnel on their way in one direction. It owns its
// buffers: whoever holds the batch may use them, and gives them back with
// release.
type batch struct {
	sa   *esp.Inbound // inbound only: all packets are of this SA
	n    int
	pkts [batchSize]esp.Packet
	bufs [batchSize]*buffer
	msgs [batchSize]underlay.Message // scratch of the sender
	out  [batchSize][]byte           // scratch of the writer to the TUN device
}

var (
	buffers = sync.Pool{New: func() any { return new(buffer) }}
	batches = sync.Pool{New: func() any { return new(batch) }}
)

func newBuffer() *buffer { return buffers.Get().(*buffer) }

func newBatch() *batch { return batches.Get().(*batch) }

// release gives the batch and its buffers back. The caller may not touch them
// again.
func (b *batch) release() {
	for i := range b.n {
		buffers.Put(b.bufs[i])
		b.bufs[i] = nil
		b.pkts[i] = esp.Packet{}
		b.msgs[i] = underlay.Message{}
		b.out[i] = nil
	}
	b.n, b.sa = 0, nil
	batches.Put(b)
}

func (b *batch) full() bool { return b.n == batchSize }

// add takes buf, whose packet lies at off.
func (b *batch) add(buf *buffer, off, length int) {
	b.bufs[b.n] = buf
	b.pkts[b.n] = esp.Packet{Buf: buf[:], Off: off, Len: length}
	b.n++
}

// packets returns the packets in the batch.
func (b *batch) packets() []esp.Packet { return b.pkts[:b.n] }

// keep drops every packet for which ok is false, in place.
func (b *batch) keep(ok func(*esp.Packet) bool) {
	kept := 0
	for i := range b.n {
		if !ok(&b.pkts[i]) {
			buffers.Put(b.bufs[i])
			continue
		}
		b.pkts[kept], b.bufs[kept] = b.pkts[i], b.bufs[i]
		kept++
	}
	for i := kept; i < b.n; i++ {
		b.pkts[i], b.bufs[i] = esp.Packet{}, nil
	}
	b.n = kept
}
