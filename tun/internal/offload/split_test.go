package offload

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*i>>7 + i)
	}
	return b
}

// shapes are super-packets of every kind.
func shapes() map[string]shape {
	m := map[string]shape{}
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			for _, n := range []int{100, 101, 1400, 1401, 2800, 65000} {
				s := shape{v6: v6, udp: udp, df: true, port: 7, flags: flagACK | flagPSH, seq: 1<<32 - 3000, ack: 9, id: 0xfffe,
					ttl: 64, options: 12, gso: 1400, payload: payload(n)}
				m[fmt.Sprintf("v6=%v udp=%v payload=%d", v6, udp, n)] = s
			}
		}
	}
	s := shape{flags: flagACK | flagPSH | flagFIN | flagCWR, options: 40, gso: 3, payload: payload(10), tos: 2, ttl: 1}
	m["CWR, FIN, PSH, options, not DF"] = s
	s.v6 = true
	m["CWR, FIN, PSH, options, IPv6"] = s
	return m
}

func TestSplitEqualsTheReference(t *testing.T) {
	for name, s := range shapes() {
		t.Run(name, func(t *testing.T) { checkSplit(t, s, 128) })
		t.Run(name+" in batches of 7", func(t *testing.T) { checkSplit(t, s, 7) })
	}
}

// checkSplit compares with the reference, and merges again.
func checkSplit(t *testing.T, s shape, batch int) {
	t.Helper()
	everyVariant(t, func(t *testing.T) {
		ip, tl := s.headerLens()
		got, err := split(s.super(), batch, 16, ip+tl+s.gso)
		if err != nil {
			t.Fatal(err)
		}
		want := s.segments()
		if len(got) != len(want) {
			t.Fatalf("%d segments, want %d", len(got), len(want))
		}
		for i := range got {
			mustEqual(t, fmt.Sprintf("segment %d", i), got[i], want[i])
		}
		if len(got) > maxSegments || len(got) < 2 {
			return
		}
		m := &Merger{UDP: true}
		writes, _ := flat(m, m.Plan(got))
		if len(writes) != 1 {
			t.Fatalf("merged to %d writes, want 1", len(writes))
		}
		mustEqual(t, "merged", writes[0], s.super())
	})
}

func TestSinglePacketGetsItsChecksum(t *testing.T) {
	for name, s := range shapes() {
		if len(s.payload) > 1400 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			b := s.super()
			b[1] = gsoNone
			got, err := split(b, 1, 0, len(b)-HeaderLen)
			if err != nil || len(got) != 1 {
				t.Fatal(len(got), err)
			}
			mustEqual(t, "packet", canonical(got[0]), canonical(s.build()))
		})
	}
}

func TestPacketWithoutFlagsIsCopied(t *testing.T) {
	want := shape{payload: []byte("x"), flags: flagACK}.build()
	be.PutUint16(want[ipv4Len+tcpChecksum:], 0xdead)
	got, err := split(append(make([]byte, HeaderLen), want...), 3, 5, 100)
	if err != nil || len(got) != 1 {
		t.Fatal(len(got), err)
	}
	mustEqual(t, "packet", got[0], want)
}

func TestUDPChecksumIsNeverZero(t *testing.T) {
	s := shape{udp: true, gso: 2, payload: []byte{0, 0, 1, 1}}
	// The sum over everything else in place of the payload makes the checksum zero.
	one := s
	one.payload = []byte{0, 0}
	be.PutUint16(s.payload, be.Uint16(one.build()[ipv4Len+udpChecksum:]))
	got, err := split(s.super(), 4, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "segment", got[0], s.segments()[0])
	if sum := be.Uint16(got[0][ipv4Len+udpChecksum:]); sum != 0xffff {
		t.Fatalf("checksum %#x", sum)
	}
}

