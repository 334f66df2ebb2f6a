package esp

import (
	"runtime"
	"testing"

	"icvpn/esp/internal/lanes"
)

// skipPortableChaCha: x/crypto's ChaCha20-Poly1305 without assembly allocates in
// every call.
func skipPortableChaCha(t *testing.T, s Suite) {
	t.Helper()
	assembly := runtime.GOARCH == "amd64" && !lanes.Portable
	if s == ChaCha20Poly1305 && !assembly {
		t.Skip("x/crypto's portable ChaCha20-Poly1305 allocates")
	}
}

// Batches of 16, sealed and opened: no allocation at all once the buffers exist.
func TestSealAndOpenDoNotAllocate(t *testing.T) {
	forSuites(t, func(t *testing.T, c Config) {
		skipPortableChaCha(t, c.Suite)
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
		skipPortableChaCha(t, c.Suite)
		out, in := newPair(t, c)
		forged := sealOne(t, out, ipv4(1000))
		forged[len(forged)-1] ^= 1
		batch := []Packet{receive(forged), receive(forged[:20])}
		if allocs := testing.AllocsPerRun(50, func() { in.Open(born, batch) }); allocs != 0 {
			t.Errorf("%v allocations per batch", allocs)
		}
	})
}
