package gcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// twin is a key in the kernel and in the standard library.
type twin struct {
	g, esn *GCM
	std    cipher.AEAD
	salt   [4]byte
}

// header is what goes into nonce and tag beside the text.
type header struct {
	iv  uint64
	spi uint32
	seq uint64
	esn bool
}

func (w *twin) of(h *header) *GCM {
	if h.esn {
		return w.esn
	}
	return w.g
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func newTwin(tb testing.TB, kernel Kernel, key, salt []byte) *twin {
	tb.Helper()
	g, err := New(kernel, key, [4]byte(salt), false)
	if err != nil {
		tb.Fatal(err)
	}
	esn, err := New(kernel, key, [4]byte(salt), true)
	if err != nil {
		tb.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	std, err := cipher.NewGCM(block)
	if err != nil {
		tb.Fatal(err)
	}
	return &twin{g, esn, std, [4]byte(salt)}
}

// seal is the dumb one.
func (w *twin) seal(h *header, text []byte) []byte {
	nonce := binary.BigEndian.AppendUint64(w.salt[:], h.iv)
	aad := binary.BigEndian.AppendUint32(nil, h.spi)
	if h.esn {
		aad = binary.BigEndian.AppendUint64(aad, h.seq)
	} else {
		aad = binary.BigEndian.AppendUint32(aad, uint32(h.seq))
	}
	return w.std.Seal(nil, nonce, text, aad)
}

// check seals and opens text in data, which has room for the tag, and compares.
func (w *twin) check(tb testing.TB, h *header, data []byte) {
	tb.Helper()
	n := len(data) - TagLen
	text := bytes.Clone(data[:n])
	want := w.seal(h, text)
	w.of(h).Seal(h.iv, h.spi, h.seq, data)
	if !bytes.Equal(data, want) {
		tb.Fatalf("%d bytes, %+v: sealed to\n%x, want\n%x", n, h, data, want)
	}
	if !w.of(h).Open(h.iv, h.spi, h.seq, data) || !bytes.Equal(data[:n], text) {
		tb.Fatalf("%d bytes, %+v: opened to\n%x, want\n%x", n, h, data[:n], text)
	}
	if !bytes.Equal(data[n:], want[n:]) {
		tb.Fatalf("%d bytes: Open changed the tag", n)
	}
}

func someHeader(r *rand.Rand) *header {
	return &header{r.Uint64(), r.Uint32(), r.Uint64(), r.IntN(2) == 0}
}

// forKernels runs f for every kernel and length of keys.
func forKernels(t *testing.T, f func(t *testing.T, kernel Kernel, keyLen int)) {
	t.Helper()
	if len(Kernels()) == 0 {
		t.Skip("no kernel on this processor, or built with purego")
	}
	for _, kernel := range Kernels() {
		for _, keyLen := range []int{16, 32} {
			t.Run(fmt.Sprintf("kernel=%v/key=%d", kernel, 8*keyLen), func(t *testing.T) { f(t, kernel, keyLen) })
		}
	}
}

func TestMakesWhatTheStandardLibraryMakes(t *testing.T) {
	forKernels(t, func(t *testing.T, kernel Kernel, keyLen int) {
		r := rand.New(rand.NewPCG(1, uint64(keyLen)))
		for n := range 2049 {
			w := newTwin(t, kernel, random(r, keyLen), random(r, 4))
			for range 2 {
				at := r.IntN(64)
				w.check(t, someHeader(r), random(r, at+n+TagLen)[at:])
			}
		}
		// The counter of blocks passes 256 at 4 KiB and 65536 at 1 MiB.
		for range 100 {
			w := newTwin(t, kernel, random(r, keyLen), random(r, 4))
			w.check(t, someHeader(r), random(r, r.IntN(64<<10)+TagLen))
		}
		w := newTwin(t, kernel, random(r, keyLen), random(r, 4))
		w.check(t, someHeader(r), random(r, 1<<20+1234+TagLen))
	})
}

// Keys, texts and headers of nothing but zeros or ones.
func TestMakesWhatTheStandardLibraryMakesOfExtremes(t *testing.T) {
	forKernels(t, func(t *testing.T, kernel Kernel, keyLen int) {
		for _, fill := range []byte{0, 0xff} {
			w := newTwin(t, kernel, bytes.Repeat([]byte{fill}, keyLen), bytes.Repeat([]byte{fill}, 4))
			for _, n := range []int{0, 1, 16, 255, 256, 257, 1396, 5000} {
				for _, text := range []byte{0, 0xff} {
					for _, v := range []uint64{0, ^uint64(0)} {
						for _, esn := range []bool{false, true} {
							h := &header{v, uint32(v), v, esn}
							w.check(t, h, bytes.Repeat([]byte{text}, n+TagLen))
						}
					}
				}
			}
		}
	})
}

// Every bit of tag and associated data, and bits of every byte of the
// ciphertext; nothing of the text is left.
func TestOpenRefusesEveryFlip(t *testing.T) {
	forKernels(t, func(t *testing.T, kernel Kernel, keyLen int) {
		r := rand.New(rand.NewPCG(2, uint64(keyLen)))
		w := newTwin(t, kernel, random(r, keyLen), random(r, 4))
		refuse := func(h *header, data []byte, what string, at int) {
			t.Helper()
			if w.of(h).Open(h.iv, h.spi, h.seq, data) {
				t.Fatalf("%d bytes: %s %d flipped, and opened", len(data)-TagLen, what, at)
			}
			if text := data[:len(data)-TagLen]; !bytes.Equal(text, make([]byte, len(text))) {
				t.Fatalf("%d bytes: %s %d flipped, left %x", len(text), what, at, text)
			}
		}
		for _, n := range []int{0, 1, 15, 16, 17, 64, 68, 255, 256, 257, 512, 700, 1396} {
			for _, esn := range []bool{false, true} {
				h := someHeader(r)
				h.esn = esn
				sealed := w.seal(h, random(r, n))
				for i := range n {
					data := bytes.Clone(sealed)
					data[i] ^= 1 << r.IntN(8)
					refuse(h, data, "byte", i)
				}
				for i := range 8 * TagLen {
					data := bytes.Clone(sealed)
					data[n+i/8] ^= 1 << (i % 8)
					refuse(h, data, "bit of the tag", i)
				}
				for i := range 64 {
					other := *h
					other.iv ^= 1 << i
					refuse(&other, bytes.Clone(sealed), "bit of the IV", i)
					other = *h
					if other.seq ^= 1 << i; i < 32 || esn {
						refuse(&other, bytes.Clone(sealed), "bit of the number", i)
					} else if !w.g.Open(other.iv, other.spi, other.seq, bytes.Clone(sealed)) {
						t.Fatal("without ESN the high half counted")
					}
				}
				for i := range 32 {
					other := *h
					other.spi ^= 1 << i
					refuse(&other, bytes.Clone(sealed), "bit of the SPI", i)
				}
				other := *h
				other.esn = !esn
				refuse(&other, bytes.Clone(sealed), "ESN", 0)
			}
		}
	})
}

func TestNewRefusesWhatItCannotDo(t *testing.T) {
	if _, err := New(None, make([]byte, 16), [4]byte{}, false); !errors.Is(err, ErrKernel) {
		t.Errorf("no kernel: %v", err)
	}
	forKernels(t, func(t *testing.T, kernel Kernel, _ int) {
		for _, n := range []int{0, 15, 17, 24, 31, 33} {
			if _, err := New(kernel, make([]byte, n), [4]byte{}, false); !errors.Is(err, ErrKey) {
				t.Errorf("key of %d bytes: %v", n, err)
			}
		}
	})
}

func TestWipeLeavesNothing(t *testing.T) {
	forKernels(t, func(t *testing.T, kernel Kernel, keyLen int) {
		g, err := New(kernel, bytes.Repeat([]byte{7}, keyLen), [4]byte{1, 2, 3, 4}, true)
		if err != nil {
			t.Fatal(err)
		}
		g.Wipe()
		if *g != (GCM{kernel: kernel, rounds: g.rounds, esn: true}) {
			t.Errorf("left: %+v", g)
		}
	})
}

func TestNothingAllocates(t *testing.T) {
	forKernels(t, func(t *testing.T, kernel Kernel, keyLen int) {
		r := rand.New(rand.NewPCG(3, uint64(keyLen)))
		w := newTwin(t, kernel, random(r, keyLen), random(r, 4))
		data := random(r, 1412)
		if n := testing.AllocsPerRun(100, func() {
			w.g.Seal(1, 2, 3, data)
			if !w.g.Open(1, 2, 3, data) {
				t.Fatal("Open")
			}
			w.g.Open(1, 2, 3, data)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// Text without room for a tag is our bug.
func TestShortDataPanic(t *testing.T) {
	forKernels(t, func(t *testing.T, kernel Kernel, keyLen int) {
		w := newTwin(t, kernel, make([]byte, keyLen), make([]byte, 4))
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		w.g.Seal(1, 2, 3, make([]byte, TagLen-1))
	})
}
