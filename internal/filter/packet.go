package filter

import "encoding/binary"

// class is the kind of upper layer as rules see it.
type class uint8

const (
	classOther class = iota
	classTCP
	classUDP
	classICMP
)

// packet is what the filter reads of an IP packet. Its slices lie in the packet.
type packet struct {
	src, dst [16]byte // IPv4 in the first four bytes
	version  uint8    // 4 or 6
	proto    uint8    // of the upper layer; IPv6 later fragments: what follows the fragment header
	class    class

	first, later bool   // which fragment, neither for a whole packet
	ident        uint32 // of a fragmented datagram
	offset       int    // of a later fragment, bytes
	start        int    // of body in the fragmentable part, bytes

	body         []byte // upper layer
	sport, dport uint16 // TCP and UDP
}

// parse reads an IP packet whose upper layer must be long enough to judge. Bytes
// after the packet's own length are ignored: they are TFC padding.
func parse(b []byte) (p packet, ok bool) {
	if !p.network(b, false) {
		return p, false
	}
	return p, p.later || p.transport(false)
}

// parseQuoted reads the packet quoted in an ICMP error, cut off somewhere after
// its ports (RFC 792; RFC 4443, Section 3).
func parseQuoted(b []byte) (p packet, ok bool) {
	if !p.network(b, true) || p.later {
		return p, false
	}
	return p, p.transport(true)
}

func (p *packet) network(b []byte, quoted bool) bool {
	if len(b) == 0 {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		return p.ip4(b, quoted)
	case 6:
		return p.ip6(b, quoted)
	}
	return false
}

func (p *packet) ip4(b []byte, quoted bool) bool {
	if len(b) < header4 {
		return false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if quoted {
		total = min(total, len(b))
	}
	if head < header4 || total < head || total > len(b) || sourceRouted(b[header4:head]) {
		return false
	}
	p.version, p.proto = 4, b[9]
	copy(p.src[:], b[12:16])
	copy(p.dst[:], b[16:20])
	p.body = b[head:total]
	flags := binary.BigEndian.Uint16(b[6:])
	return p.fragment(flags&0x2000 != 0, int(flags&0x1fff)*8, uint32(binary.BigEndian.Uint16(b[4:])))
}

// sourceRouted finds the loose and strict source route options (RFC 791), and
// says so of options that do not end where they should.
func sourceRouted(options []byte) bool {
	for len(options) > 0 {
		switch options[0] {
		case 0: // end of options
			return false
		case 1: // no operation
			options = options[1:]
			continue
		case 131, 137:
			return true
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return true
		}
		options = options[options[1]:]
	}
	return false
}

func (p *packet) ip6(b []byte, quoted bool) bool {
	if len(b) < header6 {
		return false
	}
	total := header6 + int(binary.BigEndian.Uint16(b[4:]))
	if quoted {
		total = min(total, len(b))
	}
	if total > len(b) {
		return false
	}
	p.version, p.proto = 6, b[6]
	copy(p.src[:], b[8:24])
	copy(p.dst[:], b[24:40])
	p.body = b[header6:total]
	return p.extensions()
}

// extensions walks to the upper layer. A first fragment must show the whole chain
// (RFC 7112).
func (p *packet) extensions() bool {
	fragmented := false
	for range maxExtensions {
		switch p.proto {
		case ipHopByHop, ipDestOpts:
			if !p.skipExtension() {
				return false
			}
		case ipRouting:
			// Segments left: the destination is not the last one.
			if len(p.body) < 4 || p.body[3] != 0 || !p.skipExtension() {
				return false
			}
		case ipFragment:
			if fragmented || len(p.body) < 8 {
				return false
			}
			fragmented = true
			at, ident := binary.BigEndian.Uint16(p.body[2:]), binary.BigEndian.Uint32(p.body[4:])
			p.proto, p.body, p.start = p.body[0], p.body[8:], 0
			if !p.fragment(at&1 != 0, int(at&^7), ident) {
				return false
			}
			if p.later {
				return true
			}
		default:
			return true
		}
	}
	return false
}

func (p *packet) skipExtension() bool {
	if len(p.body) < 8 {
		return false
	}
	n := 8 * (int(p.body[1]) + 1)
	if n > len(p.body) {
		return false
	}
	p.proto, p.body, p.start = p.body[0], p.body[n:], p.start+n
	return true
}

func (p *packet) fragment(more bool, offset int, ident uint32) bool {
	p.first, p.later = more && offset == 0, offset > 0
	p.offset, p.ident = offset, ident
	// Nothing that could never be put together.
	return !p.later || len(p.body) > 0 && offset+len(p.body) <= 65535
}

// transport reads ports and wants the whole fixed header, so that no later
// fragment can change what was judged (RFC 1858, RFC 3128).
func (p *packet) transport(quoted bool) bool {
	var need int
	switch {
	case p.proto == ipTCP:
		p.class, need = classTCP, headerTCP
	case p.proto == ipUDP:
		p.class, need = classUDP, headerUDP
	case p.proto == ipICMP4 && p.version == 4, p.proto == ipICMP6 && p.version == 6:
		p.class, need = classICMP, headerICMP
	default:
		return true
	}
	if quoted {
		need = min(need, 8)
	}
	if len(p.body) < need {
		return false
	}
	if p.class != classICMP {
		p.sport = binary.BigEndian.Uint16(p.body)
		p.dport = binary.BigEndian.Uint16(p.body[2:])
	}
	return true
}

// headerEnd is where in the fragmentable part the judged header ends.
func (p *packet) headerEnd() int {
	switch p.class {
	case classTCP:
		return p.start + headerTCP
	case classUDP:
		return p.start + headerUDP
	case classICMP:
		return p.start + headerICMP
	}
	return p.start
}

// answers says whether a TCP segment cannot start a connection: all after the
// first SYN carry ACK, except resets (RFC 9293, Section 3.10.7).
func (p *packet) answers() bool {
	const syn, rst, ack = 0x02, 0x04, 0x10
	flags := p.body[13]
	return flags&ack != 0 || flags&rst != 0 && flags&syn == 0
}

// icmp is the part a message plays.
type icmp uint8

const (
	icmpOther icmp = iota
	icmpEchoRequest
	icmpEchoReply
	icmpError
)

func (p *packet) icmp() icmp {
	switch t := p.body[0]; {
	case p.version == 4 && t == 8, p.version == 6 && t == 128:
		return icmpEchoRequest
	case p.version == 4 && t == 0, p.version == 6 && t == 129:
		return icmpEchoReply
	case p.version == 4 && (t == 3 || t == 11 || t == 12), p.version == 6 && t >= 1 && t <= 4:
		return icmpError
	}
	return icmpOther
}
