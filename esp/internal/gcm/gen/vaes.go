package main

import (
	"fmt"
	"slices"
)

// Registers of the kernels without AVX-512. All hold two blocks. There are only
// sixteen, so constants, powers of H, the counter and what blinds the tag are in
// memory, and ciphertext is read from there to be hashed.
//
// GHASH is as in the kernels with AVX-512, over two lanes, but the products are
// Karatsuba's, for here a product takes four times as long as a round of AES: low,
// high, and one of the sums of both factors' halves. Those of the powers are in
// memory, too.
const (
	vState = 0        // 0 to 7: AES
	vLow   = vWide    // products that are not reduced yet: 1,
	vMid   = vLow + 1 // that of sums of halves, which with the other two makes x^64
	vHigh  = vLow + 2 // and x^128 times these
	vBlock = vLow + 3 // what is to be hashed, or text
	vHalf  = vLow + 4 // the sum of its halves, in both halves; products
	vPower = vLow + 5 // of H, or its sum of halves
	vKey   = vLow + 6 // round key; before that, the counter
	vSum   = vLow + 7 // GHASH so far, reduced; before that, the tag's block of the cipher
)

// A step takes vWide registers, which are vStride bytes.
const (
	vWide   = 8
	vStride = 32 * vWide
)

// Layout of GCM, beside what vaes512.go has of it. Sums of halves are where that
// has powers that no step needs here.
const (
	vPowersAt = lastAt - 16*(2*vWide-1)   // from the power of a step's first block on
	vHalvesAt = powersAt + 8              // the sums of its halves and so on; before it, H^17's
	vHalfAt   = vHalvesAt + 8*(2*vWide-1) // H's
)

// Layout of the frame.
const (
	counterAt = 0  // block with the number of the step's first counter, reversed, twice
	maskAt    = 32 // what remains to be added to GHASH for the tag
	vFrame    = 48
)

// vaesSetup writes what detection and a key's set-up need.
func vaesSetup(f *file) {
	f.text("func cpuid7() (ecx uint32)", "cpuid7", 4)
	f.op("MOVL $7, AX")
	f.op("XORL CX, CX")
	f.op("CPUID")
	f.op("MOVL CX, ecx+0(FP)")
	f.op("RET")

	f.text("func multiplyVAES(dst, a, b *element)", "multiplyVAES", 24)
	f.op("MOVQ dst+0(FP), DI")
	f.op("MOVQ a+8(FP), SI")
	f.op("MOVQ b+16(FP), DX")
	f.op("VMOVDQU (SI), X%d", vBlock)
	f.op("VMOVDQU (DX), X%d", vPower)
	f.note("sums of halves, whose product is the middle one")
	f.op("VPSHUFD $0x4e, X%d, X%d", vBlock, vHalf)
	f.op("VPXOR X%d, X%d, X%[2]d", vBlock, vHalf)
	f.op("VPSHUFD $0x4e, X%d, X%d", vPower, vMid)
	f.op("VPXOR X%d, X%d, X%[2]d", vPower, vMid)
	f.op("VPCLMULQDQ $0x00, X%d, X%d, X%[2]d", vHalf, vMid)
	f.op("VPCLMULQDQ $0x00, X%d, X%d, X%d", vPower, vBlock, vLow)
	f.op("VPCLMULQDQ $0x11, X%d, X%d, X%d", vPower, vBlock, vHigh)
	f.place(vReduce("X", vSum))
	f.op("VMOVDQU X%d, (DI)", vSum)
	f.op("VZEROALL")
	f.op("RET")
}

func vaesFile(f *file) {
	vaesSetup(f)
	f.data("swap", "VPSHUFB: reverse a block", slices.Repeat([]uint64{0x08090a0b0c0d0e0f, 0x0001020304050607}, 2)...)
	f.data("poly", "x^128 + x^7 + x^2 + x + 1, reversed, without the highest", slices.Repeat([]uint64{1, 0xc200000000000000}, 2)...)
	f.data("step", "blocks in a step", slices.Repeat([]uint64{2 * vWide, 0}, 2)...)
	f.data("one", "counter of the tag", counterWords(1)...)
	f.data("counters", "counters within a step; the last two are the next step's", counterWords(vCounters()...)...)
	f.data("bytes", "from 32-n on, the first n bytes of a register", slices.Concat(slices.Repeat([]uint64{1<<64 - 1}, 4), make([]uint64, 4))...)
	for _, rounds := range []int{10, 14} {
		for _, seal := range []bool{true, false} {
			(&vaesKernel{rounds: rounds, seal: seal}).write(f)
		}
	}
}

