package ippkt

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

var (
	a4, b4 = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	a6, b6 = netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2")
)

// packet4 returns an IPv4 packet with right checksum; options are padded.
func packet4(proto byte, flags uint16, options, body []byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	h := make([]byte, header4, header4+len(options)+len(body))
	h = append(h, options...)
	head := len(h)
	h[0], h[8], h[9] = 0x40|byte(head/4), 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(head+len(body)))
	binary.BigEndian.PutUint16(h[4:], 0x4711)
	binary.BigEndian.PutUint16(h[6:], flags)
	copy(h[12:], a4.AsSlice())
	copy(h[16:], b4.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(h, 0)))
	return append(h, body...)
}

// packet6 returns an IPv6 packet; ext are extension headers before the body.
func packet6(next byte, ext, body []byte) []byte {
	h := make([]byte, header6)
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(ext)+len(body)))
	copy(h[8:], a6.AsSlice())
	copy(h[24:], b6.AsSlice())
	return append(append(h, ext...), body...)
}

// tcp returns a segment whose checksum is right for the addresses.
func tcp(flags byte, options []byte, v6 bool) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	s := make([]byte, headerTCP)
	s = append(s, options...)
	s[12], s[13] = byte(len(s)/4)<<4, flags
	binary.BigEndian.PutUint16(s, 1234)
	binary.BigEndian.PutUint16(s[2:], 80)
	s = append(s, "data"...)
	binary.BigEndian.PutUint16(s[16:], ^tcpSum(s, v6))
	return s
}

func tcpSum(s []byte, v6 bool) uint16 {
	src, dst := a4.AsSlice(), b4.AsSlice()
	if v6 {
		src, dst = a6.AsSlice(), b6.AsSlice()
	}
	return fold(sum(s, sum(dst, sum(src, uint32(len(s))+protoTCP))))
}

// checks4 says whether the header's checksum is right.
func checks4(b []byte) bool { return fold(sum(b[:int(b[0]&15)*4], 0)) == 0xffff }

func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		pkt      []byte
		src, dst netip.Addr
	}{
		{packet4(17, 0, nil, nil), a4, b4},
		{packet6(17, nil, nil), a6, b6},
	} {
		if src, dst, ok := Endpoints(c.pkt); !ok || src != c.src || dst != c.dst {
			t.Errorf("Endpoints = %v, %v, %v", src, dst, ok)
		}
		for n := range c.pkt {
			if _, _, ok := Endpoints(c.pkt[:n]); ok {
				t.Errorf("%d bytes have addresses", n)
			}
		}
	}
	if _, _, ok := Endpoints(make([]byte, 100)); ok {
		t.Error("version 0 has addresses")
	}
}

// RFC 6040, Figure 4, as it stands there; drop is drop.
func TestDecapsulateFollowsRFC6040(t *testing.T) {
	table := []struct{ inner, outer, want byte }{
		{NotECT, NotECT, NotECT}, {NotECT, ECT0, NotECT}, {NotECT, ECT1, NotECT}, {NotECT, CE, drop},
		{ECT0, NotECT, ECT0}, {ECT0, ECT0, ECT0}, {ECT0, ECT1, ECT1}, {ECT0, CE, CE},
		{ECT1, NotECT, ECT1}, {ECT1, ECT0, ECT1}, {ECT1, ECT1, ECT1}, {ECT1, CE, CE},
		{CE, NotECT, CE}, {CE, ECT0, CE}, {CE, ECT1, CE}, {CE, CE, CE},
	}
	const dscp = 46 << 2
	for _, c := range table {
		p4 := packet4(17, 0, nil, []byte("12345678"))
		replace16(p4, 0, 10, 0x4500|dscp|uint16(c.inner))
		p6 := packet6(17, nil, []byte("12345678"))
		p6[0], p6[1] = 0x60|dscp>>4, dscp<<4&0xff|c.inner<<4|0x0a // flow label 0xa....
		for _, p := range [][]byte{p4, p6} {
			if TrafficClass(p) != dscp|c.inner {
				t.Fatalf("traffic class %#x before", TrafficClass(p))
			}
			ok := Decapsulate(p, c.outer|0xfc)
			switch {
			case ok != (c.want != drop):
				t.Errorf("inner %d outer %d: passes %v", c.inner, c.outer, ok)
			case ok && TrafficClass(p) != dscp|c.want:
				t.Errorf("inner %d outer %d: traffic class %#x, want ECN %d and the DSCP untouched", c.inner, c.outer, TrafficClass(p), c.want)
			}
		}
		if !checks4(p4) {
			t.Errorf("inner %d outer %d: header checksum broken", c.inner, c.outer)
		}
		if p6[1]&0x0f != 0x0a {
			t.Error("flow label changed")
		}
	}
}

