package lanes

import (
	"bytes"
	"crypto/hmac"
	"math/rand/v2"
	"testing"
)

// The fuzzer chooses seed, lengths and how many; data, keys and alignments come
// from the seed. Two bytes are a length.
func lengthsOf(shape []byte, most int) []int {
	lengths := make([]int, min(len(shape)/2, 40))
	for i := range lengths {
		lengths[i] = (int(shape[2*i])<<8 | int(shape[2*i+1])) % most
	}
	return lengths
}

func fuzzCBC(f *testing.F, kernel AES) {
	f.Helper()
	found := false
	for _, k := range AESKernels() {
		found = found || k == kernel
	}
	if !found {
		f.Skip("no such kernel on this processor, or built with purego")
	}
	f.Add(uint64(1), false, []byte{0, 88, 0, 88, 0, 3, 0, 0, 0, 88})
	f.Add(uint64(2), true, bytes.Repeat([]byte{0, 17}, 33))
	f.Fuzz(func(t *testing.T, seed uint64, long bool, shape []byte) {
		keyLen := 16
		if long {
			keyLen = 32
		}
		checkCBC(t, kernel, rand.New(rand.NewPCG(seed, 0)), keyLen, lengthsOf(shape, 200))
	})
}

func FuzzCBCAESNIMatchesStandardLibrary(f *testing.F)   { fuzzCBC(f, AESNI) }
func FuzzCBCVAESMatchesStandardLibrary(f *testing.F)    { fuzzCBC(f, VAES) }
func FuzzCBCVAES512MatchesStandardLibrary(f *testing.F) { fuzzCBC(f, VAES512) }

func fuzzHMAC(f *testing.F, name string) {
	f.Helper()
	for _, v := range macs() {
		if v.name != name {
			continue
		}
		f.Add(uint64(1), uint8(32), uint8(4), []byte{5, 0x98, 5, 0x98, 0, 9, 0, 0, 5, 0x98})
		f.Add(uint64(2), uint8(255), uint8(0), bytes.Repeat([]byte{0, 119}, 33))
		f.Fuzz(func(t *testing.T, seed uint64, keyLen, suffix uint8, shape []byte) {
			r := rand.New(rand.NewPCG(seed, 0))
			checkHMAC(t, v, r, int(keyLen)%(v.blockLen+1), int(suffix)%5, lengthsOf(shape, 4000))
		})
		return
	}
	f.Skip("no such kernel on this processor, or built with purego")
}

func FuzzHMACSHA256NIMatchesStandardLibrary(f *testing.F)     { fuzzHMAC(f, "sha256/kernel=shani") }
func FuzzHMACSHA256NI512MatchesStandardLibrary(f *testing.F)  { fuzzHMAC(f, "sha256/kernel=shani512") }
func FuzzHMACSHA256AVX512MatchesStandardLibrary(f *testing.F) { fuzzHMAC(f, "sha256/kernel=avx512") }
func FuzzHMACSHA512AVX512MatchesStandardLibrary(f *testing.F) { fuzzHMAC(f, "sha512/kernel=avx512") }
func FuzzHMACSHA256AVX2MatchesStandardLibrary(f *testing.F)   { fuzzHMAC(f, "sha256/kernel=avx2") }
func FuzzHMACSHA512AVX2MatchesStandardLibrary(f *testing.F)   { fuzzHMAC(f, "sha512/kernel=avx2") }

// The message itself as the fuzzer's bytes: what lengths and seeds cannot reach.
func FuzzHMACOfAnyBytesMatchesStandardLibrary(f *testing.F) {
	f.Add([]byte("key"), []byte("message"))
	f.Fuzz(func(t *testing.T, key, data []byte) {
		for _, v := range macs() {
			k := key[:min(len(key), v.blockLen)]
			h, err := v.newMAC(k)
			if err != nil {
				t.Fatal(err)
			}
			messages := []Message{{Data: data}, {Data: data[len(data)/2:]}, {Data: data[:len(data)/3]}}
			h.Sum(new(Scratch), messages)
			for _, m := range messages {
				want := hmac.New(v.newHash, k)
				want.Write(m.Data)
				if w := want.Sum(nil)[:SumLen]; !bytes.Equal(m.Sum[:], w) {
					t.Fatalf("%s: %x, want %x", v.name, m.Sum, w)
				}
			}
		}
	})
}
