package filter

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// ends are our address and the peer's in both versions.
var ends = [][2]netip.Addr{{own4, peer4}, {own6, peer6}}

func icmpProto(a netip.Addr) byte {
	if a.Is4() {
		return ipICMP4
	}
	return ipICMP6
}

func TestNoRuleNoPacket(t *testing.T) {
	for name, rules := range map[string][]Rule{
		"none":         nil,
		"others":       {rule("app", "db", "")},
		"bad":          {{From: Selector{}, To: nil}},
		"bad ports":    {{From: Selector{}, To: Selector{}, Proto: ProtoAny, Ports: []Range{Port(1)}}},
		"one too many": make([]Rule, maxRules+1),
	} {
		p := Compile(rules, role("web"), role("app"))
		if p.MayInitiate() || p.MayBeReached() {
			t.Errorf("%s: something is allowed", name)
		}
		for _, e := range ends {
			for _, pkt := range [][]byte{
				ip(e[0], e[1], ipTCP, tcp(1000, 80, fSYN)), ip(e[0], e[1], ipTCP, tcp(80, 1000, fACK)),
				ip(e[0], e[1], ipUDP, udp(1000, 53)), ip(e[0], e[1], 132, nil),
				ip(e[0], e[1], icmpProto(e[0]), icmpMessage(8)), ip(e[0], e[1], icmpProto(e[0]), icmpMessage(128)),
			} {
				wantOut(t, p, pkt, false)
				if p.Inbound(pkt, start) == Pass {
					t.Errorf("%s: passed %x", name, pkt)
				}
			}
		}
	}
}

func TestEmptySelectorsAllowAll(t *testing.T) {
	p := Compile([]Rule{{From: Selector{}, To: Selector{}}}, nil, role("x"))
	if !p.MayInitiate() || !p.MayBeReached() {
		t.Fatal("not allowed")
	}
	for _, e := range ends {
		for _, pkt := range [][]byte{
			ip(e[0], e[1], ipTCP, tcp(1, 2, fSYN)), ip(e[0], e[1], ipUDP, udp(1, 2)), ip(e[0], e[1], 132, []byte{1}),
		} {
			wantOut(t, p, pkt, true)
			wantIn(t, p, pkt, Pass)
		}
	}
}

func TestForwardChecksProtocolAndDestinationPort(t *testing.T) {
	p := webToApp(ProtoTCP, Port(80), Ports(8000, 8010))
	for _, e := range ends {
		for port, want := range map[uint16]bool{79: false, 80: true, 81: false, 7999: false, 8000: true, 8005: true, 8010: true, 8011: false, 0: false, 65535: false} {
			wantOut(t, p, ip(e[0], e[1], ipTCP, tcp(5000, port, fSYN)), want)
			wantOut(t, p, ip(e[0], e[1], ipUDP, udp(5000, port)), false)
			wantIn(t, p, ip(e[1], e[0], ipTCP, tcp(5000, port, fSYN)), DropNoRule)
		}
	}
	if !p.MayInitiate() || p.MayBeReached() {
		t.Error("directions are mixed up")
	}
}

func TestTCPAnswersButNeverConnects(t *testing.T) {
	p := webToApp(ProtoTCP, Port(80))
	for _, e := range ends {
		for flags, want := range map[byte]Verdict{
			fSYN: DropNotReply, fSYN | fFIN: DropNotReply, fSYN | fRST: DropNotReply, 0: DropNotReply, fFIN: DropNotReply,
			fSYN | 0x08: DropNotReply, fSYN | 0xc0: DropNotReply, // with PSH; with ECE and CWR
			fSYN | fACK: Pass, fACK: Pass, fRST: Pass, fRST | fACK: Pass, fFIN | fACK: Pass,
		} {
			wantIn(t, p, ip(e[1], e[0], ipTCP, tcp(80, 5000, flags)), want)
		}
		wantIn(t, p, ip(e[1], e[0], ipTCP, tcp(81, 5000, fACK)), DropNoRule)
	}
}

