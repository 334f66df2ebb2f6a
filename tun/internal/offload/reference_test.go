package offload

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// shape describes a super-packet, or with one segment a packet.
type shape struct {
	v6, udp  bool
	df       bool
	port     uint16 // tells flows apart
	options  int    // bytes of TCP options, a multiple of 4
	flags    byte
	seq, ack uint32
	id       uint16
	tos, ttl byte
	gso      int
	payload  []byte
}

func (s shape) headerLens() (ip, transport int) {
	ip, transport = ipv4Len, tcpLen+s.options
	if s.v6 {
		ip = ipv6Len
	}
	if s.udp {
		transport = udpLen
	}
	return ip, transport
}

// build returns the packet with these fields, checksums included. It shares no
// code with the package but the constants.
func (s shape) build() []byte {
	ip, tl := s.headerLens()
	p := make([]byte, ip+tl, ip+tl+len(s.payload))
	p = append(p, s.payload...)
	proto, field := byte(protoTCP), tcpChecksum
	if s.udp {
		proto, field = protoUDP, udpChecksum
	}
	var pseudo []byte
	if s.v6 {
		p[0], p[1], p[6], p[7] = 6<<4|s.tos>>4, s.tos<<4, proto, s.ttl
		be.PutUint16(p[4:], uint16(len(p)-ip))
		p[8], p[23], p[24], p[39] = 0xfd, 1, 0xfd, 2
		pseudo = bytes.Clone(p[8:40])
	} else {
		p[0], p[1], p[8], p[9] = 0x45, s.tos, s.ttl, proto
		be.PutUint16(p[2:], uint16(len(p)))
		be.PutUint16(p[4:], s.id)
		if s.df {
			p[6] = 0x40
		}
		copy(p[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
		be.PutUint16(p[10:], ^uint16(reference(p[:20])))
		pseudo = bytes.Clone(p[12:20])
	}
	t := p[ip:]
	be.PutUint16(t, s.port)
	be.PutUint16(t[2:], 443)
	if s.udp {
		be.PutUint16(t[4:], uint16(len(t)))
	} else {
		be.PutUint32(t[4:], s.seq)
		be.PutUint32(t[8:], s.ack)
		t[12], t[13] = byte(tl/4)<<4, s.flags
		be.PutUint16(t[14:], 512)
		for i := range s.options {
			t[tcpLen+i] = byte(i + 1)
		}
	}
	pseudo = append(pseudo, 0, proto, byte(len(t)>>8), byte(len(t)))
	sum := ^uint16(reference(append(pseudo, t...)))
	if sum == 0 && s.udp {
		sum = 0xffff
	}
	be.PutUint16(t[field:], sum)
	return p
}

// segments cuts a super-packet, field by field.
func (s shape) segments() (packets [][]byte) {
	for i, part := range slices.Collect(slices.Chunk(s.payload, s.gso)) {
		one := s
		one.payload = part
		one.seq += uint32(i * s.gso)
		one.id += uint16(i)
		if i > 0 {
			one.flags &^= flagCWR
		}
		if (i+1)*s.gso < len(s.payload) {
			one.flags &^= flagFIN | flagPSH
		}
		packets = append(packets, one.build())
	}
	return packets
}

// super returns what the kernel hands over: a virtio_net_hdr, the packet, and
// in place of the checksum that of the pseudo header.
func (s shape) super() []byte {
	ip, tl := s.headerLens()
	h := header{
		flags: flagNeedsChecksum, gsoType: gsoTCPv4, headersLen: uint16(ip + tl), gsoSize: uint16(s.gso),
		checksumStart: uint16(ip), checksumOffset: tcpChecksum,
	}
	switch {
	case s.udp:
		h.gsoType, h.checksumOffset = gsoUDP, udpChecksum
	case s.v6:
		h.gsoType = gsoTCPv6
	}
	if !s.udp && s.flags&flagCWR != 0 {
		h.gsoType |= gsoECN
	}
	b := append(make([]byte, HeaderLen), s.build()...)
	h.put(b)
	p := b[HeaderLen:]
	proto := byte(protoTCP)
	if s.udp {
		proto = protoUDP
	}
	pseudo := bytes.Clone(p[ip-8 : ip]) // IPv4's addresses
	if s.v6 {
		pseudo = bytes.Clone(p[8:40])
	}
	n := len(p) - ip
	pseudo = append(pseudo, 0, proto, byte(n>>8), byte(n))
	be.PutUint16(p[ip+int(h.checksumOffset):], uint16(reference(pseudo)))
	return b
}

// canonical returns a packet with what may differ made equal: the ID of an
// IPv4 packet that may not be fragmented, with its header checksum, and the
// two forms of a TCP checksum of zero.
func canonical(p []byte) []byte {
	p = bytes.Clone(p)
	at := ipv6Len
	if p[0]>>4 == 4 {
		at = int(p[0]&15) * 4
		if p[6]&0x40 != 0 {
			clear(p[4:6])
			clear(p[10:12])
			be.PutUint16(p[10:], ^uint16(reference(p[:at])))
		}
	}
	if len(p) >= at+tcpLen && be.Uint16(p[at+tcpChecksum:]) == 0 {
		be.PutUint16(p[at+tcpChecksum:], 0xffff)
	}
	return p
}

// slab returns buffers for n packets that lie directly behind each other, and
// a function that checks that nothing outside their packets was written.
func slab(n, offset, size int) (bufs [][]byte, sizes []int, intact func() error) {
	all := bytes.Repeat([]byte{0xA5}, (n+1)*(offset+size))
	for i := range n {
		bufs = append(bufs, all[i*(offset+size):(i+1)*(offset+size):(i+1)*(offset+size)])
	}
	sizes = make([]int, n)
	return bufs, sizes, func() error {
		for i, b := range bufs {
			if len(bytes.Trim(b[:offset], "\xA5")) != 0 || len(bytes.Trim(b[offset+sizes[i]:], "\xA5")) != 0 {
				return fmt.Errorf("wrote outside packet %d of %d bytes", i, sizes[i])
			}
		}
		if len(bytes.Trim(all[n*(offset+size):], "\xA5")) != 0 {
			return fmt.Errorf("wrote behind the last buffer")
		}
		return nil
	}
}

// split runs a Splitter to the end, batch by batch.
func split(b []byte, batch, offset, size int) (packets [][]byte, err error) {
	var s Splitter
	if err := s.Start(bytes.Clone(b)); err != nil {
		return nil, err
	}
	for s.Pending() {
		bufs, sizes, intact := slab(batch, offset, size)
		n, err := s.Next(bufs, sizes, offset)
		if err != nil {
			return packets, err
		}
		if err := intact(); err != nil {
			return packets, err
		}
		for i := range n {
			packets = append(packets, bytes.Clone(bufs[i][offset:][:sizes[i]]))
		}
	}
	return packets, nil
}

// flat returns the writes of a plan, and the packets of each.
func flat(m *Merger, n int) (writes [][]byte, members [][][]byte) {
	for i := range n {
		writes = append(writes, bytes.Join(m.Vector(i), nil))
		members = append(members, slices.Clone(m.Packets(i)))
	}
	return writes, members
}

func mustEqual(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s:\ngot  % x\nwant % x", what, got, want)
	}
}
