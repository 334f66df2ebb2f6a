package abe

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// matricesOf returns the offsets of the matrices in a ciphertext: of their
// dimensions, right behind the length.
func matricesOf(ct []byte) (offsets []int) {
	for _, head := range [][]byte{
		{0x04, 0x03, 4, 0, 1, 0}, // length 4+4*192, 4 x 1: G2
		{0x24, 0x01, 3, 0, 1, 0}, // length 4+3*96, 3 x 1: G1
	} {
		for at := 0; ; {
			i := bytes.Index(ct[at:], head)
			if i < 0 {
				break
			}
			offsets = append(offsets, at+i+2)
			at += i + len(head)
		}
	}
	return offsets
}

// mustNotPanic runs f and names the input when it does.
func mustNotPanic(t *testing.T, name string, f func()) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("%s: panic: %v", name, r)
		}
	}()
	f()
}

// circl itself panics on each of these, before it looks at the MAC.
func TestMatrixOfWrongShapeIsRefused(t *testing.T) {
	ct, k := sealTierApp(), keyFor(t, attributes("tier", "app"))
	offsets := matricesOf(ct)
	if len(offsets) != 1+1+4 {
		t.Fatalf("%d matrices found", len(offsets))
	}
	upstream := 0
	for _, at := range offsets {
		evil := bytes.Clone(ct)
		copy(evil[at:], []byte{evil[at+2], 0, evil[at], 0}) // transposed: same length
		mustNotPanic(t, "transposed", func() {
			if _, err := k.Unseal(target(tierApp), evil); err == nil {
				t.Error("transposed matrix accepted")
			}
		})
		func() {
			defer func() {
				if recover() != nil {
					upstream++
				}
			}()
			k.sk.Decrypt(evil)
		}()
	}
	t.Logf("circl alone panics on %d of %d", upstream, len(offsets))
}

func TestDamagedCiphertextIsRefused(t *testing.T) {
	ct, k := sealTierApp(), keyFor(t, attributes("tier", "app"))
	for _, i := range damage(len(ct), 330) {
		for _, x := range []byte{1, 0x80} {
			evil := bytes.Clone(ct)
			evil[i] ^= x
			mustNotPanic(t, "flip", func() {
				if _, err := k.Unseal(target(tierApp), evil); err == nil {
					t.Errorf("byte %d ^ %#x accepted", i, x)
				}
			})
		}
	}
}

// damage returns the offsets to damage in n bytes: each of the dense part at
// the beginning, where structure is, and samples of the long points behind.
func damage(n, dense int) (offsets []int) {
	step, skip := 127, 1
	if brief() {
		step, skip = 509, 17
	}
	for i := 0; i < n; i++ {
		if i < dense && i%skip == 0 || i%step == 0 {
			offsets = append(offsets, i)
		}
	}
	return offsets
}

func TestTruncatedOrLongerCiphertextIsRefused(t *testing.T) {
	ct, k := sealTierApp(), keyFor(t, attributes("tier", "app"))
	for i := range ct {
		if _, err := k.Unseal(target(tierApp), ct[:i]); err == nil {
			t.Fatalf("truncation to %d bytes accepted", i)
		}
	}
	if _, err := k.Unseal(target(tierApp), append(bytes.Clone(ct), 0)); err == nil {
		t.Error("trailing byte accepted")
	}
	if _, err := k.Unseal(target(tierApp), ct[len(tknVersion):]); err == nil {
		t.Error("ciphertext in the format of before v1.3.8 accepted")
	}
}

// Points at infinity are valid encodings; no arithmetic may stumble over them.
func TestPointsAtInfinityDoNotPanic(t *testing.T) {
	ct, k := sealTierApp(), keyFor(t, attributes("tier", "app"))
	for _, at := range matricesOf(ct) {
		rows := int(binary.LittleEndian.Uint16(ct[at:]))
		evil := bytes.Clone(ct)
		body := evil[at+4:][:int(binary.LittleEndian.Uint16(ct[at-2:]))-4]
		clear(body)
		for r := range rows {
			body[r*len(body)/rows] = 0x40
		}
		mustNotPanic(t, "infinity", func() {
			if _, err := k.Unseal(target(tierApp), evil); err == nil {
				t.Error("infinity accepted")
			}
		})
	}
	raw := bytes.Clone(testAuthority().Params().Bytes())
	clear(raw[len(raw)-2*gtSize:])
	mustNotPanic(t, "parameters with zero in GT", func() {
		if p, err := ParseParams(raw); err == nil {
			p.SealTo(nil, target(tierApp), testSecret)
		}
	})
}

func TestDamagedKeyIsRefusedOrOpensNothing(t *testing.T) {
	good := keyFor(t, attributes("tier", "app")).Bytes()
	for _, i := range damage(len(good), 100) {
		evil := bytes.Clone(good)
		evil[i] ^= 1
		mustNotPanic(t, "flip", func() {
			k, err := ParseKey(evil)
			if err != nil {
				return
			}
			k.Unseal(target(tierApp), sealTierApp())
			k.sk.Decrypt(sealTierApp())
		})
	}
}

func TestCountsAreNotBelieved(t *testing.T) {
	ct := sealTierApp()
	_, s, err := target(tierApp).tkn()
	if err != nil {
		t.Fatal(err)
	}
	offsets := matricesOf(ct) // c1, c2 and four of c3
	for _, at := range offsets[1:3] {
		evil := bytes.Clone(ct)
		copy(evil[at-4:], []byte{0xff, 0xff}) // the count stands before the length
		if checkCiphertext(evil, s) == nil {
			t.Error("65535 matrices accepted")
		}
		if n := testing.AllocsPerRun(10, func() { _ = checkCiphertext(evil, s) }); n > 0 {
			t.Errorf("%v allocations to refuse", n)
		}
	}
}

// patched returns good with patch written over it at an offset, and cut there if
// the patch is empty: fuzzers reach deeper by damaging than by inventing.
func patched(good []byte, at uint16, patch []byte) []byte {
	i := min(int(at), len(good))
	if len(patch) == 0 {
		return bytes.Clone(good[:i])
	}
	b := append(bytes.Clone(good[:i]), patch...)
	if len(b) < len(good) {
		b = append(b, good[len(b):]...)
	}
	return b
}

func FuzzUnseal(f *testing.F) {
	ct, k := sealTierApp(), keyFor(f, attributes("tier", "app"))
	for _, at := range matricesOf(ct) {
		f.Add(uint16(at), []byte{1, 0, 4, 0})
		f.Add(uint16(at+4), []byte{0x40})
	}
	f.Add(uint16(100), []byte{})
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		b := patched(ct, at, patch)
		if _, err := k.Unseal(target(tierApp), b); err == nil && !bytes.Equal(b, ct) {
			t.Error("opened bytes that nobody sealed")
		}
	})
}

func FuzzParseKey(f *testing.F) {
	good := keyFor(f, attributes("tier", "app")).Bytes()
	f.Add(uint16(0), []byte{0x88})
	f.Add(uint16(200), []byte{0, 0, 0})
	ct := sealTierApp()
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		k, err := ParseKey(patched(good, at, patch))
		if err != nil {
			return
		}
		k.Unseal(target(tierApp), ct)
		k.sk.Decrypt(ct)
	})
}
