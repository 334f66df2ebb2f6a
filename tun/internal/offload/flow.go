package offload

// kind says what may be done with a packet.
type kind uint8

const (
	foreign   kind = iota // its flow is not known: fragments, options, other protocols
	single                // its flow is known, it goes alone
	mergeable             // it may be part of a super-packet
)

const ipv4DontFragment = 0x40 // in byte 6 of the header

// flow names the connection that a packet belongs to.
type flow struct {
	a, b, c, d uint64 // addresses; IPv4's are in a
	ports      uint32
	v6, tcp    bool
}

// same is ==, without the call that the compiler makes of it.
func (f *flow) same(o *flow) bool {
	return f.ports == o.ports && f.a == o.a && f.v6 == o.v6 && f.tcp == o.tcp && (!f.v6 || f.b == o.b && f.c == o.c && f.d == o.d)
}

func (f *flow) proto() int {
	if f.tcp {
		return protoTCP
	}
	return protoUDP
}

// segment is what the Merger needs to know of a packet.
type segment struct {
	flow
	ipLen, hdrLen int
	payload       int
	seq           uint32 // TCP's
	id            uint16 // IPv4's
	flags         byte   // TCP's
}

// parse reads the headers of an IP packet whose length is that of the slice.
func (s *segment) parse(pkt []byte) kind {
	if len(pkt) < ipv4Len {
		return foreign
	}
	var proto byte
	switch {
	case pkt[0] == 4<<4|ipv4Len/4:
		// Neither the reserved bit nor a fragment.
		if int(be.Uint16(pkt[2:])) != len(pkt) || be.Uint16(pkt[6:])&^(ipv4DontFragment<<8) != 0 {
			return foreign
		}
		s.ipLen, s.id, proto = ipv4Len, be.Uint16(pkt[4:]), pkt[9]
		s.a = be.Uint64(pkt[12:])
	case pkt[0]>>4 == 6 && len(pkt) >= ipv6Len:
		if ipv6Len+int(be.Uint16(pkt[4:])) != len(pkt) {
			return foreign
		}
		s.ipLen, s.v6, proto = ipv6Len, true, pkt[6]
		s.a, s.b, s.c, s.d = be.Uint64(pkt[8:]), be.Uint64(pkt[16:]), be.Uint64(pkt[24:]), be.Uint64(pkt[32:])
	default:
		return foreign
	}
	transport := pkt[s.ipLen:]
	switch {
	case proto == protoTCP && len(transport) >= tcpLen:
		return s.parseTCP(transport)
	case proto == protoUDP && len(transport) >= udpLen:
		return s.parseUDP(transport)
	}
	return foreign
}

// parseTCP lets data segments of an established connection be merged.
func (s *segment) parseTCP(b []byte) kind {
	s.tcp, s.ports = true, be.Uint32(b)
	words := int(b[12] >> 4)
	if words*4 < tcpLen || words*4 >= len(b) {
		return single // malformed, or without payload
	}
	s.hdrLen, s.payload = s.ipLen+words*4, len(b)-words*4
	s.seq, s.flags = be.Uint32(b[4:]), b[tcpFlags]
	if s.flags&(flagSYN|flagRST|flagURG|flagACK) != flagACK {
		return single
	}
	return mergeable
}

// parseUDP lets datagrams with a checksum be merged: a super-packet has one.
func (s *segment) parseUDP(b []byte) kind {
	s.ports = be.Uint32(b)
	s.hdrLen, s.payload = s.ipLen+udpLen, len(b)-udpLen
	if int(be.Uint16(b[4:])) != len(b) || be.Uint16(b[udpChecksum:]) == 0 || s.payload == 0 {
		return single
	}
	return mergeable
}
