package ippkt

import "encoding/binary"

// MinFragment is the least MTU that Fragment takes: the longest IPv4 header and
// eight bytes (RFC 791, Section 3.1).
const MinFragment = 68

// Fragment cuts an IPv4 packet that MayFragment into pieces of at most mtu bytes
// (RFC 791, Section 3.2, example fragmentation procedure). next returns room for
// a piece of n bytes, nil to give up; pkt is left as it was. It returns how many
// pieces it made; 0 for a packet that cannot be cut.
func Fragment(pkt []byte, mtu int, next func(n int) []byte) (pieces int) {
	n, ok := Len(pkt)
	if !ok || mtu < MinFragment || !MayFragment(pkt) {
		return 0
	}
	head := int(pkt[0]&15) * 4
	field := binary.BigEndian.Uint16(pkt[6:])
	offset, more := int(field&offsetMask), field&flagMF != 0
	if more && (n-head)%8 != 0 || offset*8+n-head > 0xffff {
		return 0 // no fragment that could ever be put together
	}
	for at := head; at < n; pieces++ {
		h := head
		if pieces > 0 {
			h = laterHeader(pkt[:head], nil)
		}
		size := n - at
		if size > mtu-h {
			size = (mtu - h) &^ 7
		}
		out := next(h + size)
		if size <= 0 || len(out) < h+size {
			return 0
		}
		copy(out, pkt[:head])
		if pieces > 0 {
			laterHeader(pkt[:head], out)
		}
		copy(out[h:], pkt[at:at+size])
		place := uint16(offset + (at-head)/8)
		at += size
		if at < n || more {
			place |= flagMF
		}
		finish(out[:h], h+size, place)
	}
	return pieces
}

// finish writes length, flags, offset and checksum into a fragment's header.
func finish(h []byte, total int, field uint16) {
	h[0] = 0x40 | byte(len(h)/4)
	binary.BigEndian.PutUint16(h[2:], uint16(total))
	binary.BigEndian.PutUint16(h[6:], field)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(h, 0)))
}

// laterHeader writes to out, if it is not nil, the header of a later fragment:
// only options whose copied flag is set come along (RFC 791, Section 3.1). It
// returns the header's length.
func laterHeader(head, out []byte) int {
	n := header4
	if out != nil {
		copy(out, head[:header4])
	}
	for opts := head[header4:]; len(opts) > 0; {
		size := 1
		if opts[0] == optEnd {
			break
		}
		if opts[0] != optNOP {
			if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
				break
			}
			size = int(opts[1])
		}
		if opts[0]&0x80 != 0 {
			if out != nil {
				copy(out[n:], opts[:size])
			}
			n += size
		}
		opts = opts[size:]
	}
	end := (n + 3) &^ 3
	if out != nil {
		clear(out[n:end]) // end of options
	}
	return end
}
