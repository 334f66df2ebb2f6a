package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"icvpn/internal/id"
)

var start = time.UnixMilli(1_700_000_000_000)

// nonces is a deterministic source of distinct bytes.
type nonces struct{ n uint64 }

func (r *nonces) Read(b []byte) (int, error) {
	for i := range b {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, r.n))
		b[i] = sum[0]
		r.n++
	}
	return len(b), nil
}

func testMaster(t testing.TB, fill byte, epoch uint32) *MasterKey {
	t.Helper()
	m, err := ParseMasterKey(epoch, bytes.Repeat([]byte{fill}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func member(t testing.TB, m *MasterKey, epoch uint32) MemberKey {
	t.Helper()
	k, err := m.Member(epoch)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newTestRing has epoch 5 active since an hour and 6 in an hour.
func newTestRing(t testing.TB, name string) *Ring {
	t.Helper()
	r := NewRing(Config{Service: id.Hash("test", []byte(name)), Rand: &nonces{}})
	m := testMaster(t, name[0], 5)
	for i, at := range []time.Time{start.Add(-time.Hour), start.Add(time.Hour)} {
		e := uint32(5 + i)
		if err := r.Install(Epoch{Number: e, Key: member(t, m, e), ActivateAt: at, Grace: DefaultGrace}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// testSource is where datagrams come from unless a test says otherwise.
var testSource = netip.MustParseAddr("192.0.2.1")

func mustSeal(t testing.TB, r *Ring, now time.Time, epoch uint32, payload string, padTo int) []byte {
	t.Helper()
	b, err := r.Seal(nil, now, TypeDHT, epoch, []byte(payload), padTo)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// open leaves the datagram as it is, which the real Open does not.
func open(r interface {
	Open(time.Time, []byte, netip.Addr) (Opened, Drop)
}, now time.Time, datagram []byte) (Opened, Drop) {
	return r.Open(now, bytes.Clone(datagram), testSource)
}

func wantDrop(t testing.TB, r *Ring, now time.Time, datagram []byte, want Drop) {
	t.Helper()
	before := r.Stats().opened[want].Load()
	if _, d := open(r, now, datagram); d != want {
		t.Fatalf("Open = %v, want %v", d, want)
	}
	if after := r.Stats().opened[want].Load(); after != before+1 {
		t.Fatalf("the counter of %v went from %d to %d", want, before, after)
	}
}

func TestRoundTripOfEveryTypeAndLength(t *testing.T) {
	r := newTestRing(t, "a")
	for typ := TypeDHT; typ < typeEnd; typ++ {
		for _, n := range []int{0, 1, 450, MaxPayload - 1, MaxPayload} {
			for _, pad := range []int{0, 1, PadHello, PadQuery, PadLookup} {
				payload := bytes.Repeat([]byte{0xff}, n)
				b, err := r.Seal([]byte("head"), start, typ, Newest, payload, pad)
				if err != nil {
					t.Fatal(err)
				}
				room := max(n, pad)
				if len(b) != 4+Overhead+room || string(b[:4]) != "head" {
					t.Fatalf("%v: %d bytes for %d padded to %d", typ, len(b), n, pad)
				}
				o, d := r.Open(start, b[4:], testSource)
				if d != Passed || o.Type != typ || o.Epoch != 5 || o.Room != room || o.Service != r.Service() || !bytes.Equal(o.Payload, payload) {
					t.Fatalf("%v: Open = %+v, %v", typ, o, d)
				}
			}
		}
	}
}

func TestSealReusesTheCallersBuffer(t *testing.T) {
	r := newTestRing(t, "a")
	buf := make([]byte, 3, MaxDatagram+3)
	b, err := r.Seal(buf, start, TypeKE, Newest, []byte("x"), PadLookup)
	if err != nil || &b[0] != &buf[0] {
		t.Fatalf("Seal did not append in place: %v", err)
	}
	// What the buffer held before must not shine through the padding.
	dirty := bytes.Repeat([]byte{0xaa}, MaxDatagram)
	b, err = r.Seal(dirty[:0], start, TypeKE, Newest, []byte("x"), 500)
	if err != nil {
		t.Fatal(err)
	}
	if _, d := r.Open(start, b, testSource); d != Passed {
		t.Fatalf("Open = %v", d)
	}
}

func TestSealRefusesBadArguments(t *testing.T) {
	r := newTestRing(t, "a")
	long := make([]byte, MaxPayload+1)
	for name, c := range map[string]struct {
		typ     Type
		epoch   uint32
		payload []byte
		pad     int
		want    error
	}{
		"type 0":           {0, Newest, nil, 0, ErrType},
		"type 7":           {7, Newest, nil, 0, ErrType},
		"long payload":     {TypeDHT, Newest, long, 0, ErrTooLong},
		"long padding":     {TypeDHT, Newest, nil, MaxPayload + 1, ErrTooLong},
		"epoch not known":  {TypeDHT, 9, nil, 0, ErrEpoch},
		"epoch never held": {TypeDHT, 4, nil, 0, ErrEpoch},
	} {
		out, err := r.Seal([]byte("keep"), start, c.typ, c.epoch, c.payload, c.pad)
		if !errors.Is(err, c.want) || string(out) != "keep" {
			t.Errorf("%s: Seal = %q, %v, want %v", name, out, err, c.want)
		}
	}
	broken := NewRing(Config{Rand: bytes.NewReader(make([]byte, nonceSize-1))})
	if err := broken.Install(Epoch{Number: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := broken.Seal(nil, start, TypeDHT, Newest, nil, 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Seal without randomness = %v", err)
	}
}

func TestOpenRefusesEveryBitFlip(t *testing.T) {
	r := newTestRing(t, "a")
	b := mustSeal(t, r, start, Newest, "payload", 20)
	for i := range 8 * len(b) {
		b[i/8] ^= 1 << (i % 8)
		if _, d := open(r, start, b); d == Passed {
			t.Fatalf("Open passed with bit %d flipped", i)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	if _, d := open(r, start, b); d != Passed {
		t.Fatalf("the datagram itself: %v", d)
	}
}

func TestOpenRefusesEveryTruncationAndTrailingBytes(t *testing.T) {
	r := newTestRing(t, "a")
	b := mustSeal(t, r, start, Newest, "payload", 20)
	for n := range b {
		want := DropForged
		if n < Overhead {
			want = DropLength
		}
		wantDrop(t, r, start, b[:n], want)
	}
	wantDrop(t, r, start, append(bytes.Clone(b), 0), DropForged)
	wantDrop(t, r, start, make([]byte, MaxDatagram+1), DropLength)
}

func TestOpenNamesTheReason(t *testing.T) {
	r := newTestRing(t, "a")
	b := mustSeal(t, r, start, Newest, "payload", 0)
	with := func(at int, v byte) []byte {
		c := bytes.Clone(b)
		c[at] = v
		return c
	}
	wantDrop(t, r, start, with(0, 1), DropMarker)
	wantDrop(t, r, start, with(3, 1), DropMarker)
	wantDrop(t, r, start, with(4, 0), DropType)
	wantDrop(t, r, start, with(4, 7), DropType)
	wantDrop(t, r, start, with(4, byte(TypeKE)), DropUnknown)
	wantDrop(t, r, start, with(5, b[5]^1), DropUnknown)
	wantDrop(t, r, start, with(9, b[9]^1), DropForged)
	wantDrop(t, r, start, with(len(b)-1, b[len(b)-1]^1), DropForged)
	wantDrop(t, newTestRing(t, "b"), start, b, DropUnknown)
}

// sealInner seals an inner plaintext that Seal would not make.
func sealInner(t testing.TB, r *Ring, plain []byte) []byte {
	t.Helper()
	k := r.newest(start)
	b := putHeader(nil, TypeDHT, k.kid[TypeDHT])
	b = append(b, make([]byte, nonceSize)...)
	if _, err := io.ReadFull(r.cfg.Rand, b[adSize:]); err != nil {
		t.Fatal(err)
	}
	return k.aead[TypeDHT].Seal(b, b[adSize:headerSize], plain, b[:adSize])
}

func TestOpenRefusesBadInnerLengthAndPadding(t *testing.T) {
	r := newTestRing(t, "a")
	inner := func(length uint16, rest ...byte) []byte {
		b := binary.BigEndian.AppendUint64(nil, stamp(start))
		return append(binary.BigEndian.AppendUint16(b, length), rest...)
	}
	for _, p := range [][]byte{
		inner(1), inner(4, 1, 2, 3), inner(0xffff, 1, 2, 3), // length over the end
		inner(2, 1, 2, 3), inner(0, 0, 0, 1), inner(1, 1, 0x80, 0), // padding not zero
	} {
		wantDrop(t, r, start, sealInner(t, r, p), DropInner)
	}
	for _, p := range [][]byte{inner(0), inner(0, 0, 0), inner(3, 1, 2, 3), inner(2, 1, 2, 0)} {
		wantDrop(t, r, start, sealInner(t, r, p), Passed)
	}
}

func TestOpenKeepsTheWindowsEdges(t *testing.T) {
	r := newTestRing(t, "a")
	for off, want := range map[time.Duration]Drop{
		0:                            Passed,
		Window:                       Passed,
		-Window:                      Passed,
		Window + time.Millisecond:    DropTime,
		-Window - time.Millisecond:   DropTime,
		30 * time.Minute:             DropTime,
		-30 * time.Minute:            DropTime,
		Window - time.Millisecond:    Passed,
		-(Window - time.Millisecond): Passed,
	} {
		b := mustSeal(t, r, start, Newest, "x", 0)
		receiver := newTestRing(t, "a")
		wantDrop(t, receiver, start.Add(off), b, want)
	}
}

func TestOpenRefusesAbsurdTimestamps(t *testing.T) {
	r := newTestRing(t, "a")
	for _, ms := range []uint64{0, 1, 1 << 63, 1<<63 - 1, ^uint64(0), stamp(start) + 1<<63} {
		p := append(binary.BigEndian.AppendUint64(nil, ms), 0, 0)
		wantDrop(t, r, start, sealInner(t, r, p), DropTime)
	}
}

func TestClockOffsetIsAppliedBothWays(t *testing.T) {
	sender, receiver := newTestRing(t, "a"), newTestRing(t, "a")
	const slow = 26 * time.Hour // the sender's clock stands a day back
	b := mustSeal(t, sender, start.Add(-slow), 5, "x", 0)
	wantDrop(t, receiver, start, b, DropTime)
	sender.SetClockOffset(slow)
	wantDrop(t, receiver, start, mustSeal(t, sender, start.Add(-slow), Newest, "x", 0), Passed)
	receiver.cfg.Rand = &nonces{n: 1 << 20}
	wantDrop(t, sender, start.Add(-slow), mustSeal(t, receiver, start, Newest, "y", 0), Passed)
}

func TestSecretsAreRedacted(t *testing.T) {
	m := testMaster(t, 'A', 3)
	k := member(t, m, 3)
	for _, v := range []any{m, *m, k, &k, struct{ K MemberKey }{k}, Epoch{Key: k}, m.LogValue(), k.LogValue()} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			s := fmt.Sprintf(verb, v)
			if bytes.Contains([]byte(s), []byte("AAAA")) || bytes.Contains([]byte(s), []byte("4141")) || bytes.Contains([]byte(s), []byte("65 65")) {
				t.Errorf("%s shows a key: %s", verb, s)
			}
		}
	}
}

func TestSealAndOpenDoNotAllocate(t *testing.T) {
	sender, receiver := newTestRing(t, "a"), newTestRing(t, "a")
	sender.cfg.Rand = zeros{}
	payload, buf := make([]byte, 400), make([]byte, 0, MaxDatagram)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := sender.Seal(buf, start, TypeDHT, Newest, payload, PadLookup); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Seal allocates %v times", n)
	}
	b := mustSeal(t, sender, start, Newest, "x", PadQuery)
	work := make([]byte, len(b))
	var rings Rings
	rings.Add(newTestRing(t, "b"))
	rings.Add(receiver)
	if n := testing.AllocsPerRun(200, func() {
		copy(work, b)
		if _, d := rings.Open(start, work, testSource); d != Passed && d != DropReplay {
			t.Fatal(d)
		}
	}); n != 0 {
		t.Errorf("Open allocates %v times", n)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func FuzzOpen(f *testing.F) {
	for _, pad := range []int{0, 20} {
		f.Add(mustSeal(f, newTestRing(f, "a"), start, Newest, "payload", pad))
	}
	f.Add(make([]byte, Overhead))
	f.Fuzz(func(t *testing.T, b []byte) {
		known := mustSeal(t, newTestRing(t, "a"), start, Newest, "payload", 0)
		known20 := mustSeal(t, newTestRing(t, "a"), start, Newest, "payload", 20)
		given := bytes.Clone(b)
		if _, d := newTestRing(t, "a").Open(start, b, testSource); d == Passed && !bytes.Equal(given, known) && !bytes.Equal(given, known20) {
			t.Errorf("a forgery passed: %x", given)
		}
	})
}

// FuzzInner feeds authentic nonsense: what a member could send.
func FuzzInner(f *testing.F) {
	f.Add(append(binary.BigEndian.AppendUint64(nil, stamp(start)), 0, 1, 7))
	f.Add(append(binary.BigEndian.AppendUint64(nil, stamp(start)), 0, 2, 7))
	f.Fuzz(func(t *testing.T, plain []byte) {
		r := newTestRing(t, "a")
		if len(plain) < innerSize || len(plain) > MaxPayload+innerSize {
			return
		}
		o, d := r.Open(start, sealInner(t, r, plain), testSource)
		if d != Passed {
			return
		}
		again := append(bytes.Clone(plain[:8]), byte(len(o.Payload)>>8), byte(len(o.Payload)))
		again = append(again, o.Payload...)
		if again = append(again, make([]byte, o.Room-len(o.Payload))...); !bytes.Equal(again, plain) {
			t.Errorf("%x is a second form of %x", plain, again)
		}
	})
}

func BenchmarkSealOpen(b *testing.B) {
	r := NewRing(Config{ReplayEntries: 1 << 30})
	if err := r.Install(Epoch{Number: 1, ActivateAt: start}); err != nil {
		b.Fatal(err)
	}
	payload, buf := make([]byte, 400), make([]byte, 0, MaxDatagram)
	b.ReportAllocs()
	b.SetBytes(int64(Overhead + PadLookup))
	for b.Loop() {
		datagram, err := r.Seal(buf, start, TypeDHT, Newest, payload, PadLookup)
		if err != nil {
			b.Fatal(err)
		}
		if _, d := r.Open(start, datagram, testSource); d != Passed {
			b.Fatal(d)
		}
	}
}
