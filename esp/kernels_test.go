package esp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"icvpn/esp/internal/gcm"
	"icvpn/esp/internal/lanes"
)

// useKernels makes SAs of this test compute with k.
func useKernels(tb testing.TB, k kernels) {
	tb.Helper()
	before := chosen
	chosen = k
	tb.Cleanup(func() { chosen = before })
}

// givenIV is an AEAD that also seals with the IV that stands in the packet.
type givenIV interface {
	transform
	encrypt(pkt []byte, seq uint64)
}

var (
	_ givenIV = (*combined)(nil)
	_ givenIV = (*gcmKernel)(nil)
)

// name is the choice for a suite in the names of benchmarks.
func (k kernels) name(s Suite) string {
	sha := k.sha256
	switch {
	case s == AES256CBCSHA512:
		sha = k.sha512
	case (s == AES128GCM || s == AES256GCM) && k.gcm != gcm.None:
		return k.gcm.String()
	case s != AES128CBCSHA256:
		return "std"
	}
	if k.aes == lanes.AESNone || sha == lanes.SHANone {
		return "std"
	}
	return k.aes.String() + "+" + sha.String()
}

// The other tests run with the best kernels of this processor; here those that
// touch packets run with all others, down to the standard library.
func TestEveryKernelPassesThePathTests(t *testing.T) {
	for _, k := range allKernels()[1:] {
		t.Run(fmt.Sprintf("kernels=%v,%v,%v,%v", k.aes, k.sha256, k.sha512, k.gcm), func(t *testing.T) {
			useKernels(t, k)
			for name, f := range map[string]func(*testing.T){
				"RejectsReplay":      TestOpenRejectsReplay,
				"RejectsTruncation":  TestOpenRejectsEveryTruncation,
				"RejectsTrailing":    TestOpenRejectsTrailingBytes,
				"RejectsBitFlip":     TestOpenRejectsEveryBitFlip,
				"RejectsOtherKeys":   TestOpenRejectsOtherKeys,
				"RejectsHighBits":    TestOpenRejectsOtherHighBits,
				"ESNBoundary":        TestESNCrossesTheBoundary,
				"OddBuffers":         TestOpenRefusesOddBuffers,
				"LongPadding":        TestOpenAcceptsLongPadding,
				"IVFromPacket":       TestOpenTakesTheIVFromThePacket,
				"RoundTrip":          TestRoundTrip,
				"BatchOrder":         TestBatchKeepsOrderAndSkipsBadPackets,
				"PromisedRoom":       TestSealUsesNoMoreRoomThanPromised,
				"TFC":                TestTFCPaddingIsCutOff,
				"Dummy":              TestDummyIsAuthenticAndDeliversNothing,
				"UniqueIVs":          TestIVsAreUniqueAcrossTheBoundary,
				"NoAllocation":       TestSealAndOpenDoNotAllocate,
				"NoAllocationOfDrop": TestDroppingDoesNotAllocate,
				"Concurrent":         TestConcurrentSealAndOpenDeliverEachPacketOnce,
				"CloseDuringTraffic": TestCloseDuringTraffic,
				"CloseWipes":         TestCloseWipesAndStops,
				"RFC3602":            TestCBCMatchesRFC3602,
				"RFC3602Tunnel":      TestOpenReadsRFC3602TunnelPackets,
				"RFC4868":            TestICVMatchesRFC4868,
				"Framing":            TestFramingMatchesHandMadeVectors,
				"CombinedModes":      TestCombinedModesMatchPublishedESPVectors,
			} {
				t.Run(name, f)
			}
		})
	}
}

// On a processor that has kernels they are what is used.
func TestBestKernelsAreChosen(t *testing.T) {
	all := allKernels()
	if chosen != all[0] || all[len(all)-1] != portable {
		t.Errorf("chosen %v of %v", chosen, all)
	}
	if runtime.GOARCH != "amd64" && len(all) != 1 {
		t.Errorf("%v on %s", all, runtime.GOARCH)
	}
	for _, k := range gcm.Kernels() {
		if !slices.ContainsFunc(all, func(c kernels) bool { return c.gcm == k }) {
			t.Errorf("%v is in none of %v", k, all)
		}
	}
	if best := gcm.Kernels(); len(best) > 0 && chosen.gcm != best[0] {
		t.Errorf("chosen %v of %v", chosen.gcm, best)
	}
}

