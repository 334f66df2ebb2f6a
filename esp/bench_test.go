package esp

import (
	"fmt"
	"testing"
	"time"
)

// 1392 is what is left of an Ethernet frame for the inner packet, in round figures.
var benchSizes = []int{64, 512, 1392}

const benchBatch = 64

// benchSuites runs f for every suite, size and choice of kernels: cpu=std is the
// standard library.
func benchSuites(b *testing.B, f func(b *testing.B, s Suite, size int)) {
	for _, s := range Suites() {
		done := map[string]bool{}
		for _, k := range allKernels() {
			if done[k.name(s)] {
				continue
			}
			done[k.name(s)] = true
			for _, size := range benchSizes {
				b.Run(fmt.Sprintf("suite=%v/size=%d/cpu=%s", s, size, k.name(s)), func(b *testing.B) {
					useKernels(b, k)
					f(b, s, size)
				})
			}
		}
	}
}

func benchConfig(s Suite) Config {
	c := testConfig(s)
	c.Limits = Limits{Bytes: maxSeq64, Packets: maxSeq64}
	return c
}

// benchBatches measures f, which takes one batch through, and leaves prepare out.
// One operation is one packet. Beside the average there is the best batch, which
// tells what the code costs on a machine that has other things to do as well.
func benchBatches(b *testing.B, size int, prepare, f func()) {
	b.Helper()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	best, total := time.Hour, time.Duration(0)
	for done := 0; done < b.N; done += benchBatch {
		prepare()
		start := time.Now()
		f()
		d := time.Since(start)
		best, total = min(best, d), total+d
	}
	b.ReportMetric(float64(size*benchBatch)/float64(best.Nanoseconds()), "best-GB/s")
	b.ReportMetric(float64(total.Nanoseconds())/float64(max(b.N, benchBatch)), "ns/op")
}

func BenchmarkSeal(b *testing.B) {
	benchSuites(b, func(b *testing.B, s Suite, size int) {
		out, _ := newPair(b, benchConfig(s))
		inner := ipv4(size)
		batch, fresh := make([]Packet, benchBatch), make([]Packet, benchBatch)
		for i := range fresh {
			fresh[i] = load(inner)
		}
		benchBatches(b, size, func() {
			copy(batch, fresh)
			for i := range batch {
				copy(batch[i].Bytes(), inner[:ipv4Header]) // sealing overwrote it
			}
		}, func() {
			if n, _ := out.Seal(born, batch); n != benchBatch {
				b.Fatal("packets were dropped")
			}
		})
	})
}

func BenchmarkOpen(b *testing.B) {
	benchSuites(b, func(b *testing.B, s Suite, size int) {
		c := benchConfig(s)
		out, in := newPair(b, c)
		datagrams := make([][]byte, benchBatch)
		for i := range datagrams {
			datagrams[i] = sealOne(b, out, ipv4(size))
		}
		batch := make([]Packet, benchBatch)
		for i := range batch {
			batch[i] = receive(datagrams[i])
		}
		benchBatches(b, size, func() {
			for i := range batch {
				batch[i].Off, batch[i].Len = 0, copy(batch[i].Buf, datagrams[i])
			}
			in.window = window{size: in.window.size, mask: in.window.mask, ring: in.window.ring}
			clear(in.window.ring)
		}, func() {
			if n, _ := in.Open(born, batch); n != benchBatch {
				b.Fatal("packets were dropped")
			}
		})
	})
}