// TestSplitWithoutPartialChecksum takes a super-packet whose checksum nobody
// left to us: the segments need theirs all the same.
func TestSplitWithoutPartialChecksum(t *testing.T) {
	for name, s := range shapes() {
		b := s.super()
		copy(b, make([]byte, HeaderLen))
		h := parseHeader(s.super())
		h.flags, h.checksumStart, h.checksumOffset, h.headersLen = 0, 0, 0, 0
		h.put(b)
		ip, tl := s.headerLens()
		got, err := split(b, 128, 0, ip+tl+s.gso)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, want := range s.segments() {
			mustEqual(t, name, got[i], want)
		}
	}
}

// TestSplitBehindExtensionHeaders has the kernel's sum of a pseudo header with
// the final address of a routing header, which we could not compute.
func TestSplitBehindExtensionHeaders(t *testing.T) {
	s := shape{v6: true, flags: flagACK, gso: 100, payload: payload(250)}
	plain := s.super()
	ext := append([]byte{protoTCP, 0}, make([]byte, 6)...)
	b := append(bytes.Clone(plain[:HeaderLen+ipv6Len]), ext...)
	b = append(b, plain[HeaderLen+ipv6Len:]...)
	b[HeaderLen+6] = 60 // destination options
	h := parseHeader(b)
	h.checksumStart += 8
	h.headersLen += 8
	h.put(b)
	got, err := split(b, 8, 0, 200)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range s.segments() {
		mustEqual(t, "extension", got[i][ipv6Len:ipv6Len+8], ext)
		mustEqual(t, "segment", got[i][ipv6Len+8:], want[ipv6Len:])
		if n := int(be.Uint16(got[i][4:])); n != len(got[i])-ipv6Len {
			t.Fatalf("payload length %d", n)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	tcp := shape{flags: flagACK, gso: 10, payload: payload(30)}
	udp := shape{udp: true, gso: 10, payload: payload(30)}
	with := func(s shape, alter func(h *header, b []byte)) []byte {
		b := s.super()
		h := parseHeader(b)
		alter(&h, b[HeaderLen:])
		h.put(b)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":            {nil, errShort},
		"no packet":          {make([]byte, HeaderLen+19), errShort},
		"unknown type":       {with(tcp, func(h *header, _ []byte) { h.gsoType = 3 }), errGSO},
		"ECN without type":   {with(tcp, func(h *header, _ []byte) { h.gsoType = gsoECN }), errGSO},
		"other version":      {with(tcp, func(h *header, _ []byte) { h.gsoType = gsoTCPv6 }), errGSO},
		"no version":         {with(udp, func(_ *header, b []byte) { b[0] = 0x25 }), errGSO},
		"other protocol":     {with(udp, func(_ *header, b []byte) { b[9] = 6 }), errGSO},
		"no segment size":    {with(tcp, func(h *header, _ []byte) { h.gsoSize = 0 }), errGSO},
		"too large segments": {with(tcp, func(h *header, _ []byte) { h.gsoSize = 65535 }), errGSO},
		"IP header of 16":    {with(tcp, func(h *header, b []byte) { b[0] = 0x44; h.checksumStart = 16 }), errChecksum},
		"TCP header of 16":   {with(tcp, func(_ *header, b []byte) { b[ipv4Len+12] = 4 << 4 }), errGSO},
		"TCP header cut":     {with(tcp, func(_ *header, b []byte) { b[ipv4Len+12] = 15 << 4 }), errShort},
		"no payload":         {tcp.super()[:HeaderLen+40], errShort},
		"no TCP header":      {tcp.super()[:HeaderLen+39], errShort},
		"wrong start":        {with(tcp, func(h *header, _ []byte) { h.checksumStart = 24 }), errChecksum},
		"wrong offset":       {with(tcp, func(h *header, _ []byte) { h.checksumOffset = 6 }), errChecksum},
		"start in IPv6": {with(shape{v6: true, gso: 10, payload: payload(30)}, func(h *header, _ []byte) {
			h.checksumStart = 39
		}), errChecksum},
		"single, field outside": {with(tcp, func(h *header, _ []byte) { h.gsoType = 0; h.checksumOffset = 49 }), errChecksum},
	} {
		var s Splitter
		if err := s.Start(c.b); !errors.Is(err, c.want) || s.Pending() {
			t.Errorf("%s: %v, pending %v; want %v", name, err, s.Pending(), c.want)
		}
	}
}

func TestSegmentBeyondItsBufferEndsTheSuperPacket(t *testing.T) {
	s := shape{flags: flagACK, gso: 100, payload: payload(250)}
	var sp Splitter
	for _, b := range [][]byte{s.super(), append(make([]byte, HeaderLen), s.build()...)} {
		if err := sp.Start(b); err != nil {
			t.Fatal(err)
		}
		bufs, sizes, intact := slab(4, 8, 139)
		if n, err := sp.Next(bufs, sizes, 8); n != 0 || !errors.Is(err, errBuffer) || sp.Pending() {
			t.Fatal(n, err, sp.Pending())
		}
		if err := intact(); err != nil {
			t.Fatal(err)
		}
	}
	if err := sp.Start(s.super()); err != nil {
		t.Fatal(err)
	}
	if _, err := sp.Next(make([][]byte, 1), make([]int, 1), 8); !errors.Is(err, errBuffer) {
		t.Fatal(err)
	}
}

// FuzzSplit takes any header and any bytes.
func FuzzSplit(f *testing.F) {
	for _, s := range shapes() {
		f.Add(s.super(), uint8(3), uint8(10), uint16(1500))
	}
	f.Fuzz(func(t *testing.T, b []byte, batch, offset uint8, size uint16) {
		if len(b) > 1<<17 {
			return
		}
		packets, err := split(b, 1+int(batch%MaxBatch), int(offset), int(size))
		if err != nil && !errors.Is(err, errShort) && !errors.Is(err, errGSO) && !errors.Is(err, errChecksum) && !errors.Is(err, errBuffer) {
			t.Fatal(err)
		}
		total := 0
		for _, p := range packets {
			total += len(p)
		}
		if err == nil && len(packets) > 0 && total < len(b)-HeaderLen {
			t.Fatalf("%d bytes became %d", len(b)-HeaderLen, total)
		}
	})
}

// FuzzSplitEqualsTheReference takes any valid super-packet.
func FuzzSplitEqualsTheReference(f *testing.F) {
	f.Add(uint8(0), uint8(3), uint8(0xff), uint32(1), uint16(0xffff), uint16(100), payload(1000))
	f.Add(uint8(3), uint8(0), uint8(0), uint32(0xffffffff), uint16(9), uint16(1400), payload(30000))
	f.Fuzz(func(t *testing.T, kind, options, flags uint8, seq uint32, id, gso uint16, data []byte) {
		s := shape{v6: kind&1 != 0, udp: kind&2 != 0, df: kind&4 != 0, port: id, options: int(options%11) * 4,
			flags: flags&(flagFIN|flagPSH|flagCWR|0x40) | flagACK, seq: seq, ack: seq, id: id, ttl: flags, tos: flags,
			gso: int(gso), payload: data}
		if len(data) == 0 || gso == 0 || len(data) > 60000 || len(data)/s.gso > 2000 || s.gso > 60000 {
			return
		}
		checkSplit(t, s, 1+int(options)%MaxBatch)
	})
}

func BenchmarkSplit(b *testing.B) {
	for _, s := range []shape{
		{flags: flagACK, options: 12, gso: 1328, payload: payload(48 * 1328), df: true},
		{udp: true, gso: 1352, payload: payload(48 * 1352)},
	} {
		for _, v := range variants() {
			b.Run(fmt.Sprintf("udp=%v/variant=%s", s.udp, v.name), func(b *testing.B) {
				defer v.use()()
				raw := s.super()
				in := make([]byte, len(raw))
				bufs, sizes, _ := slab(MaxBatch, 64, 1400)
				var sp Splitter
				b.SetBytes(int64(len(s.payload)))
				b.ReportAllocs()
				for b.Loop() {
					copy(in[:128], raw) // Start clears fields of the headers
					if err := sp.Start(in); err != nil {
						b.Fatal(err)
					}
					if n, err := sp.Next(bufs, sizes, 64); n != 48 || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}