// kernelTwins seals batches of the given inner sizes, 0 meaning a packet that is
// dropped, with k and with the standard library, compares, corrupts those that
// harm chooses, and compares again after Open.
func kernelTwins(tb testing.TB, k kernels, c Config, sizes []int, harm func(i int) (at int, ok bool)) {
	tb.Helper()
	var sealed, opened [2][]Packet
	for twin, choice := range []kernels{k, portable} {
		useKernels(tb, choice)
		out, in := newPair(tb, c)
		batch := make([]Packet, len(sizes))
		for i, n := range sizes {
			if batch[i] = load(ipv4(max(n, ipv4Header))); n == 0 {
				batch[i].Off = 0 // no room for the header
			}
		}
		out.Seal(born, batch)
		sealed[twin] = batch
		arrived := make([]Packet, len(batch))
		for i := range batch {
			arrived[i] = receive(batch[i].Bytes())
			if at, ok := harm(i); ok {
				arrived[i].Buf[at%len(arrived[i].Buf)] ^= 1 << (at % 8)
			}
		}
		in.Open(born, arrived)
		opened[twin] = arrived
	}
	for i := range sizes {
		a, b := sealed[0][i], sealed[1][i]
		if a.Drop != b.Drop || !bytes.Equal(a.Buf, b.Buf) {
			tb.Fatalf("sizes %v: packet %d sealed to\n%v %x, want\n%v %x", sizes, i, a.Drop, a.Buf, b.Drop, b.Buf)
		}
		a, b = opened[0][i], opened[1][i]
		if a.Drop != b.Drop || a.Drop == DropNone && !bytes.Equal(a.Bytes(), b.Bytes()) {
			tb.Fatalf("sizes %v: packet %d opened to\n%v %x, want\n%v %x", sizes, i, a.Drop, a.Bytes(), b.Drop, b.Bytes())
		}
	}
}

func TestKernelsMakeWhatTheStandardLibraryMakes(t *testing.T) {
	counts := []int{sorted + 1, 2*sorted + 40}
	for n := range 50 {
		counts = append(counts, n)
	}
	for _, k := range allKernels() {
		for _, s := range []Suite{AES128CBCSHA256, AES256CBCSHA512, AES128GCM, AES256GCM} {
			t.Run(fmt.Sprintf("suite=%v/kernels=%v,%v,%v,%v", s, k.aes, k.sha256, k.sha512, k.gcm), func(t *testing.T) {
				r := rand.New(rand.NewPCG(11, uint64(s)))
				for _, count := range counts {
					c := testConfig(s)
					c.NoESN = count%2 == 1
					c.LastSeq = maxSeq32 - uint64(10*(1+count%2*50))
					sizes := slices.Repeat([]int{1392}, count)
					if count%3 > 0 {
						for i := range sizes {
							sizes[i] = max(0, r.IntN(300)-20)
						}
					}
					kernelTwins(t, k, c, sizes, func(i int) (int, bool) { return 31 * i, i%5 == 4 })
				}
			})
		}
	}
}

// Any mix of lengths, drops and corruption.
func FuzzKernelsMatchStandardLibrary(f *testing.F) {
	f.Add(true, []byte{1, 2, 3, 0, 5, 255, 255, 255, 255, 255, 255, 255, 255, 4}, uint16(40))
	f.Add(false, []byte{90}, uint16(7))
	f.Fuzz(func(t *testing.T, sha512 bool, lengths []byte, at uint16) {
		s := AES128CBCSHA256
		if sha512 {
			s = AES256CBCSHA512
		}
		sizes := make([]int, min(len(lengths), 64))
		for i := range sizes {
			sizes[i] = 6 * int(lengths[i])
		}
		for _, k := range allKernels() {
			kernelTwins(t, k, testConfig(s), sizes, func(i int) (int, bool) {
				return int(at) + i, i%7 == int(at)%7 && lengths[i] != 0
			})
		}
	})
}
