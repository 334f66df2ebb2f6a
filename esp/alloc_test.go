package esp

import (
	"fmt"
	"testing"
)

// Batches of 16, sealed and opened: no allocation at all once the buffers exist.
func TestSealAndOpenDoNotAllocate(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		var sad SAD
		if err := sad.Install(in); err != nil {
			t.Fatal(err)
		}
		const size = 16
		inner := ipv4(1400)
		bufs := make([][]byte, size)
		for i := range bufs {
			bufs[i] = make([]byte, Headroom+len(inner)+Tailroom)
			copy(bufs[i][Headroom:], inner)
		}
		batch := make([]Packet, size)
		allocs := testing.AllocsPerRun(50, func() {
			for i := range batch {
				batch[i] = Packet{Buf: bufs[i], Off: Headroom, Len: len(inner)}
			}
			if n, _ := out.Seal(born, batch); n != size {
				t.Fatal("Seal")
			}
			for i := range batch {
				if sa, _ := sad.Find(batch[i].Bytes()); sa != in {
					t.Fatal("Find")
				}
			}
			if n, _ := in.Open(born, batch); n != size {
				t.Fatal("Open")
			}
			for i := range batch {
				if src, _ := batch[i].Addrs(); !src.IsValid() {
					t.Fatal("Addrs")
				}
			}
		})
		if allocs != 0 {
			t.Errorf("%v allocations per batch", allocs)
		}
	})
}

func TestDroppingDoesNotAllocate(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		out, in := newPair(t, c)
		forged := sealOne(t, out, ipv4(1000))
		forged[len(forged)-1] ^= 1
		batch := []Packet{receive(forged), receive(forged[:20])}
		if allocs := testing.AllocsPerRun(50, func() { in.Open(born, batch) }); allocs != 0 {
			t.Errorf("%v allocations per batch", allocs)
		}
	})
}

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
