package esp

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"
)

func TestOpenRejectsReplay(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		d := sealOne(t, out, ipv4(99))
		wantDrop(t, openOne(in, d), DropNone)
		wantDrop(t, openOne(in, d), DropReplay)
		if in.Stats().Dropped(DropReplay) != 1 {
			t.Error("replay not counted")
		}
	})
}

func TestOpenRejectsEveryTruncation(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		d := sealOne(t, out, ipv6(99))
		for n := range d {
			if p := openOne(in, d[:n]); p.Drop == DropNone || p.Drop.Authentic() {
				t.Fatalf("%d of %d bytes: %v", n, len(d), p.Drop)
			}
		}
		wantDrop(t, openOne(in, d), DropNone)
	})
}

func TestOpenRejectsTrailingBytes(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		d := sealOne(t, out, ipv4(99))
		for n := 1; n <= 64; n++ {
			longer := append(bytes.Clone(d), make([]byte, n)...)
			if p := openOne(in, longer); p.Drop != DropAuth && p.Drop != DropMisaligned {
				t.Fatalf("%d more bytes: %v", n, p.Drop)
			}
		}
		wantDrop(t, openOne(in, d), DropNone)
	})
}

func TestOpenRejectsEveryBitFlip(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		d := sealOne(t, out, ipv4(77))
		for i := range len(d) * 8 {
			flipped := bytes.Clone(d)
			flipped[i/8] ^= 1 << (i % 8)
			p := openOne(in, flipped)
			switch {
			case i < 32 && p.Drop == DropUnknownSPI:
			case i >= 32 && p.Drop == DropAuth:
			case i == 56 && p.Drop == DropReplay: // 1 became 0, which is never sent
			default:
				t.Fatalf("bit %d: %v", i, p.Drop)
			}
		}
		if in.LastSeq() != 0 {
			t.Fatalf("forgeries moved the window to %d", in.LastSeq())
		}
		wantDrop(t, openOne(in, d), DropNone)
	})
}

func TestOpenRejectsOtherKeys(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, _ := newPair(t, c)
		d := sealOne(t, out, ipv4(77))
		for name, key := range map[string]func(*Keys) []byte{
			"enc":  func(k *Keys) []byte { return k.Enc },
			"int":  func(k *Keys) []byte { return k.Int },
			"salt": func(k *Keys) []byte { return k.Salt },
		} {
			other := c
			other.Keys = c.Keys.clone()
			b := key(&other.Keys)
			if len(b) == 0 || name == "enc" && len(c.Keys.Int) > 0 {
				continue // CBC's ICV says nothing about the encryption key
			}
			b[0] ^= 1
			_, in := newPair(t, other)
			wantDrop(t, openOne(in, d), DropAuth)
		}
	})
}

// The high bits are in the ICV though they are not sent: a packet from 2^32
// numbers ago has the right low bits and is still refused.
func TestOpenRejectsOtherHighBits(t *testing.T) {
	for _, s := range Suites() {
		c := testConfig(s)
		c.Limits.Packets = 1 << 40
		early, _ := newPair(t, c)
		d := sealOne(t, early, ipv4(77)) // number 1
		c.LastSeq = 1 << 32
		_, late := newPair(t, c) // expects 2^32+1
		wantDrop(t, openOne(late, d), DropAuth)
	}
}

func TestESNCrossesTheBoundary(t *testing.T) {
	for _, s := range Suites() {
		c := testConfig(s)
		c.LastSeq, c.Limits.Packets, c.Window = maxSeq32-100, 1<<40, 64
		out, in := newPair(t, c)
		var held []byte // the packet 60 before the newest, arriving late
		for i := range 200 {
			d := sealOne(t, out, ipv4(40))
			if i%60 == 30 {
				held = d
				continue
			}
			p := openOne(in, d)
			wantDrop(t, p, DropNone)
			if want := uint64(maxSeq32-100) + uint64(i) + 1; p.Seq != want {
				t.Fatalf("%v: seq %d, want %d", s, p.Seq, want)
			}
			if i%60 == 29 && held != nil {
				p = openOne(in, held)
				wantDrop(t, p, DropNone)
				if p.Newest {
					t.Fatal("a late packet counts as the newest")
				}
			}
		}
		if in.LastSeq() <= maxSeq32 {
			t.Fatalf("%v: never crossed", s)
		}
	}
}

