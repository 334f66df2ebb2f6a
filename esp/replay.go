package esp

// window is the anti-replay window of RFC 4303, Section 3.4.3 as a ring of
// words (RFC 6479): moving right clears whole words and shifts nothing.
//
//	          top-size+1                      top
//	 too old |<------------- size ------------>| ahead: always new
//	---------+---------------------------------+-------------------> seq
//
// The ring has twice the window's bits, so the word that top lies in, whose
// upper bits are not valid yet, never overlaps the oldest word in use.
//
// Invariant: no bit above top is set within the ring's current turn; numbers
// not above top-size count as seen.
type window struct {
	size uint64
	mask uint64 // number of words - 1
	top  uint64 // highest number committed
	ring []uint64
}

const wordBits = 64

// newWindow makes a window of size numbers (a power of two, at least wordBits)
// in which everything up to last counts as seen.
func newWindow(size int, last uint64) window {
	words := uint64(2 * size / wordBits)
	w := window{size: uint64(size), mask: words - 1, top: last, ring: make([]uint64, words)}
	if last > 0 {
		for i := range w.ring {
			w.ring[i] = ^uint64(0)
		}
		// Bits up to and with last's are seen, those above are not.
		w.ring[last/wordBits&w.mask] = ^uint64(0) >> (wordBits - 1 - last%wordBits)
	}
	return w
}

// infer returns the 64-bit number for the low half on the wire: the smallest one
// that is not left of the window (RFC 4303, Appendix A2.2, whose two cases it
// joins). A wrong guess costs nothing, for the ICV covers the high half.
func (w *window) infer(low uint32) (seq uint64, ok bool) {
	var bottom uint64 // of the window
	if w.top >= w.size {
		bottom = w.top - w.size + 1
	}
	seq = bottom&^maxSeq32 | uint64(low)
	if seq >= bottom {
		return seq, true
	}
	return seq + 1<<32, seq < maxSeq64-maxSeq32
}

// fresh says whether seq may still be committed. Zero is never sent.
func (w *window) fresh(seq uint64) bool {
	switch {
	case seq == 0:
		return false
	case seq > w.top:
		return true
	case w.top-seq >= w.size:
		return false
	}
	return w.ring[seq/wordBits&w.mask]&(1<<(seq%wordBits)) == 0
}

// commit marks seq as seen. It returns false if that had happened before, and
// says whether seq is the highest so far.
func (w *window) commit(seq uint64) (newest, ok bool) {
	if !w.fresh(seq) {
		return false, false
	}
	if seq > w.top {
		w.advance(seq)
		newest = true
	}
	w.ring[seq/wordBits&w.mask] |= 1 << (seq % wordBits)
	return newest, true
}

// advance moves the right edge to seq and clears the words it enters.
func (w *window) advance(seq uint64) {
	from, to := w.top/wordBits, seq/wordBits
	for i := range min(to-from, w.mask+1) {
		w.ring[(from+1+i)&w.mask] = 0
	}
	w.top = seq
}
