package offload

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// plan returns how many packets each write has.
func plan(m *Merger, packets ...[]byte) (counts []int) {
	_, members := flat(m, m.Plan(packets))
	for _, p := range members {
		counts = append(counts, len(p))
	}
	return counts
}

// row is a flow's packets in order, each of 100 bytes of payload.
func row(s shape, n int) [][]byte {
	s.gso, s.payload = 100, payload(100*n)
	if s.flags == 0 {
		s.flags = flagACK
	}
	return s.segments()
}

func TestFollowingPacketsAreMerged(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			s := shape{v6: v6, udp: udp, port: 1, id: 0xffff, seq: 1<<32 - 150}
			if got := plan(&Merger{UDP: true}, row(s, 5)...); !slices.Equal(got, []int{5}) {
				t.Errorf("v6 %v, udp %v: %v", v6, udp, got)
			}
		}
	}
}

func TestUDPNeedsTheKernelsConsent(t *testing.T) {
	if got := plan(&Merger{}, row(shape{udp: true}, 3)...); !slices.Equal(got, []int{1, 1, 1}) {
		t.Fatal(got)
	}
}

func TestInterleavedFlowsAreMerged(t *testing.T) {
	var packets [][]byte
	var want []int
	flows := make([][][]byte, maxOpen)
	for i := range flows {
		flows[i] = row(shape{port: uint16(i / 4), v6: i&1 != 0, udp: i&2 != 0}, 6)
		want = append(want, 6)
	}
	for k := range 6 {
		for i := range flows {
			packets = append(packets, flows[i][k])
		}
	}
	if got := plan(&Merger{UDP: true}, packets...); !slices.Equal(got, want) {
		t.Fatal(got)
	}
	// One flow more than may be open: each finds the oldest closed.
	for k := range 6 {
		packets = slices.Insert(packets, k*(maxOpen+1), row(shape{port: 99}, 6)[k])
	}
	if got := plan(&Merger{UDP: true}, packets...); len(got) != 6*(maxOpen+1) {
		t.Fatal(got)
	}
}