func TestWithoutESNTheCounterStopsAtItsEnd(t *testing.T) {
	for _, s := range Suites() {
		c := testConfig(s)
		c.NoESN, c.LastSeq, c.Limits.Packets = true, maxSeq32-2, maxSeq64
		out, in := newPair(t, c)
		for range 2 {
			wantDrop(t, openOne(in, sealOne(t, out, ipv4(40))), DropNone)
		}
		batch := []Packet{load(ipv4(40))}
		if n, life := out.Seal(born, batch); n != 0 || life != LifeExpired {
			t.Fatalf("%v: sealed %d after the last number, %v", s, n, life)
		}
		wantDrop(t, batch[0], DropExpired)
		if out.LastSeq() != maxSeq32 {
			t.Fatalf("counter at %d", out.LastSeq())
		}
	}
}

func TestCounterNeverWraps(t *testing.T) {
	c := testConfig(AES128GCM)
	c.LastSeq, c.Limits.Packets = maxSeq64-3, maxSeq64
	out, in := newPair(t, c)
	batch := make([]Packet, 5)
	for i := range batch {
		batch[i] = load(ipv4(40))
	}
	if n, life := out.Seal(born, batch); n != 3 || life != LifeExpired {
		t.Fatalf("sealed %d, %v", n, life)
	}
	for i := range batch {
		want := DropNone
		if i >= 3 {
			want = DropExpired
		}
		wantDrop(t, batch[i], want)
		if i < 3 {
			wantDrop(t, openOne(in, batch[i].Bytes()), DropNone)
		}
	}
	if in.LastSeq() != maxSeq64 || out.LastSeq() != maxSeq64 {
		t.Fatalf("ends at %d and %d", out.LastSeq(), in.LastSeq())
	}
}

func TestOpenRefusesOddBuffers(t *testing.T) {
	_, in := newPair(t, testConfig(AES128GCM))
	batch := []Packet{
		{}, {Len: 1}, {Buf: make([]byte, 100), Off: 50, Len: 51}, {Buf: make([]byte, 100), Off: -1, Len: 60},
		{Buf: make([]byte, 100), Off: math.MaxInt, Len: math.MaxInt}, {Buf: make([]byte, 100), Len: -60},
	}
	in.Open(born, batch)
	wantDrop(t, batch[0], DropTooShort)
	for i := range batch[1:] {
		wantDrop(t, batch[1+i], DropNoRoom)
	}
	if n, life := in.Open(born, nil); n != 0 || life != LifeFresh {
		t.Errorf("empty batch: %d %v", n, life)
	}
}

