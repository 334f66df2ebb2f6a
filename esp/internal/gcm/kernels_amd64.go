//go:build !purego

package gcm

import (
	"slices"
	"sync"

	"golang.org/x/sys/cpu"

	"icvpn/esp/internal/lanes"
)

// bitVPCLMULQDQ is in ECX of CPUID's leaf 7. x/sys/cpu reports it only together
// with AVX-512, which it does not need.
const bitVPCLMULQDQ = 1 << 10

// detect looks at the processor, once: CPUID leaves a virtual machine, and takes
// longer than all else that a key needs. x/sys/cpu reports AVX2 and AVX-512 only if
// the operating system saves their registers; VAES of package lanes implies AVX2,
// and that there is a leaf 7.
var detect = sync.OnceValues(func() (vaes, vaes512 bool) {
	x := &cpu.X86
	vaes = slices.Contains(lanes.AESKernels(), lanes.VAES) && x.HasPCLMULQDQ && cpuid7()&bitVPCLMULQDQ != 0
	vaes512 = x.HasAES && x.HasBMI2 && x.HasAVX2 && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ &&
		x.HasAVX512VAES && x.HasAVX512VPCLMULQDQ
	return vaes, vaes512
})

// The kernels take what they work on by pointer and keep none of it. Behind n
// bytes of text there is room for the tag; open returns what it should be.

//go:noescape
func cpuid7() (ecx uint32)

//go:noescape
func encryptBlock(keys *[15][16]byte, rounds int, block *[16]byte)

//go:noescape
func multiply(dst, a, b *element)

//go:noescape
func multiplyVAES(dst, a, b *element)

//go:noescape
func seal128(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64)

//go:noescape
func seal256(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64)

//go:noescape
func open128(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64) (tagLo, tagHi uint64)

//go:noescape
func open256(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64) (tagLo, tagHi uint64)

//go:noescape
func sealVAES128(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64)

//go:noescape
func sealVAES256(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64)

//go:noescape
func openVAES128(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64) (tagLo, tagHi uint64)

//go:noescape
func openVAES256(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64) (tagLo, tagHi uint64)
