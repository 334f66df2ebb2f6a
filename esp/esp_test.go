package esp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// Shared by all tests: keys, packets and pairs of SAs.

var born = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const testSPI = 0x1c0ffee5

// testKeys returns keys that differ between suites and seeds.
func testKeys(s Suite, seed byte) Keys {
	next := seed + byte(s)
	draw := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = next
			next = next*5 + 1
		}
		return b
	}
	ks := s.KeySizes()
	return Keys{Enc: draw(ks.Enc), Int: draw(ks.Int), IV: draw(ks.IV), Salt: draw(ks.Salt)}
}

func testConfig(s Suite) Config {
	return Config{SPI: testSPI, Suite: s, Keys: testKeys(s, 7), Born: born}
}

// newPair returns both ends of one SA.
func newPair(tb testing.TB, c Config) (*Outbound, *Inbound) {
	tb.Helper()
	out, err := NewOutbound(c)
	if err != nil {
		tb.Fatal(err)
	}
	in, err := NewInbound(c)
	if err != nil {
		tb.Fatal(err)
	}
	return out, in
}

// ipv4 returns an IPv4 packet of n bytes, at least 20.
func ipv4(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	copy(b[12:], []byte{10, 42, 0, 1, 10, 42, 0, 2})
	return b
}

// ipv6 returns an IPv6 packet of n bytes, at least 40.
func ipv6(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 11)
	}
	b[0], b[6] = 0x60, 17
	binary.BigEndian.PutUint16(b[4:], uint16(n-40))
	return b
}

// load puts inner into a buffer with the promised room around it.
func load(inner []byte) Packet {
	p := Packet{Buf: make([]byte, Headroom+len(inner)+Tailroom), Off: Headroom, Len: len(inner)}
	copy(p.Bytes(), inner)
	return p
}

// receive puts a datagram into a buffer as a socket would: without any room.
func receive(datagram []byte) Packet {
	return Packet{Buf: bytes.Clone(datagram), Len: len(datagram)}
}

// sealOne returns the datagram for one inner packet.
func sealOne(tb testing.TB, out *Outbound, inner []byte) []byte {
	tb.Helper()
	batch := []Packet{load(inner)}
	if n, _ := out.Seal(born, batch); n != 1 {
		tb.Fatalf("Seal: %v", batch[0].Drop)
	}
	return bytes.Clone(batch[0].Bytes())
}

// openOne returns what Open makes of one datagram.
func openOne(in *Inbound, datagram []byte) Packet {
	batch := []Packet{receive(datagram)}
	in.Open(born, batch)
	return batch[0]
}

// sealRaw authenticates a ciphertext body of the caller's making, which Seal
// would never send, under the sequence number seq.
func sealRaw(tb testing.TB, out *Outbound, seq uint64, plain []byte) []byte {
	tb.Helper()
	head := out.spec.headLen()
	p := Packet{Buf: make([]byte, head+len(plain)+out.spec.icv), Seq: seq}
	p.Len = len(p.Buf)
	binary.BigEndian.PutUint32(p.Buf, out.spi)
	binary.BigEndian.PutUint32(p.Buf[4:], uint32(seq))
	copy(p.Buf[head:], plain)
	t := out.pool.get()
	defer out.pool.put(t)
	t.seal([]Packet{p})
	return p.Buf
}

// forSuites runs f for every suite, with and without ESN.
func forSuites(t *testing.T, f func(t *testing.T, c Config)) {
	t.Helper()
	for _, s := range Suites() {
		for _, noESN := range []bool{false, true} {
			t.Run(fmt.Sprintf("suite=%v/noESN=%v", s, noESN), func(t *testing.T) {
				c := testConfig(s)
				c.NoESN = noESN
				f(t, c)
			})
		}
	}
}

func wantDrop(tb testing.TB, p Packet, want Drop) {
	tb.Helper()
	if p.Drop != want {
		tb.Fatalf("verdict %v, want %v", p.Drop, want)
	}
}
