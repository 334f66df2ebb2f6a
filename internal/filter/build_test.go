package filter

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// start is any moment.
var start = time.Unix(1_700_000_000, 0)

// Our addresses and the peer's.
var (
	own4, peer4 = netip.MustParseAddr("10.42.0.1"), netip.MustParseAddr("10.42.0.2")
	own6, peer6 = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	third4      = netip.MustParseAddr("10.42.0.3")
)

const (
	fSYN, fRST, fACK, fFIN = 0x02, 0x04, 0x10, 0x01
)

// ip4 and ip6 wrap an upper layer.
func ip4(src, dst netip.Addr, proto byte, body []byte) []byte {
	b := make([]byte, header4, header4+len(body))
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(header4+len(body)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return append(b, body...)
}

func ip6(src, dst netip.Addr, next byte, body []byte) []byte {
	b := make([]byte, header6, header6+len(body))
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, body...)
}

// ip picks the version by the addresses.
func ip(src, dst netip.Addr, proto byte, body []byte) []byte {
	if src.Is4() {
		return ip4(src, dst, proto, body)
	}
	return ip6(src, dst, proto, body)
}

func tcp(sport, dport uint16, flags byte) []byte {
	b := make([]byte, headerTCP)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[12], b[13] = 5<<4, flags
	return b
}

func udp(sport, dport uint16) []byte {
	b := make([]byte, headerUDP, headerUDP+4)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], headerUDP+4)
	return append(b, "data"...)
}

// icmpMessage carries rest after its 8-byte header.
func icmpMessage(typ byte, rest ...byte) []byte {
	return append([]byte{typ, 0, 0, 0, 0, 1, 0, 1}, rest...)
}

// fragment4 turns a packet into a fragment.
func fragment4(b []byte, ident uint16, offset int, more bool) []byte {
	binary.BigEndian.PutUint16(b[4:], ident)
	v := uint16(offset / 8)
	if more {
		v |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], v)
	return b
}

func fragmentHeader6(next byte, ident uint32, offset int, more bool, body []byte) []byte {
	b := make([]byte, 8, 8+len(body))
	v := uint16(offset)
	if more {
		v |= 1
	}
	b[0] = next
	binary.BigEndian.PutUint16(b[2:], v)
	binary.BigEndian.PutUint32(b[4:], ident)
	return append(b, body...)
}

func role(r string) map[string]string { return map[string]string{"role": r} }

func rule(from, to string, proto Proto, ports ...Range) Rule {
	return Rule{From: role(from), To: role(to), Proto: proto, Ports: ports}
}

// webToApp is a pair seen from web, by one rule.
func webToApp(proto Proto, ports ...Range) *Pair {
	return Compile([]Rule{rule("web", "app", proto, ports...)}, role("web"), role("app"))
}

func wantOut(t testing.TB, p *Pair, pkt []byte, want bool) {
	t.Helper()
	if got := p.Outbound(pkt, start); got != want {
		t.Errorf("Outbound = %v, want %v", got, want)
	}
}

func wantIn(t testing.TB, p *Pair, pkt []byte, want Verdict) {
	t.Helper()
	before := p.Stats().Dropped(FromPeer, want)
	if got := p.Inbound(pkt, start); got != want {
		t.Errorf("Inbound = %v, want %v", got, want)
	} else if want != Pass && p.Stats().Dropped(FromPeer, want) != before+1 {
		t.Errorf("the drop %v was not counted", want)
	}
}
