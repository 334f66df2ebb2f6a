package offload

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071) is a sum modulo 0xffff, so words may be
// added in any width and in either byte order, and swapped once at the end.

// Sum returns the ones' complement sum of b's big-endian 16-bit words, folded
// to 16 bits and not complemented. An odd last byte counts as the high one.
func Sum(b []byte) uint64 {
	vector, done := sumVector(b)
	return fold64(add64(vector, sumWords(b[done:])))
}

// CopySum copies src to the beginning of dst and returns the Sum of it. dst is
// at least as long; the two do not overlap.
func CopySum(dst, src []byte) uint64 {
	dst = dst[:len(src)]
	vector, done := copySumVector(dst, src)
	return fold64(add64(vector, copySumWords(dst[done:], src[done:])))
}

func add64(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	return sum + carry
}

// fold64 folds a sum of little-endian words and swaps it. Only the sum of
// nothing but zeros is zero.
func fold64(s uint64) uint64 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	return uint64(bits.ReverseBytes16(uint16(fold(s))))
}

// fold folds a sum of less than 2^32.
func fold(s uint64) uint64 {
	s = s>>16 + s&0xffff
	return s>>16 + s&0xffff
}

// ipv4Sum is the Sum of an IPv4 header without options.
func ipv4Sum(b []byte) uint64 {
	_ = b[ipv4Len-1]
	w, v, u := be.Uint64(b), be.Uint64(b[8:]), uint64(be.Uint32(b[16:]))
	return foldHalves(halves(w) + halves(v) + u)
}

// pseudo sums the pseudo header (RFC 9293, Section 3.1; RFC 8200, Section 8.1)
// of a packet with the IP header ip, without the length.
func pseudo(ip []byte, proto int) uint64 {
	if ip[0]>>4 == 4 {
		return foldHalves(halves(be.Uint64(ip[12:])) + uint64(proto))
	}
	b := ip[8:ipv6Len]
	s := halves(be.Uint64(b)) + halves(be.Uint64(b[8:])) + halves(be.Uint64(b[16:])) + halves(be.Uint64(b[24:]))
	return foldHalves(s + uint64(proto))
}

// halves adds the halves of a word, so that some such sums cannot overflow.
func halves(w uint64) uint64 { return w>>32 + w&0xffffffff }

// foldHalves folds a sum of less than 2^48.
func foldHalves(s uint64) uint64 { return fold(fold(halves(s))) }

// sumWords is the portable Sum, neither folded nor swapped.
func sumWords(b []byte) (sum uint64) {
	var c uint64
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(w[0:8]), 0)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(w[8:16]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(w[16:24]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(w[24:32]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(w[32:40]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(w[40:48]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(w[48:56]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(w[56:64]), c)
		sum += c
		b = b[64:]
	}
	for len(b) >= 8 {
		sum = add64(sum, binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	return add64(sum, tail(b))
}

// copySumWords is the portable CopySum, neither folded nor swapped.
func copySumWords(dst, src []byte) uint64 {
	copy(dst, src)
	return sumWords(src)
}

// tail returns fewer than eight bytes as a little-endian word.
func tail(b []byte) (w uint64) {
	for i, v := range b {
		w |= uint64(v) << (8 * i)
	}
	return w
}
