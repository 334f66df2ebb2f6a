package offload

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// reference is RFC 1071, Section 1, word for word.
func reference(b []byte) uint64 {
	sum := uint64(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint64(b[i])<<8 | uint64(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint64(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}

// checkSums compares every variant with the reference, and looks at what lies
// around the copy.
func checkSums(t *testing.T, b []byte, shift int) {
	t.Helper()
	want := reference(b)
	everyVariant(t, func(t *testing.T) {
		if got := Sum(b); got != want {
			t.Fatalf("Sum of %d bytes is %#x, want %#x", len(b), got, want)
		}
		const guard = 64
		room := bytes.Repeat([]byte{0xA5}, guard+shift+len(b)+guard)
		dst := room[guard+shift:][:len(b)]
		if got := CopySum(dst, b); got != want || !bytes.Equal(dst, b) {
			t.Fatalf("CopySum of %d bytes is %#x, want %#x; copied: %v", len(b), got, want, bytes.Equal(dst, b))
		}
		copy(dst, bytes.Repeat([]byte{0xA5}, len(b)))
		if len(bytes.Trim(room, "\xA5")) != 0 {
			t.Fatalf("CopySum of %d bytes wrote outside", len(b))
		}
	})
}

func TestSumsEqualTheReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	room := make([]byte, 2100)
	for n := range 2000 {
		shift := rng.IntN(64)
		b := room[shift:][:n]
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		checkSums(t, b, rng.IntN(33))
	}
	for _, n := range []int{0, 1, 31, 32, 33, 65535} {
		checkSums(t, bytes.Repeat([]byte{0xff}, n), 1) // every carry there is
		checkSums(t, make([]byte, n), 1)
	}
}

func FuzzSums(f *testing.F) {
	f.Add([]byte("odd"), uint8(0))
	f.Add(bytes.Repeat([]byte{0xff, 0xfe}, 700), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, shift uint8) { checkSums(t, b, int(shift)) })
}

func BenchmarkChecksum(b *testing.B) {
	src, dst := make([]byte, 1400), make([]byte, 1400)
	for _, variant := range variants() {
		for name, fn := range map[string]func(){
			"sum":  func() { Sum(src) },
			"copy": func() { CopySum(dst, src) },
		} {
			b.Run(fmt.Sprintf("op=%s/variant=%s", name, variant.name), func(b *testing.B) {
				defer variant.use()()
				b.SetBytes(int64(len(src)))
				for b.Loop() {
					fn()
				}
			})
		}
	}
}