func TestEncapsulateCopiesECNOnly(t *testing.T) {
	for c := range 256 {
		if Encapsulate(byte(c)) != byte(c)&3 {
			t.Errorf("traffic class %#x gives outer ECN %d", c, Encapsulate(byte(c)))
		}
	}
}

func TestClampMSSLowersSYNsOnly(t *testing.T) {
	mss := func(n uint16) []byte { return []byte{1, 1, 2, 4, byte(n >> 8), byte(n)} }
	odd := func(n uint16) []byte { return []byte{1, 2, 4, byte(n >> 8), byte(n), 1} }
	hop := []byte{6, 0, 1, 4, 0, 0, 0, 0}
	for _, c := range []struct {
		name string
		pkt  []byte
		want uint16 // 0: unchanged
		off  int    // of TCP
	}{
		{"SYN", packet4(6, 0x4000, nil, tcp(flagSYN, mss(1460), false)), 1360, 20},
		{"SYN ACK", packet4(6, 0x4000, nil, tcp(flagSYN|0x10, mss(1460), false)), 1360, 20},
		{"odd place", packet4(6, 0x4000, nil, tcp(flagSYN, odd(1460), false)), 1360, 20},
		{"IP options", packet4(6, 0x4000, []byte{1, 1, 1, 1}, tcp(flagSYN, mss(1460), false)), 1360, 24},
		{"IPv6", packet6(6, nil, tcp(flagSYN, mss(1440), true)), 1340, 40},
		{"IPv6, odd", packet6(6, nil, tcp(flagSYN, odd(1440), true)), 1340, 40},
		{"IPv6 behind an extension", packet6(0, hop, tcp(flagSYN, mss(1440), true)), 1340, 48},
		{"no SYN", packet4(6, 0x4000, nil, tcp(0x10, mss(1460), false)), 0, 20},
		{"small already", packet4(6, 0x4000, nil, tcp(flagSYN, mss(1360), false)), 0, 20},
		{"no option", packet4(6, 0x4000, nil, tcp(flagSYN, nil, false)), 0, 20},
		{"option behind the end", packet4(6, 0x4000, nil, tcp(flagSYN, []byte{0, 1, 2, 4, 5, 180}, false)), 0, 20},
		{"option of length 0", packet4(6, 0x4000, nil, tcp(flagSYN, []byte{8, 0, 2, 4, 5, 180}, false)), 0, 20},
		{"later fragment", packet4(6, 100, nil, tcp(flagSYN, mss(1460), false)), 0, 20},
		{"UDP", packet4(17, 0, nil, tcp(flagSYN, mss(1460), false)), 0, 20},
	} {
		before := append([]byte(nil), c.pkt...)
		changed := ClampMSS(c.pkt, 1400)
		if changed != (c.want != 0) || !changed && !bytes.Equal(before, c.pkt) {
			t.Errorf("%s: changed %v", c.name, changed)
			continue
		}
		if !changed {
			continue
		}
		seg := c.pkt[c.off:]
		at, ok := findMSS(seg[:int(seg[12]>>4)*4])
		if got := binary.BigEndian.Uint16(seg[at:]); !ok || got != c.want {
			t.Errorf("%s: MSS %d, want %d", c.name, got, c.want)
		}
		if tcpSum(seg, c.pkt[0]>>4 == 6) != 0xffff {
			t.Errorf("%s: checksum broken", c.name)
		}
	}
}

