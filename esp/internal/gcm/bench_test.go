package gcm

import (
	"fmt"
	"testing"
	"time"
)

// One operation is one packet; the best of many runs over 64 tells what the code
// costs on a machine that has other things to do as well.
func BenchmarkGCM(b *testing.B) {
	const batch = 64
	for _, kernel := range Kernels() {
		for _, keyLen := range []int{16, 32} {
			for _, size := range []int{68, 516, 1396, 8192} {
				g, err := New(kernel, make([]byte, keyLen), [4]byte{}, true)
				if err != nil {
					b.Fatal(err)
				}
				data := make([][]byte, batch)
				for i := range data {
					data[i] = make([]byte, size+TagLen)
				}
				for op, f := range map[string]func(seq uint64, data []byte){
					"seal": func(seq uint64, data []byte) { g.Seal(seq, 256, seq, data) },
					"open": func(seq uint64, data []byte) { g.Open(seq, 256, seq, data) },
				} {
					b.Run(fmt.Sprintf("kernel=%v/key=%d/size=%d/op=%s", kernel, 8*keyLen, size, op), func(b *testing.B) {
						b.SetBytes(int64(size))
						best := time.Hour
						for done := 0; done < b.N; done += batch {
							for i := range data {
								g.Seal(uint64(i), 256, uint64(i), data[i])
							}
							start := time.Now()
							for i := range data {
								f(uint64(i), data[i])
							}
							best = min(best, time.Since(start))
						}
						b.ReportMetric(float64(size*batch)/float64(best.Nanoseconds()), "best-GB/s")
						b.ReportMetric(float64(best.Nanoseconds())/batch, "best-ns")
					})
				}
			}
		}
	}
}
