//go:build linux

package kernel

import (
	"encoding/binary"
	"slices"
)

// frame is an Ethernet frame of the underlay.
type frame []byte

const (
	etherLen  = 14
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd

	ipv6Len         = 40
	udpLen          = 8
	protocolUDP     = 17
	headerFragment6 = 44

	encapPort = 4500
)

// transport returns where the IP header's payload begins and what it is: for a
// fragment, of either family, headerFragment6.
func (f frame) transport() (offset int, protocol byte) {
	if len(f) < etherLen+20 {
		return 0, 0
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case etherIPv4:
		if binary.BigEndian.Uint16(f[etherLen+6:])&0x3fff != 0 { // more fragments, or an offset
			return 0, headerFragment6
		}
		return etherLen + int(f[etherLen]&15)*4, f[etherLen+9]
	case etherIPv6:
		return etherLen + ipv6Len, f[etherLen+6]
	}
	return 0, 0
}

func (f frame) isFragment() bool {
	_, p := f.transport()
	return p == headerFragment6
}

// esp returns the ESP packet in the frame, nil if there is none.
func (f frame) esp() []byte {
	at, protocol := f.transport()
	if protocol != protocolUDP || len(f) < at+udpLen || binary.BigEndian.Uint16(f[at+2:]) != encapPort {
		return nil
	}
	n := int(binary.BigEndian.Uint16(f[at+4:]))
	if n < udpLen+8 || at+n > len(f) || binary.BigEndian.Uint32(f[at+udpLen:]) == 0 {
		return nil
	}
	return f[at+udpLen : at+n]
}

// carrying returns the frame with another payload, all lengths and checksums
// made to fit: what is wrong with the payload must be found behind them.
func (f frame) carrying(payload []byte) frame {
	at, _ := f.transport()
	g := append(slices.Clone(f[:at+udpLen]), payload...)
	n := len(g) - at
	ip, udp := g[etherLen:], g[at:]
	binary.BigEndian.PutUint16(udp[4:], uint16(n))
	binary.BigEndian.PutUint16(udp[6:], 0)
	var pseudo uint32 // checksum of the pseudo header
	if ip[0]>>4 == 4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:at-etherLen])))
		pseudo = sum(uint32(protocolUDP+n), ip[12:20])
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
		pseudo = sum(uint32(protocolUDP+n), ip[8:40])
	}
	check := ^fold(sum(pseudo, udp))
	if check == 0 {
		check = 0xffff // RFC 768: 0 would mean that there is none
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return g
}

// sum adds 16-bit words (RFC 1071).
func sum(acc uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	return acc
}

func fold(acc uint32) uint16 {
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}