// reassemble is RFC 791 the simple way.
func reassemble(t *testing.T, frags [][]byte) []byte {
	t.Helper()
	body := map[int][]byte{}
	end := -1
	for _, f := range frags {
		head := int(f[0]&15) * 4
		field := binary.BigEndian.Uint16(f[6:])
		off := int(field&offsetMask) * 8
		body[off] = f[head:]
		if field&flagMF == 0 {
			end = off + len(f) - head
		} else if (len(f)-head)%8 != 0 {
			t.Fatalf("a fragment that is not the last has %d bytes", len(f)-head)
		}
	}
	var out []byte
	for len(out) < end {
		part, ok := body[len(out)]
		if !ok {
			t.Fatalf("nothing at offset %d", len(out))
		}
		out = append(out, part...)
	}
	return out
}

func TestFragmentsGoTogetherAgain(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	// Record route is not copied, the security option (0x82) is.
	options := []byte{7, 7, 4, 0, 0, 0, 0, 1, 0x82, 4, 9, 9}
	for range 2000 {
		var opts []byte
		if rng.IntN(2) == 0 {
			opts = append(opts, options...)
		}
		body := make([]byte, 1+rng.IntN(9000))
		for i := range body {
			body[i] = byte(rng.Uint32())
		}
		pkt := packet4(17, 0, opts, body)
		before := append([]byte(nil), pkt...)
		mtu := MinFragment + rng.IntN(2000)
		var frags [][]byte
		n := Fragment(pkt, mtu, func(n int) []byte {
			frags = append(frags, make([]byte, n))
			return frags[len(frags)-1]
		})
		if n != len(frags) || n == 0 || !bytes.Equal(pkt, before) {
			t.Fatalf("%d pieces of %d bytes with MTU %d", n, len(pkt), mtu)
		}
		for i, f := range frags {
			total, ok := Len(f)
			if !ok || total != len(f) || len(f) > mtu || !checks4(f) {
				t.Fatalf("piece %d: length %d of %d, MTU %d, checksum %v", i, total, len(f), mtu, checks4(f))
			}
			if binary.BigEndian.Uint16(f[4:]) != 0x4711 || f[9] != 17 || !bytes.Equal(f[12:20], pkt[12:20]) {
				t.Fatalf("piece %d: identification, protocol or addresses differ", i)
			}
			if i > 0 && len(opts) > 0 && !bytes.Equal(f[20:24], []byte{0x82, 4, 9, 9}) {
				t.Fatalf("piece %d: options % x", i, f[20:int(f[0]&15)*4])
			}
		}
		if got := reassemble(t, frags); !bytes.Equal(got, body) {
			t.Fatalf("reassembled %d bytes of %d", len(got), len(body))
		}
	}
}

// A fragment that is cut again keeps its place.
func TestFragmentOfAFragment(t *testing.T) {
	body := bytes.Repeat([]byte("12345678"), 100)
	pkt := packet4(17, flagMF|40, nil, body)
	var frags [][]byte
	Fragment(pkt, 300, func(n int) []byte {
		frags = append(frags, make([]byte, n))
		return frags[len(frags)-1]
	})
	at := 40
	for i, f := range frags {
		field := binary.BigEndian.Uint16(f[6:])
		if int(field&offsetMask) != at || field&flagMF == 0 {
			t.Fatalf("piece %d: field %#x, want offset %d and more", i, field, at)
		}
		at += (len(f) - header4) / 8
	}
	if at != 140 {
		t.Errorf("pieces end at %d, want 140", at)
	}
}

func TestFragmentRefuses(t *testing.T) {
	next := func(n int) []byte { return make([]byte, n) }
	odd := packet4(17, flagMF, nil, make([]byte, 1001))
	for name, c := range map[string]struct {
		pkt []byte
		mtu int
	}{
		"DF":                         {packet4(17, flagDF, nil, make([]byte, 1000)), 500},
		"IPv6":                       {packet6(17, nil, make([]byte, 1000)), 500},
		"an MTU below every header":  {packet4(17, 0, nil, make([]byte, 1000)), 60},
		"a fragment of odd length":   {odd, 500},
		"what would end behind 64 K": {packet4(17, 8190, nil, make([]byte, 1000)), 500},
	} {
		if n := Fragment(c.pkt, c.mtu, next); n != 0 {
			t.Errorf("%s is cut into %d pieces", name, n)
		}
	}
	if n := Fragment(packet4(17, 0, nil, make([]byte, 1000)), 500, func(int) []byte { return nil }); n != 0 {
		t.Errorf("%d pieces without room", n)
	}
}

