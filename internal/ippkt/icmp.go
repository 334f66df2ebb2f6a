package ippkt

import "encoding/binary"

const (
	icmpHeader = 8
	// quote4 is what an ICMP error quotes at most: the error fits 576 bytes
	// (RFC 1812, Section 4.3.2.3).
	quote4 = 576 - header4 - icmpHeader
	// MinMTU6 is the MTU that every IPv6 link has, and every sender counts on
	// (RFC 8200, Section 5); quote6 lets the error fit it (RFC 4443, Section 2.4).
	MinMTU6 = 1280
	quote6  = MinMTU6 - header6 - icmpHeader
	// MaxError is the longest ICMP error that is made here.
	MaxError = MinMTU6

	ttl = 64
)

// message is what an ICMP error says: type, code, and the four bytes before the
// packet it quotes.
type message struct {
	typ, code byte
	rest      uint32
}

// What TooBig and Prohibited say, by version.
func fragmentationNeeded(mtu int) message { // RFC 1191, Section 4
	return message{typ: 3, code: 4, rest: uint32(uint16(min(mtu, 0xffff)))}
}

func packetTooBig(mtu int) message { // RFC 4443, Section 3.2
	return message{typ: 2, rest: uint32(max(mtu, MinMTU6))}
}

var (
	prohibited4 = message{typ: 3, code: 13} // RFC 1812, Section 5.2.7.1
	prohibited6 = message{typ: 1, code: 1}  // RFC 4443, Section 3.1
)

// TooBig writes to out, MaxError bytes of room, the ICMP error that tells the
// sender of pkt of a smaller MTU: "fragmentation needed" or "packet too big". It
// returns the error's length, 0 if pkt must not be answered with one: errors are
// not (RFC 1122, Section 3.2.2), nor what was sent to or from more than one
// machine.
func TooBig(out, pkt []byte, mtu int) int {
	return answer(out, pkt, fragmentationNeeded(mtu), packetTooBig(mtu))
}

// Prohibited does the same to say that pkt is refused: "communication
// administratively prohibited".
func Prohibited(out, pkt []byte) int { return answer(out, pkt, prohibited4, prohibited6) }

// answer makes the error of pkt's version. It comes from the packet's
// destination, the only address that surely is routed into the tunnel, which
// reverse path filters want.
func answer(out, pkt []byte, v4, v6 message) int {
	n, ok := Len(pkt)
	if !ok || unanswerable(pkt[:n]) {
		return 0
	}
	if Is6(pkt) {
		return error6(out, pkt[:n], v6)
	}
	return error4(out, pkt[:n], v4)
}

func error4(out, pkt []byte, what message) int {
	quoted := min(len(pkt), quote4)
	n := header4 + icmpHeader + quoted
	b := out[:n]
	clear(b[:header4])
	b[0], b[1], b[8], b[9] = 0x45, 0xc0, ttl, protoICMP // precedence 6: RFC 1812, Section 4.3.2.5
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:16], pkt[16:20])
	copy(b[16:20], pkt[12:16])
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:header4], 0)))
	what.write(b[header4:], pkt[:quoted], 0)
	return n
}

func error6(out, pkt []byte, what message) int {
	quoted := min(len(pkt), quote6)
	n := header6 + icmpHeader + quoted
	b := out[:n]
	clear(b[:header6])
	b[0], b[6], b[7] = 0x60, protoICMPv6, ttl
	binary.BigEndian.PutUint16(b[4:], uint16(n-header6))
	copy(b[8:24], pkt[24:40])
	copy(b[24:40], pkt[8:24])
	// Pseudo-header (RFC 8200, Section 8.1): addresses, length, next header.
	what.write(b[header6:], pkt[:quoted], sum(b[8:40], uint32(n-header6)+protoICMPv6))
	return n
}

// write fills m; pseudo is the sum of a pseudo-header.
func (what message) write(m, quote []byte, pseudo uint32) {
	m[0], m[1], m[2], m[3] = what.typ, what.code, 0, 0
	binary.BigEndian.PutUint32(m[4:], what.rest)
	copy(m[icmpHeader:], quote)
	binary.BigEndian.PutUint16(m[2:], ^fold(sum(m, pseudo)))
}

// unanswerable says whether pkt must not be answered with an ICMP error.
func unanswerable(pkt []byte) bool {
	src, dst, _ := Endpoints(pkt)
	if src.IsUnspecified() || src.IsMulticast() || src.IsLoopback() || dst.IsMulticast() {
		return true
	}
	off, proto, ok := upper(pkt)
	switch {
	case !ok || off >= len(pkt):
		// RFC 1122 lets nobody answer later fragments. RFC 4443 does, and for IPv6
		// it is needed: only its sender can make them smaller.
		return !Is6(pkt)
	case Is6(pkt):
		return proto == protoICMPv6 && pkt[off] < 128
	}
	return proto == protoICMP && (pkt[off] >= 3 && pkt[off] <= 5 || pkt[off] == 11 || pkt[off] == 12)
}