// TestWhatEndsAGroup puts one odd packet behind two of a flow, and one that
// would follow behind that.
func TestWhatEndsAGroup(t *testing.T) {
	rows := row(shape{df: true}, 4)
	edit := func(at int, v byte) func([]byte) []byte {
		return func(p []byte) []byte {
			p[at] = v
			return fix(p)
		}
	}
	udp := row(shape{udp: true}, 4)
	v6 := row(shape{v6: true}, 4)
	for name, c := range map[string]struct {
		rows [][]byte
		odd  func(p []byte) []byte
		want []int
	}{
		"nothing":             {rows, edit(8, 0), []int{4}}, // the TTL is 0 already
		"push":                {rows, edit(33, flagACK|flagPSH), []int{3, 1}},
		"end":                 {rows, edit(33, flagACK|flagFIN), []int{3, 1}},
		"CWR":                 {rows, edit(33, flagACK|flagCWR), []int{2, 2}},
		"ECE":                 {rows, edit(33, flagACK|0x40), []int{2, 1, 1}},
		"urgent":              {rows, edit(33, flagACK|flagURG), []int{2, 1, 1}},
		"reset":               {rows, edit(33, flagACK|flagRST), []int{2, 1, 1}},
		"no ACK":              {rows, edit(33, 0), []int{2, 1, 1}},
		"acknowledgement":     {rows, edit(31, 1), []int{2, 1, 1}},
		"window":              {rows, edit(35, 1), []int{2, 1, 1}},
		"reserved bits":       {rows, edit(32, 0x51), []int{2, 1, 1}},
		"urgent pointer":      {rows, edit(39, 1), []int{2, 1, 1}},
		"sequence":            {rows, edit(27, 1), []int{2, 1, 1}},
		"TOS":                 {rows, edit(1, 3), []int{2, 1, 1}},
		"TTL":                 {rows, edit(8, 63), []int{2, 1, 1}},
		"may be fragmented":   {rows, edit(6, 0), []int{2, 1, 1}},
		"ID with DF":          {rows, edit(4, 77), []int{4}},
		"fragment":            {rows, edit(6, 0x60), []int{2, 1, 1}},
		"reserved IP bit":     {rows, edit(6, 0xc0), []int{2, 1, 1}},
		"ICMP":                {rows, edit(9, 1), []int{2, 1, 1}},
		"IP length":           {rows, edit(3, 139), []int{2, 1, 1}},
		"ID without DF":       {row(shape{}, 4), edit(4, 77), []int{2, 1, 1}},
		"short":               {rows, func(p []byte) []byte { return fix(p[:139]) }, []int{3, 1}},
		"without payload":     {rows, func(p []byte) []byte { return fix(p[:40]) }, []int{2, 1, 1}},
		"long":                {rows, func(p []byte) []byte { return fix(append(p, 0)) }, []int{2, 1, 1}},
		"bad IPv4 checksum":   {rows, func(p []byte) []byte { p[11] ^= 1; return p }, []int{2, 1, 1}},
		"bad checksum":        {rows, func(p []byte) []byte { p[60] ^= 1; return p }, []int{2, 1, 1}},
		"other flow":          {rows, edit(20, 9), []int{2, 1, 1}},
		"not IP":              {rows, func([]byte) []byte { return make([]byte, 60) }, []int{2, 1, 1}},
		"cut":                 {rows, func(p []byte) []byte { return p[:10] }, []int{2, 1, 1}},
		"UDP length":          {udp, edit(25, 107), []int{2, 1, 1}},
		"UDP short":           {udp, func(p []byte) []byte { return fix(p[:127]) }, []int{3, 1}},
		"UDP long":            {udp, func(p []byte) []byte { return fix(append(p, 0)) }, []int{2, 2}}, // shorter than that
		"UDP no checksum":     {udp, func(p []byte) []byte { clear(p[26:28]); return p }, []int{2, 1, 1}},
		"UDP without payload": {udp, func(p []byte) []byte { return fix(p[:28]) }, []int{2, 1, 1}},
		"IPv6 flow label":     {v6, edit(3, 1), []int{2, 1, 1}},
		"IPv6 hop limit":      {v6, edit(7, 1), []int{2, 1, 1}},
		"IPv6 extension":      {v6, edit(6, 0), []int{2, 1, 1}},
		"IPv6 cut":            {v6, func(p []byte) []byte { return p[:39] }, []int{2, 1, 1}},
	} {
		var packets [][]byte
		for _, p := range c.rows {
			packets = append(packets, bytes.Clone(p))
		}
		packets[2] = c.odd(packets[2])
		got := plan(&Merger{UDP: true}, packets...)
		if name == "other flow" {
			c.want = []int{2, 1, 1} // the fourth does not follow the second
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// fix corrects lengths, where they were right but for cutting, and checksums.
func fix(p []byte) []byte {
	ip, old := ipv4Len, 140
	if p[0]>>4 == 6 {
		ip = ipv6Len
		be.PutUint16(p[4:], uint16(len(p)-ip))
	} else {
		if p[9] == protoUDP || p[9] == protoTCP && p[3] != 139 {
			be.PutUint16(p[2:], uint16(len(p)))
		}
		clear(p[10:12])
		be.PutUint16(p[10:], ^uint16(reference(p[:20])))
	}
	proto, field := p[9], tcpChecksum
	pseudo := bytes.Clone(p[12:20])
	if ip == ipv6Len {
		proto, pseudo = protoTCP, bytes.Clone(p[8:40])
	}
	if proto == protoUDP {
		if field = udpChecksum; len(p) != old-12 {
			be.PutUint16(p[ip+4:], uint16(len(p)-ip))
		}
	}
	clear(p[ip+field : ip+field+2])
	n := len(p) - ip
	pseudo = append(pseudo, 0, proto, byte(n>>8), byte(n))
	be.PutUint16(p[ip+field:], ^uint16(reference(append(pseudo, p[ip:]...))))
	return p
}

// TestWrongChecksumStaysWrong is what makes it right to hand merged packets
// over as if their checksum were yet to be computed.
func TestWrongChecksumStaysWrong(t *testing.T) {
	for _, s := range []shape{{}, {v6: true}, {udp: true}, {v6: true, udp: true}} {
		for bad := range 4 {
			packets := row(s, 4)
			packets[bad][len(packets[bad])-1] ^= 0x40
			m := &Merger{UDP: true}
			writes, members := flat(m, m.Plan(packets))
			found := false
			for i, w := range writes {
				if len(members[i]) == 1 && bytes.Equal(members[i][0], packets[bad]) {
					found = true
					mustEqual(t, "write", w, append(make([]byte, HeaderLen), packets[bad]...))
				}
			}
			if !found {
				t.Errorf("%+v: packet %d was merged", s, bad)
			}
			m.AssumeValid = true
			if got := plan(m, packets...); !slices.Equal(got, []int{4}) {
				t.Errorf("assumed valid: %v", got)
			}
		}
	}
}

func TestMergedPacketIsAsLongAsIPAllows(t *testing.T) {
	s := shape{flags: flagACK, gso: 1400, payload: payload(1400 * 60), port: 5}
	packets := s.segments()
	m := &Merger{}
	if got := plan(m, packets...); !slices.Equal(got, []int{46, 14}) {
		t.Fatal(got)
	}
	udp := row(shape{udp: true}, 100)
	if got := plan(&Merger{UDP: true}, udp...); !slices.Equal(got, []int{64, 36}) {
		t.Fatal(got)
	}
}

func TestPacketsAreOnlyBorrowed(t *testing.T) {
	packets := row(shape{}, MaxBatch)
	before := bytes.Join(packets, nil)
	m := &Merger{}
	for i := range m.Plan(packets) {
		m.Vector(i)
	}
	mustEqual(t, "packets", bytes.Join(packets, nil), before)
	m.Done()
	for i, b := range m.vec {
		if b != nil {
			t.Fatalf("slice %d is kept", i)
		}
	}
}

// checkMerge plans a batch and puts the result through the reference: the
// packets of each flow must come out as they went in, and in order.
func checkMerge(t *testing.T, m *Merger, packets [][]byte) {
	t.Helper()
	before := bytes.Join(packets, nil)
	writes, members := flat(m, m.Plan(packets))
	mustEqual(t, "packets", bytes.Join(packets, nil), before)
	got := map[string][][]byte{}
	total := 0
	for i, w := range writes {
		total += len(members[i])
		if n, size := m.Size(i); n != len(members[i]) || size != len(bytes.Join(members[i], nil)) {
			t.Fatalf("write of %d packets has size %d, %d", len(members[i]), n, size)
		}
		parts, err := [][]byte{w[HeaderLen:]}, error(nil)
		if len(members[i]) > 1 {
			parts, err = resegment(w)
		} else if len(bytes.Trim(w[:HeaderLen], "\x00")) != 0 {
			t.Fatalf("a single packet with header % x", w[:HeaderLen])
		}
		if err != nil || len(parts) != len(members[i]) {
			t.Fatalf("write of %d packets is cut into %d, %v", len(members[i]), len(parts), err)
		}
		for _, p := range parts {
			k := flowName(p)
			got[k] = append(got[k], p)
		}
	}
	if total != len(packets) {
		t.Fatalf("%d packets went in, %d came out", len(packets), total)
	}
	for _, p := range packets {
		k := flowName(p)
		if len(got[k]) == 0 {
			t.Fatalf("a packet of flow %q is missing", k)
		}
		g := got[k][0]
		got[k] = got[k][1:]
		if !bytes.Equal(g, p) {
			mustEqual(t, "packet of flow "+k, canonical(g), canonical(p))
		}
	}
}

// flowName says by which fields packets must stay in order; what is no plain
// TCP or UDP is one flow.
func flowName(p []byte) string {
	switch {
	case len(p) >= 28 && p[0] == 0x45 && p[6]&0xbf == 0 && p[7] == 0 && (p[9] == protoTCP || p[9] == protoUDP):
		return fmt.Sprintf("4 %d % x", p[9], p[12:24])
	case len(p) >= 48 && p[0]>>4 == 6 && (p[6] == protoTCP || p[6] == protoUDP):
		return fmt.Sprintf("6 %d % x", p[6], p[8:44])
	}
	return "other"
}

// resegment cuts a merged packet as a receiver without offloads sees it. It
// reads the packet into a shape and lets that build the segments.
func resegment(w []byte) ([][]byte, error) {
	h, p := parseHeader(w), w[HeaderLen:]
	s := shape{v6: p[0]>>4 == 6, udp: h.gsoType == gsoUDP, gso: int(h.gsoSize), payload: p[h.headersLen:]}
	ip := int(h.checksumStart)
	t := p[ip:]
	s.port = be.Uint16(t)
	if s.v6 {
		s.tos, s.ttl = p[0]<<4|p[1]>>4, p[7]
	} else {
		s.tos, s.ttl, s.df, s.id = p[1], p[8], p[6] == 0x40, be.Uint16(p[4:])
		if ^uint16(reference(p[:20])) != 0 {
			return nil, fmt.Errorf("IPv4 header checksum is wrong")
		}
	}
	if !s.udp {
		s.seq, s.ack, s.flags = be.Uint32(t[4:]), be.Uint32(t[8:]), t[13]
		s.options = int(h.headersLen) - ip - tcpLen
	}
	// The generator makes everything else a function of these; so the header must
	// be that of a super-packet with these fields.
	if want := s.super(); !bytes.Equal(w, want) {
		return nil, fmt.Errorf("merged packet\n% x, want\n% x", w[:h.headersLen+HeaderLen], want[:h.headersLen+HeaderLen])
	}
	return s.segments(), nil
}

// script turns bytes into a batch: eight to a packet, so that a fuzzer finds
// packets that follow each other, nearly follow, are damaged, or foreign.
func script(b []byte) (packets [][]byte) {
	type state struct {
		seq uint32
		id  uint16
	}
	flows := map[[3]byte]state{}
	for ; len(b) >= 8 && len(packets) < MaxBatch; b = b[8:] {
		s := shape{v6: b[0]&1 != 0, udp: b[0]&2 != 0, df: b[0]&4 != 0, port: uint16(b[0] >> 4), ttl: 64,
			flags: flagACK, options: int(b[0]>>3&1) * 12, gso: 1500}
		key := [3]byte{b[0] & 3, b[0] >> 4}
		st := flows[key]
		s.seq, s.id, s.ack = st.seq, st.id, uint32(b[1]&1)
		s.payload = payload(int(b[2]) + int(b[3]&7)*200)
		if b[1]&2 != 0 {
			s.flags ^= b[4]
		}
		if b[1]&4 != 0 {
			s.seq += uint32(b[5])
		}
		if b[1]&8 != 0 {
			s.ttl = b[5]
		}
		p := s.build()
		flows[key] = state{s.seq + uint32(len(s.payload)), s.id + 1}
		switch b[1] >> 5 {
		case 1:
			p[int(b[6])%len(p)] ^= b[7] // any byte
		case 2:
			p = p[:1+int(b[6])%len(p)]
		case 3:
			p[len(p)-1] ^= b[7]
		}
		packets = append(packets, p)
	}
	return packets
}

func TestMergedFlowsStayInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	m := &Merger{UDP: true}
	for range 500 {
		b := make([]byte, 8*rng.IntN(MaxBatch+1))
		for i := range b {
			b[i] = byte(rng.Uint32())
			if i%8 == 1 && rng.IntN(4) > 0 {
				b[i] = 0
			}
			if i%8 == 0 {
				b[i] &= 0x3f
			}
			if i%8 == 2 || i%8 == 3 {
				b[i] = byte(rng.IntN(2)) // packets of equal length
			}
		}
		checkMerge(t, m, script(b))
	}
}

func FuzzMerge(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0, 0, 100, 0, 0, 0, 0, 0}, 20), true)
	f.Add(bytes.Repeat([]byte{3, 0, 100, 0, 0, 0, 0, 0, 1, 2, 100, 0, flagPSH, 0, 0, 0}, 20), true)
	f.Add(bytes.Repeat([]byte{0, 0x20, 100, 0, 0, 0, 9, 9, 1, 0, 100, 0, 0, 0, 0, 0}, 20), false)
	m := new(Merger) // what one batch leaves behind must not matter to the next
	f.Fuzz(func(t *testing.T, b []byte, udp bool) {
		m.UDP = udp
		checkMerge(t, m, script(b))
	})
}