func TestUDPAnswersOnlyToPermittedFlows(t *testing.T) {
	for _, e := range ends {
		p := webToApp(ProtoUDP, Port(53))
		answer := ip(e[1], e[0], ipUDP, udp(53, 5000))
		wantIn(t, p, answer, DropNotReply)
		wantOut(t, p, ip(e[0], e[1], ipUDP, udp(5000, 54)), false)
		wantIn(t, p, answer, DropNotReply)
		wantOut(t, p, ip(e[0], e[1], ipUDP, udp(5000, 53)), true)
		wantIn(t, p, answer, Pass)
		wantIn(t, p, ip(e[1], e[0], ipUDP, udp(53, 5001)), DropNotReply)
		wantIn(t, p, ip(e[1], e[0], ipUDP, udp(54, 5000)), DropNoRule)
		wantIn(t, p, ip(e[1], third4, ipUDP, udp(53, 5000)), DropNotReply)
	}
}

func TestReachedMachineAnswers(t *testing.T) {
	rules := []Rule{rule("web", "app", ProtoUDP, Port(53))}
	p := Compile(rules, role("app"), role("web"))
	if p.MayInitiate() || !p.MayBeReached() {
		t.Fatal("directions are mixed up")
	}
	answer := ip(own4, peer4, ipUDP, udp(53, 5000))
	wantOut(t, p, answer, false)
	wantIn(t, p, ip(peer4, own4, ipUDP, udp(5000, 53)), Pass)
	wantOut(t, p, answer, true)
}

func TestFlowExpiresWhenIdle(t *testing.T) {
	p := webToApp(ProtoUDP)
	query, answer := ip(own4, peer4, ipUDP, udp(5000, 53)), ip(peer4, own4, ipUDP, udp(53, 5000))
	now := start
	if !p.Outbound(query, now) {
		t.Fatal("query refused")
	}
	// Answers keep it alive.
	for range 5 {
		now = now.Add(flowIdle - time.Millisecond)
		if v := p.Inbound(answer, now); v != Pass {
			t.Fatalf("answer: %v", v)
		}
	}
	if v := p.Inbound(answer, now.Add(flowIdle)); v != DropNotReply {
		t.Errorf("after %v idle: %v", flowIdle, v)
	}
}

func TestPolicyChangeKeepsFlowsThatStayAllowed(t *testing.T) {
	query := func(port uint16) []byte { return ip(own4, peer4, ipUDP, udp(5000, port)) }
	answer := func(port uint16) []byte { return ip(peer4, own4, ipUDP, udp(port, 5000)) }
	old := webToApp(ProtoUDP, Port(53), Port(123))
	wantOut(t, old, query(53), true)
	wantOut(t, old, query(123), true)
	p := webToApp(ProtoUDP, Port(53))
	p.Inherit(old)
	wantIn(t, p, answer(53), Pass)
	wantIn(t, p, answer(123), DropNoRule)
	wantOut(t, p, query(123), false)
	wantIn(t, old, answer(53), DropNotReply) // it gave its flows away
	p.Inherit(webToApp(ProtoUDP))            // nothing to take
	wantIn(t, p, answer(53), DropNotReply)
}

func TestFullFlowTableGivesUpTheLeastRecentlyUsed(t *testing.T) {
	p := webToApp(ProtoUDP, Port(53))
	query := func(port int) []byte { return ip(own4, peer4, ipUDP, udp(uint16(port), 53)) }
	answer := func(port int) []byte { return ip(peer4, own4, ipUDP, udp(53, uint16(port))) }
	for i := range maxFlows {
		wantOut(t, p, query(i), true)
	}
	wantIn(t, p, answer(0), Pass) // used again: 1 is now the oldest
	wantOut(t, p, query(maxFlows), true)
	wantIn(t, p, answer(1), DropNotReply)
	wantIn(t, p, answer(0), Pass)
	wantIn(t, p, answer(2), Pass)
	wantIn(t, p, answer(maxFlows), Pass)
	if n := len(p.lanes[ToPeer].flows.index); n != maxFlows {
		t.Errorf("%d flows are held, want %d", n, maxFlows)
	}
}

