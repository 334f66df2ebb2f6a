package offload

import "errors"

// Why a packet from the kernel is dropped. Nobody branches on these: they are
// for tests and debuggers.
var (
	errShort    = errors.New("offload: packet shorter than its headers")
	errGSO      = errors.New("offload: super-packet of unknown kind, or of another than it claims")
	errChecksum = errors.New("offload: place of the checksum outside the packet or its transport header")
	errBuffer   = errors.New("offload: packet or segment longer than its buffer")
)

// Splitter makes IP packets of what one read of the device brought. It goes on
// where it stopped when the caller has no more buffers.
type Splitter struct {
	pkt []byte // borrowed; its headers are the segments' template
	at  int    // of pkt, what Next has done
	hdr header

	// of a super-packet
	ipLen, hdrLen, gso int // headers: IP; IP and transport; payload of a segment
	v4, tcp            bool
	flags              byte   // TCP's
	seq                uint32 // of the next segment
	id                 uint16 // the same
	ipSum              uint64 // of the IPv4 header but total length, ID and checksum
	sum                uint64 // of pseudo header and transport header, but what segments differ in
}

// Start takes up what the kernel wrote: a virtio_net_hdr and a packet. It
// borrows b until Pending reports false, and alters it.
func (s *Splitter) Start(b []byte) error {
	s.pkt, s.at = nil, 0
	if len(b) < HeaderLen+ipv4Len {
		return errShort
	}
	s.hdr = parseHeader(b)
	pkt := b[HeaderLen:]
	var err error
	if s.hdr.gsoType == gsoNone {
		err = s.startSingle(pkt)
	} else {
		err = s.startSuper(pkt)
	}
	if err == nil {
		s.pkt = pkt
	}
	return err
}

// Pending reports whether Next has more to give.
func (s *Splitter) Pending() bool { return s.at < len(s.pkt) }

// Next puts packets into bufs[i][offset:] and their lengths into sizes[i],
// until there are no more of either. After an error the rest is lost.
func (s *Splitter) Next(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	for ; n < len(bufs) && s.Pending(); n++ {
		if len(bufs[n]) < offset {
			err = errBuffer
		} else if s.hdr.gsoType == gsoNone {
			sizes[n], err = s.single(bufs[n][offset:])
		} else {
			sizes[n], err = s.segment(bufs[n][offset:])
		}
		if err != nil {
			s.pkt, s.at = nil, 0
			break
		}
	}
	return n, err
}

func (s *Splitter) startSingle(pkt []byte) error {
	if s.hdr.flags&flagNeedsChecksum == 0 {
		return nil
	}
	start := int(s.hdr.checksumStart)
	if start+int(s.hdr.checksumOffset)+2 > len(pkt) {
		return errChecksum
	}
	return nil
}

// single copies the packet, and completes the checksum that the kernel left to
// the device: the field holds the sum of the pseudo header.
func (s *Splitter) single(dst []byte) (int, error) {
	if len(dst) < len(s.pkt) {
		return 0, errBuffer
	}
	s.at = len(s.pkt)
	if s.hdr.flags&flagNeedsChecksum == 0 {
		return copy(dst, s.pkt), nil
	}
	start := int(s.hdr.checksumStart)
	copy(dst, s.pkt[:start])
	sum := CopySum(dst[start:], s.pkt[start:])
	be.PutUint16(dst[start+int(s.hdr.checksumOffset):], finish(sum))
	return len(s.pkt), nil
}

// finish folds and complements. Zero would mean "no checksum" in UDP (RFC 768)
// and is the same number as 0xffff to everybody else; the kernel does so, too.
func finish(sum uint64) uint16 {
	if c := ^uint16(fold(sum)); c != 0 {
		return c
	}
	return 0xffff
}

// startSuper learns the headers of a super-packet. It takes hdr_len from the
// packet: a forwarding kernel may name the length of the whole first fragment
// of its buffer there.
func (s *Splitter) startSuper(pkt []byte) error {
	var proto, field int
	switch version := pkt[0] >> 4; {
	case s.hdr.gsoType&^gsoECN == gsoTCPv4 && version == 4, s.hdr.gsoType&^gsoECN == gsoTCPv6 && version == 6:
		proto, field = protoTCP, tcpChecksum
	case s.hdr.gsoType == gsoUDP && (version == 4 || version == 6):
		proto, field = protoUDP, udpChecksum
	default:
		return errGSO
	}
	s.v4, s.tcp = pkt[0]>>4 == 4, proto == protoTCP
	if err := s.findTransport(pkt, proto, field); err != nil {
		return err
	}
	s.gso = int(s.hdr.gsoSize)
	if s.hdrLen >= len(pkt) {
		return errShort
	}
	if s.gso == 0 || s.hdrLen+s.gso > maxPacket {
		return errGSO
	}
	s.makeTemplate(pkt, proto, field)
	s.at = s.hdrLen
	return nil
}

