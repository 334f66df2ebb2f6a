package esp

import (
	"encoding/binary"
	"net/netip"
)

// padding is 1, 2, 3, ... (RFC 4303, Section 2.4), as long as there can be.
var padding = func() (p [255]byte) {
	for i := range p {
		p[i] = byte(i + 1)
	}
	return p
}()

// Packet is one buffer on its way through an SA. Seal and Open borrow Buf until
// they return and work in place: afterwards Off and Len say where the result
// lies. A packet that is dropped keeps its Off and Len; its bytes are undefined
// after a drop by Open.
type Packet struct {
	Buf []byte // whole buffer, with room around the packet
	Off int    // where the packet starts in Buf
	Len int    // its length

	// TFC is how many zero bytes Seal puts between packet and padding, to hide
	// the packet's length (RFC 4303, Section 2.7). Open cuts them off.
	TFC int

	Seq        uint64 // result: 64-bit sequence number
	NextHeader uint8  // result: 4 IPv4, 41 IPv6, 59 dummy
	Drop       Drop   // result: the verdict
	// Newest says, after Open, that no higher number had been seen on the SA:
	// only then may a new source address of the datagram mean that the peer moved.
	Newest bool
}

// Bytes returns the packet, as a part of Buf.
func (p *Packet) Bytes() []byte { return p.Buf[p.Off : p.Off+p.Len] }

// Addrs returns source and destination of the inner packet: before Seal, or
// after Open has delivered it. It returns zero addresses for anything else.
func (p *Packet) Addrs() (src, dst netip.Addr) {
	if !p.inBounds() {
		return
	}
	b := p.Bytes()
	switch {
	case len(b) >= ipv4Header && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= ipv6Header && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	}
	return
}

// inBounds says whether Off and Len lie in Buf; sums could overflow, differences
// cannot.
func (p *Packet) inBounds() bool {
	return p.Off >= 0 && p.Len >= 0 && p.Off <= len(p.Buf) && p.Len <= len(p.Buf)-p.Off
}

// reset clears the results of an earlier use of the struct.
func (p *Packet) reset() {
	p.Seq, p.NextHeader, p.Drop, p.Newest = 0, 0, DropNone, false
}

// nextHeaderOf returns the next header value for an inner packet by its version.
func nextHeaderOf(b []byte) (nh uint8, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	switch b[0] >> 4 {
	case 4:
		return nextIPv4, true
	case 6:
		return nextIPv6, true
	}
	return 0, false
}

// innerLen returns the length that the IP packet at the start of b claims, if
// it agrees with nh and fits b. What follows it in b is TFC padding.
func innerLen(b []byte, nh uint8) (n int, ok bool) {
	switch nh {
	case nextIPv4:
		return ipv4Len(b)
	case nextIPv6:
		return ipv6Len(b)
	}
	return 0, false
}

func ipv4Len(b []byte) (n int, ok bool) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return 0, false
	}
	header := int(b[0]&0x0f) * 4
	n = int(binary.BigEndian.Uint16(b[2:4]))
	return n, header >= ipv4Header && header <= n && n <= len(b)
}

// Deviation: an RFC 2675 jumbogram, payload length 0 with a hop-by-hop header,
// is refused: it cannot cross a UDP tunnel.
func ipv6Len(b []byte) (n int, ok bool) {
	if len(b) < ipv6Header || b[0]>>4 != 6 {
		return 0, false
	}
	payload := int(binary.BigEndian.Uint16(b[4:6]))
	if payload == 0 && b[6] == 0 {
		return 0, false
	}
	n = ipv6Header + payload
	return n, n <= len(b)
}