func TestOtherProtocolsNeedAnyAndAFlow(t *testing.T) {
	const sctp = 132
	for _, proto := range []Proto{ProtoTCP, ProtoUDP, ProtoICMP} {
		wantOut(t, webToApp(proto), ip(own4, peer4, sctp, []byte("x")), false)
	}
	p := webToApp(ProtoAny)
	answer := ip(peer4, own4, sctp, []byte("y"))
	wantIn(t, p, answer, DropNotReply)
	wantOut(t, p, ip(own4, peer4, sctp, []byte("x")), true)
	wantIn(t, p, answer, Pass)
	wantIn(t, p, ip(peer4, own4, 47, []byte("y")), DropNotReply)
	// The ICMP of the other version is no ICMP.
	wantIn(t, p, ip(peer4, own4, ipICMP6, icmpMessage(128)), DropNotReply)
	wantIn(t, p, ip(peer6, own6, ipICMP4, icmpMessage(8)), DropNotReply)
}

func TestEchoFollowsAnyRule(t *testing.T) {
	for _, p := range []*Pair{webToApp(ProtoTCP, Port(80)), webToApp(ProtoICMP), webToApp("")} {
		wantOut(t, p, ip(own4, peer4, ipICMP4, icmpMessage(8)), true)
		wantOut(t, p, ip(own6, peer6, ipICMP6, icmpMessage(128)), true)
		wantIn(t, p, ip(peer4, own4, ipICMP4, icmpMessage(0)), Pass)
		wantIn(t, p, ip(peer6, own6, ipICMP6, icmpMessage(129)), Pass)
		wantIn(t, p, ip(peer4, own4, ipICMP4, icmpMessage(8)), DropNoRule)
		wantIn(t, p, ip(peer6, own6, ipICMP6, icmpMessage(128)), DropNoRule)
		wantOut(t, p, ip(own4, peer4, ipICMP4, icmpMessage(0)), false)
	}
}