func TestTooBigTellsTheSender(t *testing.T) {
	out := make([]byte, MaxError)
	p4 := packet4(17, flagDF, nil, make([]byte, 1400))
	n := TooBig(out, p4, 1300)
	b := out[:n]
	src, dst, _ := Endpoints(b)
	if total, ok := Len(b); !ok || total != n || n > 576 || !checks4(b) || src != b4 || dst != a4 || b[9] != protoICMP {
		t.Fatalf("ICMP error % x", b[:28])
	}
	m := b[header4:]
	if m[0] != 3 || m[1] != 4 || binary.BigEndian.Uint16(m[6:]) != 1300 || fold(sum(m, 0)) != 0xffff || !bytes.Equal(m[8:], p4[:n-28]) {
		t.Errorf("ICMP message % x", m[:8])
	}

	p6 := packet6(17, nil, make([]byte, 1400))
	n = TooBig(out, p6, 1390)
	b = out[:n]
	src, dst, _ = Endpoints(b)
	if total, ok := Len(b); !ok || total != n || n > MinMTU6 || src != b6 || dst != a6 || b[6] != protoICMPv6 {
		t.Fatalf("ICMPv6 error % x", b[:48])
	}
	m = b[header6:]
	pseudo := sum(b[8:40], uint32(len(m))+protoICMPv6)
	if m[0] != 2 || m[1] != 0 || binary.BigEndian.Uint32(m[4:]) != 1390 || fold(sum(m, pseudo)) != 0xffff || !bytes.Equal(m[8:], p6[:n-48]) {
		t.Errorf("ICMPv6 message % x", m[:8])
	}
	// Nobody may be told of less than 1280.
	n = TooBig(out, p6, 1000)
	if got := binary.BigEndian.Uint32(out[header6+4:]); n == 0 || got != MinMTU6 {
		t.Errorf("ICMPv6 says %d for an MTU of 1000", got)
	}
}

// The same errors with another type and code: RFC 1812, Section 5.2.7.1, and
// RFC 4443, Section 3.1.
func TestProhibitedTellsTheSender(t *testing.T) {
	for _, c := range []struct {
		pkt       []byte
		src, dst  netip.Addr
		head      int
		proto     byte
		typ, code byte
	}{
		{packet4(17, 0, nil, make([]byte, 1400)), b4, a4, header4, protoICMP, 3, 13},
		{packet4(6, 0, nil, make([]byte, 20)), b4, a4, header4, protoICMP, 3, 13},
		{packet6(17, nil, make([]byte, 1400)), b6, a6, header6, protoICMPv6, 1, 1},
		{packet6(6, nil, make([]byte, 21)), b6, a6, header6, protoICMPv6, 1, 1},
	} {
		out := bytes.Repeat([]byte{0xee}, MaxError)
		b := out[:Prohibited(out, c.pkt)]
		src, dst, _ := Endpoints(b)
		if total, ok := Len(b); !ok || total != len(b) || src != c.src || dst != c.dst {
			t.Fatalf("ICMP error % x", b)
		}
		m, pseudo := b[c.head:], uint32(0)
		if Is6(b) {
			pseudo = sum(b[8:40], uint32(len(m))+protoICMPv6)
		}
		if _, proto, _ := upper(b); proto != c.proto || m[0] != c.typ || m[1] != c.code || binary.BigEndian.Uint32(m[4:]) != 0 || fold(sum(m, pseudo)) != 0xffff {
			t.Errorf("ICMP message % x", m[:8])
		}
		if quote := m[icmpHeader:]; len(quote) < min(len(c.pkt), quote4) || !bytes.Equal(quote, c.pkt[:len(quote)]) {
			t.Errorf("%d bytes quoted of %d", len(quote), len(c.pkt))
		}
	}
}

