package lanes

// AES names a way to do AES.
type AES uint8

// Ways to do AES; AESNone is never in AESKernels.
const (
	AESNone AES = iota
	AESNI       // 128-bit registers
	VAES        // 256-bit registers
	VAES512     // AVX-512's: 512 bits, and more of them
)

// SHA names a way to do SHA-256 or SHA-512.
type SHA uint8

// Ways to do SHA-2; SHANone is never in SHA256Kernels or SHA512Kernels.
const (
	SHANone   SHA = iota
	SHANI         // the SHA extensions
	SHANI512      // the same for the rounds, AVX-512 for the message schedules
	SHAAVX2       // a word of each message in one register
	SHAAVX512     // the same with 512-bit registers
)

// String returns the kernel's name as it stands in benchmarks.
func (k AES) String() string { return [...]string{"none", "aesni", "vaes", "vaes512"}[k] }

// String returns the kernel's name as it stands in benchmarks.
func (k SHA) String() string { return [...]string{"none", "shani", "shani512", "avx2", "avx512"}[k] }

// AESKernels returns what this processor can do, best first.
func AESKernels() (all []AES) {
	f := detect()
	if f.vaes && f.avx512 {
		all = append(all, VAES512)
	}
	if f.vaes {
		all = append(all, VAES)
	}
	if f.aesni {
		all = append(all, AESNI)
	}
	return all
}

// SHA256Kernels returns what this processor can do, best first.
func SHA256Kernels() (all []SHA) {
	f := detect()
	if f.shani && f.avx512 {
		all = append(all, SHANI512)
	}
	if f.shani {
		all = append(all, SHANI)
	}
	if f.avx512 {
		all = append(all, SHAAVX512)
	}
	if f.avx2 {
		all = append(all, SHAAVX2)
	}
	return all
}

// SHA512Kernels returns what this processor can do, best first.
func SHA512Kernels() (all []SHA) {
	f := detect()
	if f.avx512 {
		all = append(all, SHAAVX512)
	}
	if f.avx2 {
		all = append(all, SHAAVX2)
	}
	return all
}

// features are those of the processor that kernels need. All imply AVX, with its
// registers saved by the operating system. avx512 is F, BW, DQ and VL.
type features struct{ aesni, vaes, shani, avx2, avx512 bool }

// lane is what a SHA-2 kernel knows of a message. The layout is the assembly's.
type lane[W uint32 | uint64] struct {
	state *[8]W
	data  *byte // whole blocks
}

// maxLanes is the width of the widest kernel.
const maxLanes = 16
