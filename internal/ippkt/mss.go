package ippkt

import "encoding/binary"

const (
	headerTCP = 20
	flagSYN   = 0x02
	optEnd    = 0
	optNOP    = 1
	optMSS    = 2
)

// ClampMSS lowers the maximum segment size that a SYN announces to what fits an
// inner MTU, so that the other end never sends segments that would not. It
// reports whether it changed anything. A SYN without the option is left alone:
// the default, 536 or 1220, fits (RFC 9293, Section 3.7.1).
func ClampMSS(b []byte, mtu int) bool {
	off, ok := syn(b)
	if !ok {
		return false
	}
	fixed := header4 + headerTCP
	if b[0]>>4 == 6 {
		fixed = header6 + headerTCP
	}
	if mtu <= fixed || mtu-fixed > 0xffff {
		return false
	}
	tcp := b[off:]
	end := int(tcp[12]>>4) * 4
	if end < headerTCP || end > len(tcp) {
		return false
	}
	at, ok := findMSS(tcp[:end])
	if !ok || int(binary.BigEndian.Uint16(tcp[at:])) <= mtu-fixed {
		return false
	}
	replaceMSS(tcp, at, uint16(mtu-fixed))
	return true
}

// syn returns where the TCP header of a SYN begins. Nearly every packet leaves
// here.
func syn(b []byte) (off int, ok bool) {
	if len(b) < header4 || b[0]>>4 == 4 && b[9] != protoTCP || b[0]>>4 == 6 && len(b) < header6 {
		return 0, false
	}
	if b[0] == 0x45 && len(b) >= header4+headerTCP && b[header4+13]&flagSYN == 0 {
		return 0, false
	}
	if b[0]>>4 == 6 && b[6] == protoTCP && len(b) >= header6+headerTCP && b[header6+13]&flagSYN == 0 {
		return 0, false
	}
	off, proto, ok := upper(b)
	return off, ok && proto == protoTCP && len(b)-off >= headerTCP && b[off+13]&flagSYN != 0
}

// findMSS returns where the option's value stands in a TCP header.
func findMSS(tcp []byte) (at int, ok bool) {
	for i := headerTCP; i < len(tcp); {
		switch kind := tcp[i]; {
		case kind == optEnd:
			return 0, false
		case kind == optNOP:
			i++
			continue
		case i+1 >= len(tcp) || tcp[i+1] < 2 || i+int(tcp[i+1]) > len(tcp):
			return 0, false
		case kind == optMSS && tcp[i+1] == 4:
			return i + 2, true
		}
		i += int(tcp[i+1])
	}
	return 0, false
}

// replaceMSS also where the option does not begin at an even offset: the
// checksum then sees its bytes in two words.
func replaceMSS(tcp []byte, at int, mss uint16) {
	const check = 16
	if at%2 == 0 {
		replace16(tcp, at, check, mss)
		return
	}
	before := binary.BigEndian.Uint16(tcp[at-1:])
	replace16(tcp, at-1, check, before&0xff00|mss>>8)
	after := binary.BigEndian.Uint16(tcp[at+1:])
	replace16(tcp, at+1, check, after&0x00ff|mss<<8)
}
