package esp

import (
	"fmt"
	"testing"
)

var benchSizes = []int{64, 576, 1400}

const benchBatch = 64

func benchSuites(b *testing.B, f func(b *testing.B, s Suite, size int)) {
	for _, s := range Suites() {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("suite=%v/size=%d", s, size), func(b *testing.B) { f(b, s, size) })
		}
	}
}

func benchConfig(s Suite) Config {
	c := testConfig(s)
	c.Limits = Limits{Bytes: maxSeq64, Packets: maxSeq64}
	return c
}

// One operation is one packet; batches are of benchBatch.
func BenchmarkSeal(b *testing.B) {
	benchSuites(b, func(b *testing.B, s Suite, size int) {
		out, _ := newPair(b, benchConfig(s))
		inner := ipv4(size)
		bufs := make([]Packet, benchBatch)
		for i := range bufs {
			bufs[i] = load(inner)
		}
		batch := make([]Packet, benchBatch)
		b.SetBytes(int64(size))
		b.ReportAllocs()
		b.ResetTimer()
		for done := 0; done < b.N; done += benchBatch {
			copy(batch, bufs)
			for i := range batch {
				copy(batch[i].Bytes(), inner[:ipv4Header]) // sealing overwrote it
			}
			out.Seal(born, batch)
		}
		if out.Stats().SealedPackets.Load() < uint64(b.N) {
			b.Fatal("packets were dropped")
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	benchSuites(b, func(b *testing.B, s Suite, size int) {
		c := benchConfig(s)
		out, _ := newPair(b, c)
		datagrams := make([][]byte, benchBatch)
		for i := range datagrams {
			datagrams[i] = sealOne(b, out, ipv4(size))
		}
		_, in := newPair(b, c)
		batch := make([]Packet, benchBatch)
		for i := range batch {
			batch[i] = receive(datagrams[i])
		}
		b.SetBytes(int64(size))
		b.ReportAllocs()
		b.ResetTimer()
		for done := 0; done < b.N; done += benchBatch {
			for i := range batch {
				batch[i].Off, batch[i].Len = 0, copy(batch[i].Buf, datagrams[i])
			}
			in.window = window{size: in.window.size, mask: in.window.mask, ring: in.window.ring}
			clear(in.window.ring)
			if n, _ := in.Open(born, batch); n != benchBatch {
				b.Fatal("packets were dropped")
			}
		}
	})
}
