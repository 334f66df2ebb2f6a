package ippkt

import (
	"encoding/binary"
	"net/netip"
)

const (
	header4 = 20 // without options
	header6 = 40

	protoICMP   = 1
	protoTCP    = 6
	protoICMPv6 = 58

	// IPv6 extension headers that may stand before the upper layer.
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extDestOpts = 60
	// maxExtensions bounds the walk over a packet that somebody else made.
	maxExtensions = 8

	flagDF     = 0x4000
	flagMF     = 0x2000
	offsetMask = 0x1fff
)

// Len returns the length that the packet at the start of b claims, false if it
// is no IP packet or longer than b.
func Len(b []byte) (n int, ok bool) {
	switch {
	case len(b) >= header4 && b[0]>>4 == 4:
		n = int(binary.BigEndian.Uint16(b[2:]))
		head := int(b[0]&15) * 4
		return n, head >= header4 && head <= n && n <= len(b)
	case len(b) >= header6 && b[0]>>4 == 6:
		n = header6 + int(binary.BigEndian.Uint16(b[4:]))
		return n, n <= len(b)
	}
	return 0, false
}

// Endpoints returns source and destination, false if b is too short to have
// any or of another version.
func Endpoints(b []byte) (src, dst netip.Addr, ok bool) {
	switch {
	case len(b) >= header4 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), true
	case len(b) >= header6 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), true
	}
	return src, dst, false
}

// Is6 says whether b, an IP packet, is IPv6.
func Is6(b []byte) bool { return b[0]>>4 == 6 }

// MayFragment says whether the packet may be cut on its way: IPv4 without the
// don't fragment bit.
func MayFragment(b []byte) bool {
	return len(b) >= header4 && b[0]>>4 == 4 && binary.BigEndian.Uint16(b[6:])&flagDF == 0
}

// upper returns where the upper layer begins and which it is; false for later
// fragments and for what cannot be walked.
func upper(b []byte) (off int, proto byte, ok bool) {
	if len(b) >= header4 && b[0]>>4 == 4 {
		off = int(b[0]&15) * 4
		later := binary.BigEndian.Uint16(b[6:])&offsetMask != 0
		return off, b[9], off >= header4 && off <= len(b) && !later
	}
	if len(b) < header6 || b[0]>>4 != 6 {
		return 0, 0, false
	}
	off, proto = header6, b[6]
	for range maxExtensions {
		switch proto {
		case extHopByHop, extRouting, extDestOpts:
			if off+8 > len(b) {
				return 0, 0, false
			}
			proto, off = b[off], off+8*(int(b[off+1])+1)
		case extFragment:
			if off+8 > len(b) || binary.BigEndian.Uint16(b[off+2:])&^7 != 0 {
				return 0, 0, false
			}
			proto, off = b[off], off+8
		default:
			return off, proto, off <= len(b)
		}
	}
	return 0, 0, false
}

// sum adds b to an unfolded ones' complement sum (RFC 1071).
func sum(b []byte, s uint32) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// replace16 puts v at b[at:] and mends the checksum at b[check:] (RFC 1624,
// Section 3, equation 3).
func replace16(b []byte, at, check int, v uint16) {
	old := binary.BigEndian.Uint16(b[at:])
	binary.BigEndian.PutUint16(b[at:], v)
	c := ^binary.BigEndian.Uint16(b[check:])
	binary.BigEndian.PutUint16(b[check:], ^fold(uint32(c)+uint32(^old)+uint32(v)))
}