func TestICMPErrorsAnswerNoErrors(t *testing.T) {
	out := make([]byte, MaxError)
	to := func(p []byte, src, dst string) []byte {
		s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
		if s.Is4() {
			copy(p[12:], s.AsSlice())
			copy(p[16:], d.AsSlice())
			return p
		}
		copy(p[8:], s.AsSlice())
		copy(p[24:], d.AsSlice())
		return p
	}
	body := func(typ byte) []byte { return append([]byte{typ}, make([]byte, 1400)...) }
	for name, p := range map[string][]byte{
		"an ICMP error":        packet4(protoICMP, flagDF, nil, body(3)),
		"an ICMPv6 error":      packet6(protoICMPv6, nil, body(1)),
		"a later fragment":     packet4(17, flagDF|7, nil, body(0)),
		"from nobody":          to(packet4(17, flagDF, nil, body(0)), "0.0.0.0", "10.9.0.2"),
		"to many":              to(packet4(17, flagDF, nil, body(0)), "10.9.0.1", "224.0.0.1"),
		"IPv6 to many":         to(packet6(17, nil, body(0)), "fd09::1", "ff02::1"),
		"no packet":            {0x45, 0},
		"longer than it is":    packet4(17, flagDF, nil, body(0))[:100],
		"IPv6 of wrong length": packet6(17, nil, body(0))[:100],
	} {
		if TooBig(out, p, 1300) != 0 || Prohibited(out, p) != 0 {
			t.Errorf("%s is answered", name)
		}
	}
	for name, p := range map[string][]byte{
		"an echo request":  packet4(protoICMP, flagDF, nil, body(8)),
		"an ICMPv6 echo":   packet6(protoICMPv6, nil, body(128)),
		"an IPv6 fragment": packet6(extFragment, []byte{17, 0, 0, 64, 0, 0, 0, 1}, body(0)),
	} {
		if TooBig(out, p, 1300) == 0 || Prohibited(out, p) == 0 {
			t.Errorf("%s is not answered", name)
		}
	}
}

// Whatever a peer sends: no panic, and no byte behind the packet touched.
func FuzzPackets(f *testing.F) {
	f.Add(packet4(6, 0, []byte{7, 3, 4, 0}, tcp(flagSYN, []byte{2, 4, 5, 180}, false)), uint16(1300), byte(3))
	f.Add(packet6(0, []byte{6, 0, 1, 4, 0, 0, 0, 0}, tcp(flagSYN, []byte{2, 4, 5, 180}, true)), uint16(1280), byte(1))
	f.Add(packet4(17, 0, nil, make([]byte, 3000)), uint16(576), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, mtu uint16, outer byte) {
		n, ok := Len(b)
		Endpoints(b)
		MayFragment(b)
		ClampMSS(append([]byte(nil), b...), int(mtu))
		out := make([]byte, MaxError)
		if TooBig(out, b, int(mtu)) > MaxError || Prohibited(out, b) > MaxError {
			t.Fatal("longer than its room")
		}
		if !ok {
			return
		}
		p := append([]byte(nil), b[:n]...)
		right := p[0]>>4 == 6 || checks4(p)
		if Decapsulate(p, outer) && right && p[0]>>4 == 4 && !checks4(p) {
			t.Fatal("checksum broken")
		}
		total, head := 0, int(p[0]&15)*4
		Fragment(p, int(mtu), func(n int) []byte {
			if n > int(mtu) {
				t.Fatalf("a piece of %d bytes with MTU %d", n, mtu)
			}
			total++
			return make([]byte, n)
		})
		if total > 0 && total > (n-head)/8+1 {
			t.Fatalf("%d pieces of %d bytes", total, n)
		}
	})
}

func TestNothingAllocates(t *testing.T) {
	out := make([]byte, MaxError)
	syn4 := packet4(6, 0x4000, nil, tcp(flagSYN, []byte{2, 4, 5, 180}, false))
	ack6 := packet6(6, nil, tcp(0x10, nil, true))
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range [][]byte{syn4, ack6} {
			Len(p)
			Endpoints(p)
			ClampMSS(p, 1300)
			Decapsulate(p, 3)
			TooBig(out, p, 1300)
			Prohibited(out, p)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