// Authentic packets whose inside a correct sender would not make.
func TestOpenRejectsMalformedInside(t *testing.T) {
	long4 := ipv4(30)
	binary.BigEndian.PutUint16(long4[2:], 31)
	short4 := ipv4(30)
	binary.BigEndian.PutUint16(short4[2:], 19)
	ihl4 := ipv4(30)
	ihl4[0] = 0x44
	options4 := ipv4(30)
	options4[0] = 0x4f
	long6 := ipv6(50)
	binary.BigEndian.PutUint16(long6[4:], 11)
	jumbo6 := ipv6(40)
	jumbo6[6] = 0

	trailer := func(inner []byte, nh byte) func(int) []byte {
		return func(align int) []byte {
			pad := (align - (len(inner)+2)%align) % align
			b := bytes.Clone(inner)
			for i := range pad {
				b = append(b, byte(i+1))
			}
			return append(b, byte(pad), nh)
		}
	}
	filled := func(last ...byte) func(int) []byte {
		return func(int) []byte {
			return append(make([]byte, 16-len(last)), last...)
		}
	}
	for name, v := range map[string]struct {
		plain func(align int) []byte
		want  Drop
	}{
		"no next header we know":   {trailer(ipv4(30), 6), DropInner},
		"IPv6 marked as IPv4":      {trailer(ipv6(50), 4), DropInner},
		"IPv4 marked as IPv6":      {trailer(ipv4(50), 41), DropInner},
		"empty IPv4":               {trailer(nil, 4), DropInner},
		"IPv4 header cut":          {trailer(ipv4(30)[:19], 4), DropInner},
		"IPv4 longer than packet":  {trailer(long4, 4), DropInner},
		"IPv4 shorter than header": {trailer(short4, 4), DropInner},
		"IPv4 IHL 4":               {trailer(ihl4, 4), DropInner},
		"IPv4 options beyond end":  {trailer(options4, 4), DropInner},
		"IPv6 header cut":          {trailer(ipv6(50)[:39], 41), DropInner},
		"IPv6 longer than packet":  {trailer(long6, 41), DropInner},
		"IPv6 jumbogram":           {trailer(jumbo6, 41), DropInner},
		"padding longer than body": {filled(15, 4), DropPadding},
		"padding 255":              {filled(255, 4), DropPadding},
		"padding of zeros":         {filled(0, 0, 2, 4), DropPadding},
		"padding counts wrongly":   {filled(1, 3, 2, 4), DropPadding},
		"empty dummy":              {trailer(nil, 59), DropDummy},
		"IPv4 with TFC padding":    {trailer(append(ipv4(30), 9, 9, 9), 4), DropNone},
		"IPv6 without payload":     {trailer(ipv6(40), 41), DropNone},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range Suites() {
				out, in := newPair(t, testConfig(s))
				d := sealRaw(t, out, 1, v.plain(specs[s].align))
				p := openOne(in, d)
				wantDrop(t, p, v.want)
				// Commit comes after padding and before the inside.
				again := DropReplay
				if v.want == DropPadding {
					again = DropPadding
				}
				wantDrop(t, openOne(in, d), again)
			}
		})
	}
}

func TestOpenAcceptsLongPadding(t *testing.T) {
	for _, s := range Suites() {
		out, in := newPair(t, testConfig(s))
		plain := ipv4(47)
		for i := range 255 {
			plain = append(plain, byte(i+1))
		}
		plain = append(plain, 255, nextIPv4)
		p := openOne(in, sealRaw(t, out, 1, plain))
		wantDrop(t, p, DropNone)
		if !bytes.Equal(p.Bytes(), ipv4(47)) {
			t.Fatalf("%v: %x", s, p.Bytes())
		}
	}
}

// RFC 4106, Section 3.1: the IV need not be the sequence number.
func TestOpenTakesTheIVFromThePacket(t *testing.T) {
	c := testConfig(AES256GCM)
	_, in := newPair(t, c)
	tr := must(newGCM(&c.Keys, true)).(givenIV)
	pkt := make([]byte, headerLen+aeadIV)
	binary.BigEndian.PutUint32(pkt, testSPI)
	binary.BigEndian.PutUint32(pkt[4:], 9)
	copy(pkt[headerLen:], "anything")
	pkt = append(append(pkt, ipv4(22)...), 0, nextIPv4)
	pkt = append(pkt, make([]byte, aeadTag)...)
	tr.encrypt(pkt, 9)
	p := openOne(in, pkt)
	wantDrop(t, p, DropNone)
	if !bytes.Equal(p.Bytes(), ipv4(22)) || p.Seq != 9 {
		t.Fatalf("%x %d", p.Bytes(), p.Seq)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
