package offload

// MaxBatch is how many packets a Merger plans at a time.
const MaxBatch = 128

const (
	// maxOpen is how many flows may grow at once; beyond it the oldest stops.
	// Each packet is compared with all of them.
	maxOpen = 8

	// maxSegments bounds a UDP super-packet: UDP_MAX_SEGMENTS of the kernels
	// before 6.9, which take it of the writer, too.
	maxSegments = 64

	maxHeaders = ipv6Len + maxTCPLen
)

// Merger plans how a batch of packets is written to the device: packets of one
// flow that follow each other become one super-packet. The zero Merger merges
// TCP only.
//
// A super-packet goes to the kernel with its checksum marked as yet to be
// computed, which a receiving stack takes for right. The Merger therefore
// merges no packet whose checksum it has not verified: not everything that an
// authenticated peer sends comes from that peer's own stack, and a router
// passes on what was damaged before it.
type Merger struct {
	UDP         bool // the kernel takes UDP super-packets (Linux 6.2)
	AssumeValid bool // skip the verification; for peers that are no routers

	// the plan
	pkts   [][]byte // borrowed
	groups [MaxBatch]group
	n      int
	next   [MaxBatch]uint8 // the packet that follows in its group
	open   [maxOpen]uint8  // groups that may grow, the oldest first
	opened int

	vec [MaxBatch + 1][]byte // the last Vector
}

// group is one write: a packet, or several merged.
type group struct {
	segment            // of the first
	first, last uint8  // packets
	count       uint8  // packets
	flags       byte   // TCP's, of all
	length      int    // of the merged packet
	seq         uint32 // TCP: that must follow
	id          uint16 // IPv4: that must follow
	valid       bool   // the first packet's checksum was found right

	head [HeaderLen + maxHeaders]byte // of the merged packet
}

// Plan looks at a batch of at most MaxBatch IP packets and returns how many
// writes it takes. It borrows pkts until the last call of Vector.
func (m *Merger) Plan(pkts [][]byte) int {
	m.pkts, m.n, m.opened = pkts, 0, 0
	for i := range pkts {
		m.add(uint8(i))
	}
	return m.n
}

// Size returns how many packets the i-th write has, and their bytes.
func (m *Merger) Size(i int) (packets, bytes int) {
	g := &m.groups[i]
	return int(g.count), g.length + int(g.count-1)*g.hdrLen
}

// Packets returns the packets of the i-th write, for a caller that has to send
// them one by one. It is good until the next call of Packets or Vector.
func (m *Merger) Packets(i int) [][]byte {
	g := &m.groups[i]
	p := g.first
	for k := range int(g.count) {
		m.vec[k] = m.pkts[p]
		p = m.next[p]
	}
	return m.vec[:g.count]
}

// Done forgets the packets.
func (m *Merger) Done() {
	clear(m.vec[:min(len(m.pkts)+1, len(m.vec))])
	m.pkts, m.n = nil, 0
}

// add gives a packet its place in the plan. Writes go in the order of their
// first packets, so a flow stays in order if nothing joins a group behind a
// packet of its flow that did not.
func (m *Merger) add(i uint8) {
	pkt := m.pkts[i]
	var s segment
	kind := s.parse(pkt)
	if kind == foreign {
		// A fragment, say, of any flow: nothing may overtake it.
		m.opened = 0
		m.begin(i, pkt, &s)
		return
	}
	if j := m.find(&s.flow); j >= 0 {
		g := &m.groups[m.open[j]]
		if kind == mergeable && g.takes(m.pkts[g.first], pkt, &s) && m.firstValid(g) {
			if m.valid(pkt, &s) {
				m.next[g.last] = i
				if g.join(i, &s) {
					m.close(j)
				}
				return
			}
			kind = single
		}
		m.close(j)
	}
	g := m.begin(i, pkt, &s)
	if kind == mergeable && (m.UDP || s.tcp) && s.flags&(flagFIN|flagPSH) == 0 {
		m.push(g)
	}
}

// begin makes a group of one packet and returns its index.
func (m *Merger) begin(i uint8, pkt []byte, s *segment) uint8 {
	g := &m.groups[m.n]
	g.segment = *s
	g.first, g.last, g.count, g.valid = i, i, 1, false
	g.flags, g.length = s.flags, len(pkt)
	g.seq, g.id = s.seq+uint32(s.payload), s.id+1
	m.n++
	return uint8(m.n - 1)
}

// find returns the place in open of the group that has the flow, -1 if none.
func (m *Merger) find(f *flow) int {
	for j := m.opened - 1; j >= 0; j-- {
		if m.groups[m.open[j]].same(f) {
			return j
		}
	}
	return -1
}

func (m *Merger) close(j int) {
	copy(m.open[j:], m.open[j+1:m.opened])
	m.opened--
}

