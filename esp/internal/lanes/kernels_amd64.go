//go:build !purego

package lanes

import "golang.org/x/sys/cpu"

// Portable says that this build has no kernels.
const Portable = false

// Feature bits of CPUID leaf 7 that x/sys/cpu does not have.
const (
	bitSHA  = 1 << 29 // EBX
	bitVAES = 1 << 9  // ECX
)

// detect looks at the processor. x/sys/cpu reports AVX and AVX2 only if the
// operating system saves their registers, and AVX-512 only if it saves masks, the
// upper halves and registers 16 to 31 as well (XCR0). VAES on ymm registers needs
// AVX2, not AVX-512.
func detect() features {
	if !cpu.X86.HasAVX {
		return features{}
	}
	ebx, ecx := cpuid7()
	return features{
		aesni:  cpu.X86.HasAES,
		vaes:   cpu.X86.HasAES && cpu.X86.HasAVX2 && ecx&bitVAES != 0,
		shani:  ebx&bitSHA != 0,
		avx2:   cpu.X86.HasAVX2,
		avx512: cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ,
	}
}

// The dispatch is by switch and not by function values, which would make the
// arrays of pointers escape to the heap.

func (c *CBC) encryptLanes(heads *[maxLanes]*byte, busy, blocks int) {
	// 8 lanes of AES-NI are faster than 16 of VAES if no more are busy: a block
	// takes little more than the latency of its rounds.
	switch {
	case c.kernel == AESNI || busy <= maxLanes/2:
		cbcEncryptNI(&c.enc[0][0], c.rounds, heads, blocks)
	case c.kernel == VAES:
		cbcEncryptVAES(&c.enc[0][0], c.rounds, heads, blocks)
	case c.kernel == VAES512:
		cbcEncryptVAES512(&c.enc[0][0], c.rounds, heads, blocks)
	}
}

func (c *CBC) decryptOne(head *byte, blocks int) {
	switch c.kernel {
	case AESNI:
		cbcDecryptNI(&c.dec[0][0], c.rounds, head, blocks)
	case VAES:
		cbcDecryptVAES(&c.dec[0][0], c.rounds, head, blocks)
	case VAES512:
		cbcDecryptVAES512(&c.dec[0][0], c.rounds, head, blocks)
	}
}

func (c *CBC) encryptBlocks(data *byte, blocks int) {
	switch c.kernel {
	case AESNI:
		ecbEncryptNI(&c.enc[0][0], c.rounds, data, blocks)
	case VAES:
		ecbEncryptVAES(&c.enc[0][0], c.rounds, data, blocks)
	case VAES512:
		ecbEncryptVAES512(&c.enc[0][0], c.rounds, data, blocks)
	}
}

func sha256Kernels(k SHA) []shaKernel[uint32] {
	switch k {
	case SHANI:
		return []shaKernel[uint32]{{sha256NIx2, 2}, {sha256NIx4, 4}}
	case SHANI512:
		return []shaKernel[uint32]{{sha256NIx2, 2}, {sha256NIx4, 4}, {sha256NI512x8, 8}}
	case SHAAVX512:
		return []shaKernel[uint32]{{sha256AVX2x8, 8}, {sha256AVX512x16, 16}}
	case SHAAVX2:
		return []shaKernel[uint32]{{sha256AVX2x8, 8}}
	default:
		return nil
	}
}

func sha512Kernels(k SHA) []shaKernel[uint64] {
	switch k {
	case SHAAVX512:
		return []shaKernel[uint64]{{sha512AVX2x4, 4}, {sha512AVX512x8, 8}}
	case SHAAVX2:
		return []shaKernel[uint64]{{sha512AVX2x4, 4}}
	default:
		return nil
	}
}

// The kernels take what they work on by pointer and keep none of it. keys are
// rounds+1 round keys; blocks is at least 1.

//go:noescape
func cpuid7() (ebx, ecx uint32)

//go:noescape
func subWord(w uint32) uint32

//go:noescape
func invMixColumns(dst, src *[16]byte)

//go:noescape
func cbcEncryptNI(keys *byte, rounds int, heads *[16]*byte, blocks int)

//go:noescape
func cbcEncryptVAES512(keys *byte, rounds int, heads *[16]*byte, blocks int)

//go:noescape
func cbcEncryptVAES(keys *byte, rounds int, heads *[16]*byte, blocks int)

//go:noescape
func cbcDecryptNI(keys *byte, rounds int, head *byte, blocks int)

//go:noescape
func cbcDecryptVAES512(keys *byte, rounds int, head *byte, blocks int)

//go:noescape
func cbcDecryptVAES(keys *byte, rounds int, head *byte, blocks int)

//go:noescape
func ecbEncryptNI(keys *byte, rounds int, data *byte, blocks int)

//go:noescape
func ecbEncryptVAES512(keys *byte, rounds int, data *byte, blocks int)

//go:noescape
func ecbEncryptVAES(keys *byte, rounds int, data *byte, blocks int)

//go:noescape
func sha256NIx2(lanes *[16]lane[uint32], blocks int)

//go:noescape
func sha256NIx4(lanes *[16]lane[uint32], blocks int)

//go:noescape
func sha256NI512x8(lanes *[16]lane[uint32], blocks int)

//go:noescape
func sha256AVX2x8(lanes *[16]lane[uint32], blocks int)

//go:noescape
func sha512AVX2x4(lanes *[16]lane[uint64], blocks int)

//go:noescape
func sha256AVX512x16(lanes *[16]lane[uint32], blocks int)

//go:noescape
func sha512AVX512x8(lanes *[16]lane[uint64], blocks int)

//go:noescape
func digest256(block *[128]byte, state *[8]uint32)

//go:noescape
func digest512(block *[128]byte, state *[8]uint64)