// findTransport sets ipLen and hdrLen. Of a checksum left to us the kernel
// names the transport header, which may stand behind IPv6 extension headers.
func (s *Splitter) findTransport(pkt []byte, proto, field int) error {
	partial := s.hdr.flags&flagNeedsChecksum != 0
	next := -1 // protocol, where it is next to the IP header
	if s.v4 {
		s.ipLen, next = int(pkt[0]&15)*4, int(pkt[9])
		if s.ipLen < ipv4Len || partial && int(s.hdr.checksumStart) != s.ipLen {
			return errChecksum
		}
	} else {
		s.ipLen = ipv6Len
		if partial {
			s.ipLen = int(s.hdr.checksumStart)
		}
		if s.ipLen < ipv6Len {
			return errChecksum
		}
		if s.ipLen == ipv6Len {
			next = int(pkt[6])
		}
	}
	if partial && int(s.hdr.checksumOffset) != field {
		return errChecksum
	}
	if next >= 0 && next != proto {
		return errGSO
	}
	s.hdrLen = s.ipLen + udpLen
	if s.tcp {
		if len(pkt) < s.ipLen+tcpLen {
			return errShort
		}
		words := int(pkt[s.ipLen+12] >> 4)
		if words*4 < tcpLen {
			return errGSO
		}
		s.hdrLen = s.ipLen + words*4
	}
	return nil
}

// makeTemplate sums what all segments have in common, once, and clears in pkt
// what each has of its own.
func (s *Splitter) makeTemplate(pkt []byte, proto, field int) {
	ip, transport := pkt[:s.ipLen], pkt[s.ipLen:s.hdrLen]
	length := len(pkt) - s.ipLen
	front := uint64(be.Uint16(transport[field:]))
	if s.hdr.flags&flagNeedsChecksum != 0 {
		// The kernel's sum of the pseudo header, as tcp_gso_segment takes it: with
		// the length of the whole, and with the last address of a routing header.
		front += 0xffff - fold(uint64(length))
	} else {
		front = pseudo(ip, proto)
	}
	clear(transport[field : field+2])
	if s.v4 {
		s.id = be.Uint16(ip[4:])
		clear(ip[2:6])
		clear(ip[10:12])
		s.ipSum = Sum(ip)
	}
	if s.tcp {
		s.seq, s.flags = be.Uint32(transport[4:]), transport[tcpFlags]
		clear(transport[4:8])
		transport[tcpFlags] = 0
	} else {
		clear(transport[4:6])
	}
	s.sum = front + Sum(transport)
}

// segment writes the next segment and returns its length.
func (s *Splitter) segment(dst []byte) (int, error) {
	end := min(s.at+s.gso, len(s.pkt))
	payload := s.pkt[s.at:end]
	total := s.hdrLen + len(payload)
	if len(dst) < total {
		return 0, errBuffer
	}
	dst = dst[:total]
	copy(dst, s.pkt[:s.hdrLen])
	sum := s.sum + CopySum(dst[s.hdrLen:], payload)

	if s.v4 {
		be.PutUint16(dst[2:], uint16(total))
		be.PutUint16(dst[4:], s.id)
		be.PutUint16(dst[10:], ^uint16(fold(s.ipSum+uint64(total)+uint64(s.id))))
		s.id++
	} else {
		be.PutUint16(dst[4:], uint16(total-ipv6Len))
	}

	transport, length := dst[s.ipLen:s.hdrLen], uint64(total-s.ipLen)
	if s.tcp {
		flags := s.segmentFlags(end == len(s.pkt))
		be.PutUint32(transport[4:], s.seq)
		transport[tcpFlags] = flags
		sum += length + uint64(s.seq>>16) + uint64(s.seq&0xffff) + uint64(flags)
		be.PutUint16(transport[tcpChecksum:], ^uint16(fold(sum)))
		s.seq += uint32(s.gso)
	} else {
		be.PutUint16(transport[4:], uint16(length))
		be.PutUint16(transport[udpChecksum:], finish(sum+2*length))
	}
	s.at = end
	return total, nil
}

// segmentFlags returns the TCP flags of the next segment: "congestion window
// reduced" is said once, by the first (RFC 3168, Section 6.1.2), the end and
// the push by the last.
func (s *Splitter) segmentFlags(last bool) byte {
	f := s.flags
	if !last {
		f &^= flagFIN | flagPSH
	}
	if s.at != s.hdrLen {
		f &^= flagCWR
	}
	return f
}