func (m *Merger) push(g uint8) {
	if m.opened == maxOpen {
		m.close(0)
	}
	m.open[m.opened] = g
	m.opened++
}

// takes says whether a packet continues a group: the sender's kernel could
// have cut both from one super-packet.
func (g *group) takes(first, pkt []byte, s *segment) bool {
	if s.payload > g.payload || g.length+s.payload > maxPacket || s.ipLen != g.ipLen || s.hdrLen != g.hdrLen {
		return false
	}
	if g.v6 {
		// Traffic class and flow label; hop limit.
		if be.Uint32(first) != be.Uint32(pkt) || first[7] != pkt[7] {
			return false
		}
	} else if first[1] != pkt[1] || first[6] != pkt[6] || first[8] != pkt[8] || s.id != g.id && pkt[6]&ipv4DontFragment == 0 {
		// TOS, don't fragment, TTL; the ID counts up unless it means nothing.
		return false
	}
	if !s.tcp {
		return int(g.count) < maxSegments
	}
	a, b := first[g.ipLen:g.hdrLen], pkt[s.ipLen:s.hdrLen]
	return s.seq == g.seq &&
		be.Uint32(a[8:]) == be.Uint32(b[8:]) && a[12] == b[12] && // acknowledgement, reserved bits
		s.flags&^(flagFIN|flagPSH) == g.flags&^flagCWR &&
		be.Uint16(a[14:]) == be.Uint16(b[14:]) && // window
		string(a[18:]) == string(b[18:]) // urgent pointer, options
}

// join adds the i-th packet and says whether the group is full: nothing may
// follow a short packet, or one that carries what only the last may.
func (g *group) join(i uint8, s *segment) (full bool) {
	g.last = i
	g.count++
	g.length += s.payload
	g.seq += uint32(s.payload)
	g.id++
	g.flags |= s.flags
	return s.payload < g.payload || s.flags&(flagFIN|flagPSH) != 0
}

// firstValid verifies the first packet when a second one appears.
func (m *Merger) firstValid(g *group) bool {
	if !g.valid {
		g.valid = m.valid(m.pkts[g.first], &g.segment)
	}
	return g.valid
}

// valid verifies a packet's checksums, that of the IPv4 header, too: a merged
// packet gets a new one.
func (m *Merger) valid(pkt []byte, s *segment) bool {
	if m.AssumeValid {
		return true
	}
	if !s.v6 && ipv4Sum(pkt) != 0xffff {
		return false
	}
	sum := pseudo(pkt[:s.ipLen], s.proto()) + uint64(len(pkt)-s.ipLen) + Sum(pkt[s.ipLen:])
	return fold(sum) == 0xffff
}

// noHeader is the virtio_net_hdr of a packet that is as it should be.
var noHeader [HeaderLen]byte

// Vector returns what the i-th write consists of, the virtio_net_hdr first. It
// is good until the next call.
func (m *Merger) Vector(i int) [][]byte {
	g := &m.groups[i]
	if g.count == 1 {
		m.vec[0], m.vec[1] = noHeader[:], m.pkts[g.first]
		return m.vec[:2]
	}
	m.vec[0] = g.headers(m.pkts[g.first])
	p := g.first
	for k := 1; k <= int(g.count); k++ {
		m.vec[k] = m.pkts[p][g.hdrLen:]
		p = m.next[p]
	}
	return m.vec[:1+int(g.count)]
}

// headers writes the virtio_net_hdr and the headers of a merged packet. The
// packets themselves stay as they are.
func (g *group) headers(first []byte) []byte {
	h := header{
		flags: flagNeedsChecksum, gsoType: gsoUDP,
		headersLen: uint16(g.hdrLen), gsoSize: uint16(g.payload),
		checksumStart: uint16(g.ipLen), checksumOffset: udpChecksum,
	}
	b := g.head[:HeaderLen+g.hdrLen]
	ip, transport := b[HeaderLen:HeaderLen+g.ipLen], b[HeaderLen+g.ipLen:]
	copy(b[HeaderLen:], first[:g.hdrLen])
	if g.v6 {
		be.PutUint16(ip[4:], uint16(g.length-ipv6Len))
	} else {
		be.PutUint16(ip[2:], uint16(g.length))
		clear(ip[10:12])
		be.PutUint16(ip[10:], ^uint16(ipv4Sum(ip)))
	}
	length := g.length - g.ipLen
	if g.tcp {
		h.gsoType, h.checksumOffset = gsoTCPv4, tcpChecksum
		if g.v6 {
			h.gsoType = gsoTCPv6
		}
		if g.flags&flagCWR != 0 {
			h.gsoType |= gsoECN
		}
		transport[tcpFlags] = g.flags
	} else {
		be.PutUint16(transport[4:], uint16(length))
	}
	be.PutUint16(transport[h.checksumOffset:], uint16(fold(pseudo(ip, g.proto())+uint64(length))))
	h.put(b)
	return b
}