// FuzzMergeAnything takes packets of any bytes: nothing is lost, nothing
// panics, whatever is assumed.
func FuzzMergeAnything(f *testing.F) {
	f.Add(bytes.Join(row(shape{}, 3), nil), uint8(140), true)
	f.Add(bytes.Join(row(shape{v6: true, udp: true}, 3), nil), uint8(148), false)
	f.Fuzz(func(t *testing.T, b []byte, size uint8, assume bool) {
		if size == 0 {
			return
		}
		packets := slices.Collect(slices.Chunk(b, int(size)))
		packets = packets[:min(len(packets), MaxBatch)]
		m := &Merger{UDP: true, AssumeValid: assume}
		_, members := flat(m, m.Plan(packets))
		total := 0
		for _, ps := range members {
			total += len(ps)
		}
		if total != len(packets) {
			t.Fatalf("%d packets went in, %d came out", len(packets), total)
		}
	})
}

func TestNothingIsAllocatedPerPacket(t *testing.T) {
	packets := row(shape{}, MaxBatch)
	m, s := &Merger{}, shape{flags: flagACK, gso: 100, payload: payload(1000)}
	b := s.super()
	bufs, sizes, _ := slab(MaxBatch, 0, 200)
	var sp Splitter
	if n := testing.AllocsPerRun(10, func() {
		for i := range m.Plan(packets) {
			m.Vector(i)
		}
		if sp.Start(b) != nil {
			t.Error("refused")
		}
		sp.Next(bufs, sizes, 0)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkMerge(b *testing.B) {
	tcp := shape{flags: flagACK, options: 12, gso: 1328, payload: payload(46 * 1328), df: true}.segments()
	other := shape{flags: flagACK, options: 12, gso: 1328, payload: payload(46 * 1328), df: true, port: 1}.segments()
	var mixed [][]byte
	for i := range 32 {
		mixed = append(mixed, tcp[i], other[i])
	}
	for _, c := range []struct {
		name    string
		packets [][]byte
		assume  bool
	}{{"one", tcp, false}, {"two", mixed, false}, {"one, assumed valid", tcp, true}} {
		for _, v := range variants() {
			b.Run(fmt.Sprintf("flows=%s/variant=%s", c.name, v.name), func(b *testing.B) {
				defer v.use()()
				m := &Merger{AssumeValid: c.assume}
				b.SetBytes(int64(1328 * len(c.packets)))
				b.ReportAllocs()
				for b.Loop() {
					for i := range m.Plan(c.packets) {
						m.Vector(i)
					}
				}
			})
		}
	}
}
