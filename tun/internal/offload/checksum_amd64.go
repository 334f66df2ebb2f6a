package offload

import "golang.org/x/sys/cpu"

// hasAVX2 is a variable so that tests cover both ways on one machine.
var hasAVX2 = cpu.X86.HasAVX2

// vectorBlock is how many bytes the assembly takes at a time.
const vectorBlock = 32

// sumVector sums the whole blocks at the beginning of b, as sumWords does, and
// returns how many bytes these are.
func sumVector(b []byte) (sum uint64, done int) {
	if !hasAVX2 || len(b) < vectorBlock {
		return 0, 0
	}
	done = len(b) &^ (vectorBlock - 1)
	return sumAVX2(&b[0], done), done
}

// copySumVector does the same and copies them. dst is not shorter than src.
func copySumVector(dst, src []byte) (sum uint64, done int) {
	if !hasAVX2 || len(src) < vectorBlock {
		return 0, 0
	}
	done = len(src) &^ (vectorBlock - 1)
	return copySumAVX2(&dst[0], &src[0], done), done
}

// sumAVX2 adds the little-endian 32-bit words of n bytes, n a multiple of 32
// below 2^32.
//
//go:noescape
func sumAVX2(src *byte, n int) uint64

// copySumAVX2 also copies them.
//
//go:noescape
func copySumAVX2(dst, src *byte, n int) uint64
