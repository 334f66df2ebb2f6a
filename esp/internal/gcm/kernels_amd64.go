//go:build !purego

package gcm

import "golang.org/x/sys/cpu"

// detect looks at the processor. x/sys/cpu reports AVX-512 only if the operating
// system saves its registers.
func detect() bool {
	x := &cpu.X86
	return x.HasAES && x.HasBMI2 && x.HasAVX2 && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ &&
		x.HasAVX512VAES && x.HasAVX512VPCLMULQDQ
}

// The kernels take what they work on by pointer and keep none of it. Behind n
// bytes of text there is room for the tag; open returns what it should be.

//go:noescape
func encryptBlock(keys *[15][16]byte, rounds int, block *[16]byte)

//go:noescape
func multiply(dst, a, b *element)

//go:noescape
func seal128(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64)

//go:noescape
func seal256(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64)

//go:noescape
func open128(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64) (tagLo, tagHi uint64)

//go:noescape
func open256(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64) (tagLo, tagHi uint64)