func TestRedirectsAndDiscoveryNeverCross(t *testing.T) {
	p := Compile([]Rule{{From: Selector{}, To: Selector{}}}, nil, nil)
	for typ := range 256 {
		for _, e := range ends {
			v := p.Inbound(ip(e[1], e[0], icmpProto(e[0]), icmpMessage(byte(typ))), start)
			echo := e[0].Is4() && (typ == 0 || typ == 8) || e[0].Is6() && (typ == 128 || typ == 129)
			if (v == Pass) != echo {
				t.Errorf("IPv%d ICMP type %d: %v", 4+2*b2i(e[0].Is6()), typ, v)
			}
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestICMPErrorMustQuoteAPermittedPacket(t *testing.T) {
	p := webToApp(ProtoUDP, Port(53))
	quote := func(b []byte, n int) []byte { return b[:min(n, len(b))] }
	for _, e := range ends {
		head := header4
		types := []byte{3, 11, 12}
		if e[0].Is6() {
			head, types = header6, []byte{1, 2, 3, 4}
		}
		sent := ip(e[0], e[1], ipUDP, udp(5000, 53))
		for _, typ := range types {
			wantIn(t, p, ip(e[1], e[0], icmpProto(e[0]), icmpMessage(typ, quote(sent, head+8)...)), Pass)
		}
		for name, q := range map[string][]byte{
			"nothing":         nil,
			"no ports":        quote(sent, head+3),
			"half a header":   quote(sent, head-1),
			"another port":    ip(e[0], e[1], ipUDP, udp(5000, 54)),
			"tcp":             ip(e[0], e[1], ipTCP, tcp(5000, 53, fSYN)),
			"to a third":      ip(e[0], netip.MustParseAddr(map[bool]string{true: "10.42.0.9", false: "fd00::9"}[e[0].Is4()]), ipUDP, udp(5000, 53)),
			"of a third":      ip(e[1], e[1], ipUDP, udp(5000, 53)),
			"the peer's own":  ip(e[1], e[0], ipUDP, udp(5000, 53)),
			"an error":        ip(e[0], e[1], icmpProto(e[0]), icmpMessage(types[0], sent...)),
			"an echo reply":   ip(e[0], e[1], icmpProto(e[0]), icmpMessage(map[bool]byte{true: 0, false: 129}[e[0].Is4()])),
			"another version": ip(ends[b2i(e[0].Is4())][0], ends[b2i(e[0].Is4())][1], ipUDP, udp(5000, 53)),
		} {
			if v := p.Inbound(ip(e[1], e[0], icmpProto(e[0]), icmpMessage(types[0], q...)), start); v != DropICMP {
				t.Errorf("error quoting %s: %v", name, v)
			}
		}
		// Traceroute: time exceeded about our echo request.
		echo := ip(e[0], e[1], icmpProto(e[0]), icmpMessage(map[bool]byte{true: 8, false: 128}[e[0].Is4()]))
		wantIn(t, p, ip(e[1], e[0], icmpProto(e[0]), icmpMessage(types[1], echo...)), Pass)
		// We complain about the peer's answer: port unreachable.
		answer := ip(e[1], e[0], ipUDP, udp(53, 5000))
		wantOut(t, p, ip(e[0], e[1], icmpProto(e[0]), icmpMessage(types[0], quote(answer, head+8)...)), true)
	}
}

func TestLaterFragmentsFollowTheirFirst(t *testing.T) {
	p := webToApp(ProtoUDP, Port(53))
	data := make([]byte, 16)
	later := func(ident uint16, offset int) []byte {
		return fragment4(ip(own4, peer4, ipUDP, data), ident, offset, false)
	}
	wantOut(t, p, later(7, 16), false) // before its first
	wantOut(t, p, fragment4(ip(own4, peer4, ipUDP, udp(5000, 53)), 7, 0, true), true)
	wantOut(t, p, later(7, 8), true)
	wantOut(t, p, later(7, 16), true)
	wantOut(t, p, later(8, 16), false)                                                      // of another datagram
	wantOut(t, p, fragment4(ip(own4, peer4, ipTCP, data), 7, 24, false), false)             // of another protocol
	wantOut(t, p, fragment4(ip(own4, third4, ipUDP, data), 7, 16, false), false)            // to another address
	wantOut(t, p, fragment4(ip(own4, peer4, ipUDP, udp(5000, 54)), 9, 0, true), false)      // a first that is not allowed
	wantOut(t, p, later(9, 16), false)                                                      // brings no later ones through
	wantIn(t, p, fragment4(ip(own4, peer4, ipUDP, data), 7, 16, false), DropFragment)       // nor those of the other direction
	wantOut(t, p, fragment4(ip(own4, peer4, ipUDP, udp(5000, 53)[:7]), 10, 0, true), false) // half a header
	wantOut(t, p, fragment4(ip(own4, peer4, ipUDP, data), 7, 65528, false), false)          // past the end of any datagram
	wantOut(t, p, fragment4(ip(own4, peer4, ipUDP, nil), 7, 16, false), false)              // empty
	if p.Outbound(later(7, 16), start.Add(fragmentIdle)) {
		t.Error("a later fragment passed after 30 s")
	}
	// The answer may be fragmented as well.
	wantIn(t, p, fragment4(ip(peer4, own4, ipUDP, udp(53, 5000)), 7, 0, true), Pass)
	wantIn(t, p, fragment4(ip(peer4, own4, ipUDP, data), 7, 16, false), Pass)
}

// TestFragmentsCannotRewriteTheHeader is RFC 3128: an overlapping fragment would
// turn an answer into a connection request.
func TestFragmentsCannotRewriteTheHeader(t *testing.T) {
	p := webToApp(ProtoTCP, Port(80))
	ack := tcp(80, 5000, fACK)
	wantIn(t, p, fragment4(ip(peer4, own4, ipTCP, append(ack, 0, 0, 0, 0)), 1, 0, true), Pass)
	wantIn(t, p, fragment4(ip(peer4, own4, ipTCP, make([]byte, 16)), 1, 8, false), DropFragment)
	wantIn(t, p, fragment4(ip(peer4, own4, ipTCP, make([]byte, 16)), 1, 16, false), DropFragment)
	wantIn(t, p, fragment4(ip(peer4, own4, ipTCP, make([]byte, 16)), 1, 24, false), Pass)
	wantIn(t, p, fragment4(ip(peer4, own4, ipTCP, ack[:16]), 2, 0, true), DropMalformed)

	// IPv6 with destination options before the header: 8 + 20 bytes are judged.
	options := append([]byte{ipTCP, 0, 1, 4, 0, 0, 0, 0}, ack...)
	first := fragmentHeader6(ipDestOpts, 9, 0, true, append(options, 0, 0, 0, 0))
	wantIn(t, p, ip6(peer6, own6, ipFragment, first), Pass)
	for offset, want := range map[int]Verdict{8: DropFragment, 24: DropFragment, 32: Pass, 4000: Pass} {
		wantIn(t, p, ip6(peer6, own6, ipFragment, fragmentHeader6(ipDestOpts, 9, offset, true, make([]byte, 8))), want)
	}
	// What a later fragment says of its protocol is ignored by receivers, so here too.
	wantIn(t, p, ip6(peer6, own6, ipFragment, fragmentHeader6(ipUDP, 9, 32, false, make([]byte, 8))), Pass)
}

func TestIPv6ExtensionHeaders(t *testing.T) {
	p := webToApp(ProtoTCP, Port(80))
	syn := tcp(5000, 80, fSYN)
	ext := func(next byte, rest ...byte) []byte { return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, rest...) }
	for name, c := range map[string]struct {
		next byte
		body []byte
		want bool
	}{
		"hop by hop":             {ipHopByHop, ext(ipTCP, syn...), true},
		"two of them":            {ipHopByHop, ext(ipDestOpts, ext(ipTCP, syn...)...), true},
		"atomic fragment":        {ipFragment, fragmentHeader6(ipTCP, 1, 0, false, syn), true},
		"routing, none left":     {ipRouting, append([]byte{ipTCP, 0, 0, 0, 0, 0, 0, 0}, syn...), true},
		"routing, one left":      {ipRouting, append([]byte{ipTCP, 0, 0, 1, 0, 0, 0, 0}, syn...), false},
		"cut":                    {ipHopByHop, ext(ipTCP)[:7], false},
		"length over the end":    {ipHopByHop, append([]byte{ipTCP, 9, 1, 4, 0, 0, 0, 0}, syn...), false},
		"no upper layer":         {ipHopByHop, ext(ipTCP), false},
		"fragment of a fragment": {ipFragment, fragmentHeader6(ipFragment, 1, 0, true, fragmentHeader6(ipTCP, 2, 0, true, syn)), false},
		"fragment in an atomic":  {ipFragment, fragmentHeader6(ipFragment, 1, 0, false, fragmentHeader6(ipTCP, 2, 0, false, syn)), false},
		"no next header":         {59, nil, false},
	} {
		if got := p.Outbound(ip6(own6, peer6, c.next, c.body), start); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	many := syn
	for i := range 20 {
		many = ext(map[bool]byte{true: ipTCP, false: ipDestOpts}[i == 0], many...)
	}
	wantOut(t, p, ip6(own6, peer6, ipDestOpts, many), false)
}

func TestMalformedPackets(t *testing.T) {
	p := Compile([]Rule{{From: Selector{}, To: Selector{}}}, nil, nil)
	for _, e := range ends {
		for _, good := range [][]byte{ip(e[1], e[0], ipTCP, tcp(1, 2, fSYN)), ip(e[1], e[0], ipUDP, udp(1, 2)), ip(e[1], e[0], icmpProto(e[0]), icmpMessage(map[bool]byte{true: 8, false: 128}[e[0].Is4()]))} {
			for n := range good {
				wantIn(t, p, good[:n], DropMalformed)
			}
			wantIn(t, p, append(good, 0, 0, 0), Pass) // TFC padding
		}
	}
	syn := ip4(peer4, own4, ipTCP, tcp(1, 2, fSYN))
	for name, change := range map[string]func(b []byte){
		"version 5":          func(b []byte) { b[0] = 0x55 },
		"short header":       func(b []byte) { b[0] = 0x44 },
		"header over end":    func(b []byte) { b[0] = 0x4f },
		"total below header": func(b []byte) { binary.BigEndian.PutUint16(b[2:], 19) },
		"total over end":     func(b []byte) { binary.BigEndian.PutUint16(b[2:], uint16(len(b)+1)) },
	} {
		b := append([]byte(nil), syn...)
		change(b)
		if v := p.Inbound(b, start); v != DropMalformed {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestSourceRoutedPacketsAreDropped(t *testing.T) {
	p := Compile([]Rule{{From: Selector{}, To: Selector{}}}, nil, nil)
	with := func(options ...byte) []byte {
		b := ip4(peer4, own4, ipTCP, append(append([]byte(nil), options...), tcp(1, 2, fSYN)...))
		b[0] = 0x45 + byte(len(options)/4)
		return b
	}
	wantIn(t, p, with(1, 1, 1, 0), Pass)
	wantIn(t, p, with(148, 4, 0, 0), Pass) // router alert
	for _, bad := range [][]byte{{131, 3, 4, 0}, {137, 3, 4, 0}, {1, 131, 3, 4}, {148, 4, 0, 0, 131, 3, 4, 0}, {7, 9, 4, 0}, {7, 1, 0, 0}, {1, 1, 1, 7}} {
		wantIn(t, p, with(bad...), DropMalformed)
	}
}

func TestNoAllocationPerPacket(t *testing.T) {
	p := webToApp(ProtoUDP, Port(53))
	out, in := ip(own6, peer6, ipUDP, udp(5000, 53)), ip(peer6, own6, ipUDP, udp(53, 5000))
	ack := ip(peer4, own4, ipTCP, tcp(80, 1, fACK))
	frag := fragment4(ip(own4, peer4, ipUDP, udp(5000, 53)), 7, 0, true)
	if n := testing.AllocsPerRun(100, func() {
		if !p.Outbound(out, start) || p.Inbound(in, start) != Pass || p.Inbound(ack, start) == Pass || !p.Outbound(frag, start) {
			t.Fatal("wrong verdict")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	p := webToApp(ProtoUDP)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 5000 {
			p.Outbound(ip(own4, peer4, ipUDP, udp(uint16(i), 53)), start)
		}
	})
	wg.Go(func() {
		for i := range 5000 {
			p.Inbound(ip(peer4, own4, ipUDP, udp(53, uint16(i))), start)
		}
	})
	wg.Wait()
}

func TestNamesOfVerdictsAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range Verdicts() {
		seen[v.String()] = true
	}
	if len(seen) != int(verdictEnd)-1 || seen[""] || Verdict(99).String() != "unknown" || Pass.String() != "pass" {
		t.Errorf("names: %v", seen)
	}
}

func BenchmarkJudge(b *testing.B) {
	p := webToApp(ProtoUDP, Port(53))
	for name, pkt := range map[string][]byte{
		"udp":   ip(own4, peer4, ipUDP, udp(5000, 53)),
		"tcp":   ip(own4, peer4, ipTCP, tcp(80, 5000, fACK)),
		"udp6":  ip(own6, peer6, ipUDP, udp(5000, 53)),
		"later": fragment4(ip(own4, peer4, ipUDP, make([]byte, 8)), 7, 16, false),
	} {
		b.Run("packet="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Outbound(pkt, start)
			}
		})
	}
}