// vCounters are those of a step's blocks, as stepCounters has them.
func vCounters() (all []uint32) {
	for i := range uint32(2 * vWide) {
		all = append(all, (i+2)%(2*vWide))
	}
	return all
}

// vReduce does what reduce does, without AVX-512's sums of three, and makes the
// middle of Karatsuba's product first. It spoils vLow, vMid and vHalf.
func vReduce(class string, dst int) (c code) {
	r := func(i int) string { return fmt.Sprintf("%s%d", class, i) }
	c.op("VPCLMULQDQ $0x10, poly<>(SB), %s, %s", r(vLow), r(vHalf))
	c.op("VPXOR %s, %[2]s, %[2]s", r(vLow), r(vMid))
	c.op("VPXOR %s, %[2]s, %[2]s", r(vHigh), r(vMid))
	c.op("VPSHUFD $0x4e, %[1]s, %[1]s", r(vLow))
	c.op("VPXOR %s, %[2]s, %[2]s", r(vLow), r(vMid))
	c.op("VPXOR %s, %[2]s, %[2]s", r(vHalf), r(vMid))
	c.op("VPCLMULQDQ $0x10, poly<>(SB), %s, %s", r(vMid), r(vHalf))
	c.op("VPSHUFD $0x4e, %s, %s", r(vMid), r(dst))
	c.op("VPXOR %s, %[2]s, %[2]s", r(vHigh), r(dst))
	c.op("VPXOR %s, %[2]s, %[2]s", r(vHalf), r(dst))
	return c
}

// vaesKernel is one function. AX is the key, DI the text that remains, CX its
// length. In the tail DX has the power of H for the first block, R10 its sum of
// halves, R9 a mask for the last register, R8 where in it the second block is.
type vaesKernel struct {
	rounds int
	seal   bool
}

func (k *vaesKernel) name() string {
	if k.seal {
		return fmt.Sprintf("sealVAES%d", 32*k.rounds-192)
	}
	return fmt.Sprintf("openVAES%d", 32*k.rounds-192)
}

func (k *vaesKernel) write(f *file) {
	name := k.name()
	args, results := 64, ""
	if !k.seal {
		args, results = 80, " (tagLo, tagHi uint64)"
	}
	f.framed(fmt.Sprintf("func %s(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64)%s", name, results), name, vFrame, args)
	k.begin(f)
	f.op("CMPQ CX, $%d", vStride)
	f.op("JBE  %s_short", name)
	if k.seal {
		k.sealSteps(f)
		k.tails(f, "tail", k.hash(-vStride, true))
	} else {
		k.openSteps(f)
		k.tails(f, "tail", nil)
	}
	f.label(name + "_short")
	k.tails(f, "short", k.head())
	f.label(name + "_end")
	k.end(f)
}

// sealSteps encrypts whole steps and hashes all but the last.
func (k *vaesKernel) sealSteps(f *file) {
	name := k.name()
	f.note("the first step has nothing to hash yet")
	f.place(weave(k.cipher(vWide), k.head()))
	k.mixAndStore(f, vWide, false)
	k.next(f, vStride)
	f.op("JBE  %s_last", name)
	f.loop(name + "_step")
	f.note("encrypt, and hash what was encrypted before")
	f.place(weave(k.cipher(vWide), k.hash(-vStride, false)))
	k.mixAndStore(f, vWide, false)
	k.next(f, vStride)
	f.op("JA   %s_step", name)
	f.label(name + "_last")
}

// openSteps hashes and decrypts whole steps.
func (k *vaesKernel) openSteps(f *file) {
	name := k.name()
	f.note("block of the tag, associated data, lengths")
	f.place(k.head())
	f.op("CMPQ CX, $%d", 2*vStride)
	f.op("JBE  %s_last", name)
	f.loop(name + "_step")
	f.note("hash and decrypt")
	f.place(weave(k.cipher(vWide), k.hash(0, false)))
	k.mixAndStore(f, vWide, false)
	k.next(f, 2*vStride)
	f.op("JA   %s_step", name)
	f.label(name + "_last")
	f.note("hash and decrypt, and add up the lanes")
	f.place(weave(k.cipher(vWide), k.hash(0, true)))
	k.mixAndStore(f, vWide, false)
	k.next(f, vStride)
}

