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
	// MaxTooBig is the longest packet that TooBig makes.
	MaxTooBig = MinMTU6

	ttl = 64
)

// TooBig writes to out, MaxTooBig bytes of room, the ICMP error that tells the
// sender of pkt of a smaller MTU: "fragmentation needed" (RFC 1191, Section 4) or
// "packet too big" (RFC 4443, Section 3.2). It comes from the packet's
// destination, the only address that surely is routed into the tunnel, which
// reverse path filters want. It returns the error's length, 0 if pkt must not be
// answered with one: errors are not (RFC 1122, Section 3.2.2), nor what was sent
// to or from more than one machine.
func TooBig(out, pkt []byte, mtu int) int {
	n, ok := Len(pkt)
	if !ok || unanswerable(pkt[:n]) {
		return 0
	}
	if Is6(pkt) {
		return tooBig6(out, pkt[:n], max(mtu, MinMTU6))
	}
	return tooBig4(out, pkt[:n], mtu)
}

func tooBig4(out, pkt []byte, mtu int) int {
	quoted := min(len(pkt), quote4)
	n := header4 + icmpHeader + quoted
	b := out[:n]
	clear(b[:header4+icmpHeader])
	b[0], b[1], b[8], b[9] = 0x45, 0xc0, ttl, protoICMP // precedence 6: RFC 1812, Section 4.3.2.5
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:16], pkt[16:20])
	copy(b[16:20], pkt[12:16])
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:header4], 0)))
	m := b[header4:]
	m[0], m[1] = 3, 4
	binary.BigEndian.PutUint16(m[6:], uint16(min(mtu, 0xffff)))
	copy(m[icmpHeader:], pkt[:quoted])
	binary.BigEndian.PutUint16(m[2:], ^fold(sum(m, 0)))
	return n
}

func tooBig6(out, pkt []byte, mtu int) int {
	quoted := min(len(pkt), quote6)
	n := header6 + icmpHeader + quoted
	b := out[:n]
	clear(b[:header6+icmpHeader])
	b[0], b[6], b[7] = 0x60, protoICMPv6, ttl
	binary.BigEndian.PutUint16(b[4:], uint16(n-header6))
	copy(b[8:24], pkt[24:40])
	copy(b[24:40], pkt[8:24])
	m := b[header6:]
	m[0] = 2
	binary.BigEndian.PutUint32(m[4:], uint32(mtu))
	copy(m[icmpHeader:], pkt[:quoted])
	// Pseudo-header (RFC 8200, Section 8.1): addresses, length, next header.
	s := sum(b[8:40], uint32(len(m))+protoICMPv6)
	binary.BigEndian.PutUint16(m[2:], ^fold(sum(m, s)))
	return n
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
