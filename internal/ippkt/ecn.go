package ippkt

import "encoding/binary"

// ECN codepoints (RFC 3168, Section 5).
const (
	NotECT = 0
	ECT1   = 1
	ECT0   = 2
	CE     = 3
)

// TrafficClass returns the byte that holds DSCP and ECN.
func TrafficClass(b []byte) byte {
	if b[0]>>4 == 4 {
		return b[1]
	}
	return b[0]<<4 | b[1]>>4
}

// Encapsulate returns the outer ECN field for an inner packet, normal mode
// (RFC 6040, Section 4.1): a copy.
func Encapsulate(inner byte) (outer byte) { return inner & 3 }

// drop is no codepoint.
const drop = 0xff

// decapsulation is the table of RFC 6040, Figure 4: the ECN field that goes on,
// by inner and outer one.
var decapsulation = [4][4]byte{
	NotECT: {NotECT: NotECT, ECT0: NotECT, ECT1: NotECT, CE: drop},
	ECT0:   {NotECT: ECT0, ECT0: ECT0, ECT1: ECT1, CE: CE},
	ECT1:   {NotECT: ECT1, ECT0: ECT1, ECT1: ECT1, CE: CE},
	CE:     {NotECT: CE, ECT0: CE, ECT1: CE, CE: CE},
}

// Decapsulate gives the inner packet the ECN field that follows from its own
// and the outer header's, and says whether it may go on: congestion on the way
// of a packet whose sender cannot be told of it costs the packet.
func Decapsulate(b []byte, outer byte) (ok bool) {
	inner := TrafficClass(b) & 3
	out := decapsulation[inner][outer&3]
	switch {
	case out == drop:
		return false
	case out == inner:
	case b[0]>>4 == 4:
		replace16(b, 0, 10, binary.BigEndian.Uint16(b)&^3|uint16(out))
	default:
		b[1] = b[1]&^0x30 | out<<4
	}
	return true
}
