package esp

import (
	"bytes"
	"testing"
)

// Any datagram at all, and every mutation of good ones: no panic, and nothing is
// delivered that was not sealed.
func FuzzOpen(f *testing.F) {
	for _, s := range Suites() {
		out, _ := newPair(f, testConfig(s))
		f.Add(uint8(s), false, sealOne(f, out, ipv4(61)))
		f.Add(uint8(s), true, sealOne(f, out, ipv6(61)))
	}
	f.Add(uint8(0), false, []byte{})
	f.Fuzz(func(t *testing.T, suite uint8, noESN bool, datagram []byte) {
		c := testConfig(Suites()[int(suite)%len(Suites())])
		c.NoESN = noESN
		out, in := newPair(t, c)
		good := [2][]byte{sealOne(t, out, ipv4(61)), sealOne(t, out, ipv6(61))}
		p := openOne(in, datagram)
		if p.Drop.Authentic() && !bytes.Equal(datagram, good[0]) && !bytes.Equal(datagram, good[1]) {
			t.Fatalf("forged: %+v", p)
		}
		if !p.inBounds() {
			t.Fatalf("out of bounds: %+v", p)
		}
	})
}

// Authentic packets with anything inside: what an insider can send.
func FuzzOpenAuthentic(f *testing.F) {
	f.Add(uint8(1), append(ipv4(46), 0, nextIPv4))
	f.Add(uint8(2), append(ipv6(46), 0, nextIPv6))
	f.Add(uint8(3), []byte{1, 2, 2, nextDummy})
	f.Fuzz(func(t *testing.T, suite uint8, plain []byte) {
		s := Suites()[int(suite)%len(Suites())]
		out, in := newPair(t, testConfig(s))
		plain = plain[:len(plain)-len(plain)%specs[s].align]
		if len(plain) == 0 {
			return
		}
		p := openOne(in, sealRaw(t, out, 1, plain))
		switch p.Drop {
		case DropNone:
			// Delivered bytes are the start of what was sealed and an IP packet
			// of exactly its own length.
			nh, ok := nextHeaderOf(p.Bytes())
			n, fits := innerLen(p.Bytes(), nh)
			if !ok || !fits || n != p.Len || nh != p.NextHeader || !bytes.HasPrefix(plain, p.Bytes()) {
				t.Fatalf("delivered %x of %x", p.Bytes(), plain)
			}
		case DropPadding, DropInner, DropDummy:
		default:
			t.Fatalf("verdict %v", p.Drop)
		}
	})
}
