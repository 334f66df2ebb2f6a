package esp

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		for size := 20; size < 120; size++ {
			inners := [][]byte{ipv4(size)}
			if size >= 40 {
				inners = append(inners, ipv6(size))
			}
			for _, inner := range inners {
				datagram := sealOne(t, out, inner)
				if want := c.Suite.SealedLen(len(inner)); len(datagram) != want {
					t.Fatalf("size %d: datagram of %d bytes, SealedLen says %d", size, len(datagram), want)
				}
				p := openOne(in, datagram)
				wantDrop(t, p, DropNone)
				if !bytes.Equal(p.Bytes(), inner) || p.Seq != out.LastSeq() || !p.Newest {
					t.Fatalf("size %d: got %x seq %d newest %v", size, p.Bytes(), p.Seq, p.Newest)
				}
			}
		}
	})
}

func TestBatchKeepsOrderAndSkipsBadPackets(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		truncated := ipv4(60)
		binary.BigEndian.PutUint16(truncated[2:], 61)
		batch := []Packet{load(ipv4(100)), load(truncated), load(ipv6(1280)), load([]byte{0x50, 1, 2}), load(nil), load(ipv4(20))}
		n, life := out.Seal(born, batch)
		if n != 3 || life != LifeFresh {
			t.Fatalf("Seal: %d, %v", n, life)
		}
		wantSeq := []uint64{1, 0, 2, 0, 0, 3}
		for i, want := range []Drop{DropNone, DropInner, DropNone, DropInner, DropInner, DropNone} {
			if batch[i].Drop != want || batch[i].Seq != wantSeq[i] {
				t.Errorf("packet %d: %v seq %d, want %v seq %d", i, batch[i].Drop, batch[i].Seq, want, wantSeq[i])
			}
		}
		if p := batch[1]; p.Off != Headroom || !bytes.Equal(p.Bytes(), truncated) {
			t.Error("a packet that Seal dropped has changed")
		}
		received := []Packet{receive(batch[5].Bytes()), receive(batch[0].Bytes()), receive(batch[0].Bytes()), receive(batch[2].Bytes())}
		if n, _ = in.Open(born, received); n != 3 {
			t.Fatalf("Open: %d", n)
		}
		for i, want := range []Drop{DropNone, DropNone, DropReplay, DropNone} {
			wantDrop(t, received[i], want)
			if newest := i == 0; received[i].Newest != newest {
				t.Errorf("packet %d: newest %v", i, received[i].Newest)
			}
		}
		if s := in.Stats(); s.OpenedPackets.Load() != 3 || s.OpenedBytes.Load() != 1400 || s.Dropped(DropReplay) != 1 {
			t.Errorf("stats: %d packets, %d bytes, %d replays", s.OpenedPackets.Load(), s.OpenedBytes.Load(), s.Dropped(DropReplay))
		}
		if s := out.Stats(); s.SealedPackets.Load() != 3 || s.SealedBytes.Load() != 1400 || s.Dropped(DropInner) != 3 {
			t.Errorf("stats: %d packets, %d bytes, %d malformed", s.SealedPackets.Load(), s.SealedBytes.Load(), s.Dropped(DropInner))
		}
	})
}

func TestSealUsesNoMoreRoomThanPromised(t *testing.T) {
	for _, s := range Suites() {
		out, _ := newPair(t, testConfig(s))
		for size := 20; size < 60; size++ {
			// load gives exactly Headroom and Tailroom.
			sealOne(t, out, ipv4(size))
		}
	}
}

func TestSealRefusesMissingRoom(t *testing.T) {
	for _, s := range Suites() {
		out, _ := newPair(t, testConfig(s))
		head := specs[s].headLen()
		inner := ipv4(22)
		tail := specs[s].cipherLen(len(inner)) - len(inner) + specs[s].icv
		exact := Packet{Buf: make([]byte, head+len(inner)+tail), Off: head, Len: len(inner)}
		copy(exact.Bytes(), inner)
		short, late, tfc := exact, exact, exact
		short.Buf = exact.Buf[:len(exact.Buf)-1]
		late.Off--
		tfc.TFC = specs[s].align
		batch := []Packet{
			short, late, tfc,
			{Buf: exact.Buf, Off: -1, Len: 20},
			{Buf: exact.Buf, Off: head, Len: -1},
			{Buf: exact.Buf, Off: head, Len: math.MaxInt},
			{Buf: exact.Buf, Off: math.MaxInt, Len: math.MaxInt},
			{Buf: exact.Buf, Off: head, Len: 20, TFC: -1},
			{Buf: exact.Buf, Off: head, Len: 20, TFC: math.MaxInt},
			{},
		}
		if n, _ := out.Seal(born, batch); n != 0 {
			t.Fatalf("%v: sealed %d", s, n)
		}
		for i := range batch {
			wantDrop(t, batch[i], DropNoRoom)
		}
		batch = []Packet{exact}
		if n, _ := out.Seal(born, batch); n != 1 {
			t.Fatalf("%v: exact room refused: %v", s, batch[0].Drop)
		}
	}
}