// next leaves a step behind and compares what remains.
func (k *vaesKernel) next(f *file, than int) {
	f.op("VMOVDQU %d(SP), Y%d", counterAt, vKey)
	f.op("ADDQ $%d, DI", vStride)
	f.op("SUBQ $%d, CX", vStride)
	f.op("CMPQ CX, $%d", than)
}

// begin loads arguments.
func (k *vaesKernel) begin(f *file) {
	f.op("MOVQ k+0(FP), AX")
	f.op("MOVQ text+8(FP), DI")
	f.op("MOVQ n+16(FP), CX")
	f.note("counters: nonce and 0")
	f.op("VMOVQ nonceLo+32(FP), X%d", vKey)
	f.op("VPINSRQ $1, nonceHi+24(FP), X%d, X%[1]d", vKey)
	f.op("VINSERTI128 $1, X%d, Y%[1]d, Y%[1]d", vKey)
	f.note("block of the tag, with the first round key")
	f.op("VPSHUFB swap<>(SB), X%d, X%d", vKey, vSum)
	f.op("VPXOR one<>(SB), X%d, X%[1]d", vSum)
	f.op("VPXOR %d(AX), X%d, X%[2]d", keysAt, vSum)
	f.note("associated data and lengths, in lanes")
	f.op("VMOVQ aadLo+48(FP), X%d", vBlock)
	f.op("VPINSRQ $1, aadHi+40(FP), X%d, X%[1]d", vBlock)
	f.op("MOVQ CX, R8")
	f.op("SHLQ $3, R8")
	f.op("VMOVQ R8, X%d", vHalf)
	f.op("VPINSRQ $1, aadBits+56(FP), X%d, X%[1]d", vHalf)
	f.op("VINSERTI128 $1, X%d, Y%d, Y%[2]d", vHalf, vBlock)
}

// head makes of the tag what does not depend on the text: its block of the
// cipher, and the products of associated data and lengths with H. The latter is
// complete and goes into the frame, the former is where the sum begins, in lane 0.
func (k *vaesKernel) head() code {
	var aes, ghash code
	for i := 1; i < k.rounds; i++ {
		aes.op("VAESENC %d(AX), X%d, X%[2]d", keysAt+16*i, vSum)
	}
	aes.op("VAESENCLAST %d(AX), X%d, X%[2]d", keysAt+16*k.rounds, vSum)
	ghash = append(ghash, k.product(true,
		fmt.Sprintf("VPBROADCASTQ %d(AX)", vHalfAt), fmt.Sprintf("VBROADCASTI128 %d(AX)", lastAt))...)
	ghash = append(ghash, vReduce("Y", vBlock)...)
	ghash.op("VEXTRACTI128 $1, Y%d, X%d", vBlock, vHalf)
	ghash.op("VPSHUFB swap<>(SB), X%d, X%[1]d", vHalf)
	c := weave(aes, ghash)
	c.op("VPXOR X%d, X%d, X%[2]d", vHalf, vSum)
	c.op("VMOVDQU X%d, %d(SP)", vSum, maskAt)
	c.op("VMOVDQA X%d, X%d", vBlock, vSum)
	return c
}

// cipher writes counters and all rounds but the last, on n registers. A step's
// last two counters belong to the multiple after it, where the next one begins.
func (k *vaesKernel) cipher(n int) (c code) {
	const last = vState + vWide - 1
	first, registers := vState, n // where the first round key is until it is used up
	if n == vWide {
		first, registers = last, n-1
		c.op("VPADDD step<>(SB), Y%d, Y%d", vKey, last-1)
		c.op("VMOVDQU Y%d, %d(SP)", last-1, counterAt)
	}
	c.op("VBROADCASTI128 %d(AX), Y%d", keysAt, first)
	c.op("VPSHUFB swap<>(SB), Y%d, Y%[1]d", vKey)
	c.op("VPXOR Y%d, Y%d, Y%[2]d", first, vKey)
	if n == vWide {
		c.op("VPSHUFB swap<>(SB), Y%d, Y%[1]d", last-1)
		c.op("VPXOR Y%d, Y%d, Y%[2]d", last-1, last)
		c.op("VPXOR counters<>+%d(SB), Y%d, Y%[2]d", 32*(vWide-1), last)
	}
	for i := range registers {
		c.op("VPXOR counters<>+%d(SB), Y%d, Y%d", 32*i, vKey, vState+i)
	}
	for round := 1; round < k.rounds; round++ {
		k.loadKey(&c, round)
		for i := range n {
			c.op("VAESENC Y%d, Y%d, Y%[2]d", vKey, vState+i)
		}
	}
	return c
}

