package lanes

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// benchBatches runs f, which works on count messages. Beside the average it
// reports the best batch, which a machine that has other things to do cannot
// spoil.
func benchBatches(b *testing.B, count int, f func()) {
	b.Helper()
	best := time.Hour
	for done := 0; done < b.N; done += count {
		start := time.Now()
		f()
		best = min(best, time.Since(start))
	}
	b.ReportMetric(float64(best.Nanoseconds())/float64(count), "best-ns")
}

// One operation is one message; batches are of 64.
func benchMessages(b *testing.B, size int) [][]byte {
	b.Helper()
	messages, _ := random(b, rand.New(rand.NewPCG(1, 1)), slices.Repeat([]int{size}, 64))
	b.SetBytes(int64(size))
	return messages
}

func BenchmarkCBC(b *testing.B) {
	for _, kernel := range AESKernels() {
		for _, keyLen := range []int{16, 32} {
			for _, size := range []int{80, 1424} {
				c, err := NewCBC(kernel, make([]byte, keyLen))
				if err != nil {
					b.Fatal(err)
				}
				name := fmt.Sprintf("kernel=%v/key=%d/size=%d", kernel, 8*keyLen, size)
				b.Run("op=encrypt/"+name, func(b *testing.B) {
					messages := benchMessages(b, size)
					benchBatches(b, len(messages), func() { c.Encrypt(messages) })
				})
				b.Run("op=decrypt/"+name, func(b *testing.B) {
					messages := benchMessages(b, size)
					benchBatches(b, len(messages), func() {
						for _, m := range messages {
							c.Decrypt(m)
						}
					})
				})
			}
		}
	}
}

func BenchmarkHMAC(b *testing.B) {
	for _, v := range macs() {
		for _, size := range []int{80, 1424} {
			b.Run(fmt.Sprintf("%s/size=%d", v.name, size), func(b *testing.B) {
				h, err := v.newMAC(make([]byte, 32))
				if err != nil {
					b.Fatal(err)
				}
				space, messages := new(Scratch), make([]Message, 64)
				for i, m := range benchMessages(b, size) {
					messages[i] = Message{Data: m, SuffixLen: 4}
				}
				benchBatches(b, len(messages), func() { h.Sum(space, messages) })
			})
		}
	}
}