func TestTFCPaddingIsCutOff(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		for tfc := range 40 {
			for _, inner := range [][]byte{ipv4(57), ipv6(57)} {
				p := load(inner)
				p.Buf = append(p.Buf, bytes.Repeat([]byte{0xee}, tfc)...)
				p.TFC = tfc
				batch := []Packet{p}
				if n, _ := out.Seal(born, batch); n != 1 {
					t.Fatal(batch[0].Drop)
				}
				if batch[0].Len != c.Suite.SealedLen(57+tfc) {
					t.Fatalf("datagram of %d bytes", batch[0].Len)
				}
				got := openOne(in, batch[0].Bytes())
				wantDrop(t, got, DropNone)
				if !bytes.Equal(got.Bytes(), inner) {
					t.Fatalf("opened %x", got.Bytes())
				}
			}
		}
	})
}

func TestDummyIsAuthenticAndDeliversNothing(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		for size := range 40 {
			batch := []Packet{{Buf: bytes.Repeat([]byte{0xaa}, Headroom+size+Tailroom)}}
			if n, _ := out.SealDummy(born, batch, size); n != 1 {
				t.Fatal(batch[0].Drop)
			}
			received := []Packet{receive(batch[0].Bytes())}
			if n, _ := in.Open(born, received); n != 0 {
				t.Fatal("a dummy was delivered")
			}
			wantDrop(t, received[0], DropDummy)
			if !received[0].Drop.Authentic() || !received[0].Newest || received[0].Seq != uint64(size+1) {
				t.Fatalf("%+v", received[0])
			}
			wantDrop(t, openOne(in, batch[0].Bytes()), DropReplay)
		}
		batch := []Packet{{Buf: make([]byte, Headroom+10+Tailroom)}, {}}
		if n, _ := out.SealDummy(born, batch, 11); n != 0 || batch[0].Drop != DropNoRoom || batch[1].Drop != DropNoRoom {
			t.Fatalf("dummy without room: %v %v", batch[0].Drop, batch[1].Drop)
		}
		out.SealDummy(born, batch[:1], -1)
		wantDrop(t, batch[0], DropNoRoom)
		if got := out.Stats().SealedDummies.Load(); got != 40 {
			t.Errorf("%d dummies counted", got)
		}
	})
}

// A dummy and a packet of one size must look alike.
func TestDummyIsAsLongAsAPacket(t *testing.T) {
	for _, s := range Suites() {
		out, _ := newPair(t, testConfig(s))
		batch := []Packet{{Buf: make([]byte, 2000)}}
		out.SealDummy(born, batch, 100)
		if got, want := batch[0].Len, len(sealOne(t, out, ipv4(100))); got != want {
			t.Errorf("%v: dummy %d bytes, packet %d", s, got, want)
		}
	}
}

func TestIVsAreUniqueAcrossTheBoundary(t *testing.T) {
	for _, s := range Suites() {
		c := testConfig(s)
		c.LastSeq, c.Limits.Packets = maxSeq32-500, 1<<40
		out, _ := newPair(t, c)
		seen := map[string]bool{}
		for range 1000 {
			d := sealOne(t, out, ipv4(20))
			iv := string(d[headerLen:specs[s].headLen()])
			if seen[iv] {
				t.Fatalf("%v: IV %x repeats", s, iv)
			}
			seen[iv] = true
		}
	}
}

func TestAddrs(t *testing.T) {
	p := load(ipv4(20))
	if src, dst := p.Addrs(); src.String() != "10.42.0.1" || dst.String() != "10.42.0.2" {
		t.Errorf("%v %v", src, dst)
	}
	b := ipv6(40)
	copy(b[8:], bytes.Repeat([]byte{0xfd}, 16))
	p = load(b)
	if src, dst := p.Addrs(); src.String() != "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd" || !dst.Is6() {
		t.Errorf("%v %v", src, dst)
	}
	for _, bad := range []Packet{{}, load([]byte{0x45}), load(ipv6(40)[:39]), {Len: 40}, load(bytes.Repeat([]byte{0x70}, 60))} {
		if src, dst := bad.Addrs(); src.IsValid() || dst.IsValid() {
			t.Errorf("addresses %v %v from %x", src, dst, bad.Buf)
		}
	}
}