func (k *vaesKernel) loadKey(c *code, round int) {
	c.op("VBROADCASTI128 %d(AX), Y%d", keysAt+16*round, vKey)
}

// lastOf reads the text's last register, number i, block by block: behind its
// last block, of which there may be a part only, there is no more than the tag's
// place. Where there is no second block it is the first once more. So there are
// neither branches for the sixteen lengths nor masks, which AVX2 has for whole
// words only, and slow ones for stores.
func (k *vaesKernel) lastOf(c *code, i, to int) {
	c.op("VMOVDQU %d(DI), X%d", 32*i, to)
	c.op("VINSERTI128 $1, %d(DI)(R8*1), Y%d, Y%[2]d", 32*i, to)
}

// mixAndStore does the last round, into whose key the text is mixed first. The
// last register of a tail is written as lastOf reads it, the second block
// before the first. What comes behind the text is the tag's place: when sealing
// the tag will be written there, when opening it stays what it is. When sealing,
// a tail's ciphertext is left in the registers, with zeros behind.
func (k *vaesKernel) mixAndStore(f *file, n int, tail bool) {
	f.note("last round, with the text")
	f.op("VBROADCASTI128 %d(AX), Y%d", keysAt+16*k.rounds, vKey)
	for i := range n {
		text := vBlock + i%3
		if !tail || i < n-1 {
			f.op("VPXOR %d(DI), Y%d, Y%d", 32*i, vKey, text)
			f.op("VAESENCLAST Y%d, Y%d, Y%[2]d", text, vState+i)
			f.op("VMOVDQU Y%d, %d(DI)", vState+i, 32*i)
			continue
		}
		var c code
		k.lastOf(&c, i, vBlock)
		c.op("VPXOR Y%d, Y%d, Y%[1]d", vKey, vBlock)
		f.place(c)
		f.op("VAESENCLAST Y%d, Y%d, Y%[2]d", vKey, vState+i)
		if !k.seal {
			f.op("VMOVDQU (R9), Y%d", vPower)
			f.op("VPBLENDVB Y%d, Y%d, Y%d, Y%[2]d", vPower, vState+i, vBlock)
		}
		f.op("VEXTRACTI128 $1, Y%d, %d(DI)(R8*1)", vState+i, 32*i)
		f.op("VMOVDQU X%d, %d(DI)", vState+i, 32*i)
		if k.seal {
			f.op("VPAND (R9), Y%d, Y%[1]d", vState+i)
		}
	}
}

// product multiplies vBlock with a power, which power loads, and the sum of its
// halves with that of the power, which half loads. The first of several products
// begins the sums, the others are added; vBlock and vHalf are spoilt.
func (k *vaesKernel) product(first bool, half, power string) (c code) {
	mul := func(halves string, a, dst, sum int) {
		if first {
			dst = sum
		}
		c.op("VPCLMULQDQ $0x%s, Y%d, Y%d, Y%d", halves, vPower, a, dst)
		if !first {
			c.op("VPXOR Y%d, Y%d, Y%[2]d", dst, sum)
		}
	}
	c.op("VPSHUFD $0x4e, Y%d, Y%d", vBlock, vHalf)
	c.op("VPXOR Y%d, Y%d, Y%[2]d", vBlock, vHalf)
	c.op("%s, Y%d", half, vPower)
	mul("00", vHalf, vHalf, vMid)
	c.op("%s, Y%d", power, vPower)
	mul("00", vBlock, vHalf, vLow)
	mul("11", vBlock, vBlock, vHigh)
	return c
}

// hash adds a step, at an offset from DI, to the sum. With last, each block has
// its own power of H and the lanes are added up; else all of a register have the
// one that brings them to where the next step begins.
func (k *vaesKernel) hash(at int, last bool) code {
	return k.multiply(vWide, last, func(c *code, i int) {
		c.op("VMOVDQU %d(DI), Y%d", at+32*i, vBlock)
		c.op("VPSHUFB swap<>(SB), Y%d, Y%[1]d", vBlock)
	}, func(i int) (half, power string) {
		if last {
			return fmt.Sprintf("VPERMQ $0x50, %d(AX)", vHalvesAt+16*i), fmt.Sprintf("VMOVDQU %d(AX)", vPowersAt+32*i)
		}
		return fmt.Sprintf("VPBROADCASTQ %d(AX)", vHalvesAt+16*i), fmt.Sprintf("VBROADCASTI128 %d(AX)", vPowersAt+32*i)
	})
}

// hashTail does the same where the text ends, with powers from DX on. When
// sealing the ciphertext is still in registers.
func (k *vaesKernel) hashTail(n int) code {
	return k.multiply(n, true, func(c *code, i int) {
		switch {
		case k.seal:
			c.op("VPSHUFB swap<>(SB), Y%d, Y%d", vState+i, vBlock)
			return
		case i == n-1:
			k.lastOf(c, i, vBlock)
			c.op("VPAND (R9), Y%d, Y%[1]d", vBlock)
		default:
			c.op("VMOVDQU %d(DI), Y%d", 32*i, vBlock)
		}
		c.op("VPSHUFB swap<>(SB), Y%d, Y%[1]d", vBlock)
	}, func(i int) (half, power string) {
		return fmt.Sprintf("VPERMQ $0x50, %d(R10)", 16*i), fmt.Sprintf("VMOVDQU %d(DX)", 32*i)
	})
}

// multiply makes the sum of n registers, each times its power. The first one,
// which waits for the sum before, comes last. With fold the lanes are added up.
func (k *vaesKernel) multiply(n int, fold bool, load func(c *code, i int), power func(i int) (half, power string)) (c code) {
	for j := range n {
		i := (j + 1) % n
		load(&c, i)
		if i == 0 {
			c.op("VPXOR Y%d, Y%d, Y%[2]d", vSum, vBlock)
		}
		half, own := power(i)
		c = append(c, k.product(j == 0, half, own)...)
	}
	c = append(c, vReduce("Y", vSum)...)
	if fold {
		c.op("VEXTRACTI128 $1, Y%d, X%d", vSum, vHalf)
		c.op("VPXOR X%d, X%d, X%[2]d", vHalf, vSum)
	}
	return c
}

// tails writes what is left: 1 to vWide registers, 0 bytes as one of them. What
// is to be done before goes with the cipher.
func (k *vaesKernel) tails(f *file, kind string, before code) {
	name := k.name() + "_" + kind
	f.note("DX, R10: where powers are as hash wants them, when the text's last block is to be multiplied with H^2")
	f.op("LEAQ 15(CX), R8")
	f.op("ANDQ $~15, R8")
	f.op("LEAQ %d(AX), DX", lastAt)
	f.op("SUBQ R8, DX")
	f.op("LEAQ %d(AX), R10", vHalfAt)
	f.op("SHRQ $1, R8")
	f.op("SUBQ R8, R10")
	f.op("LEAQ bytes<>+32(SB), R9")
	for n := 1; n < vWide; n++ {
		f.op("CMPQ CX, $%d", 32*n)
		f.op("JBE  %s%d", name, n)
	}
	for n := vWide; n >= 1; n-- {
		f.label(fmt.Sprintf("%s%d", name, n))
		f.note("registers: %d; R9: bytes of the last one; R8: 16 if it has a second block", n)
		f.op("LEAQ %d(CX), R8", -32*(n-1))
		f.op("SUBQ R8, R9")
		f.op("ADDQ $15, R8")
		f.op("SHRQ $1, R8")
		f.op("ANDQ $16, R8")
		if k.seal {
			f.note("encrypt, and what is to be done before")
			f.place(weave(k.cipher(n), before))
			k.mixAndStore(f, n, true)
			f.note("hash")
			f.place(k.hashTail(n))
		} else {
			f.note("hash and decrypt, and what is to be done before")
			f.place(weave(k.cipher(n), slices.Concat(before, k.hashTail(n))))
			k.mixAndStore(f, n, true)
		}
		f.op("JMP  %s_end", k.name())
	}
}

// end writes the tag.
func (k *vaesKernel) end(f *file) {
	f.note("tag = sum, reversed back, and mask")
	f.op("VPSHUFB swap<>(SB), X%d, X%[1]d", vSum)
	f.op("VPXOR %d(SP), X%d, X%[2]d", maskAt, vSum)
	if k.seal {
		f.op("VMOVDQU X%d, (DI)(CX*1)", vSum)
	} else {
		f.op("VMOVQ X%d, tagLo+64(FP)", vSum)
		f.op("VPEXTRQ $1, X%d, tagHi+72(FP)", vSum)
	}
	f.note("round keys, powers of H and what blinds the tag stay nowhere")
	f.op("VZEROALL")
	f.op("VMOVDQU X0, %d(SP)", maskAt)
	f.op("RET")
}
