package main

import (
	"fmt"
	"math/bits"
	"slices"
)

// Registers of the kernels. All hold four blocks.
//
// Blocks of GHASH are reversed, so that the first bit is the highest of a
// 128-bit number. Its sum is kept in four lanes, each over every fourth block.
// As long as whole steps follow, all blocks of a register are multiplied with
// one power of H, and nothing crosses lanes; only the last step and the tail
// give each block its own.
const (
	state = 0        // 0 to 7: AES
	block = wide     // 8 to 15: ciphertext that is to be hashed, or text
	sum   = 2 * wide // GHASH so far, reduced

	low   = sum + 1 // products that are not reduced yet: 1,
	mid   = sum + 2 // x^64
	high  = sum + 3 // and x^128 times these
	power = sum + 4 // of H

	swap    = sum + 5 // VPSHUFB: reverse a block
	poly    = sum + 6
	counter = sum + 7 // block with the number of the step's first counter, reversed
	base    = sum + 8 // the same, as AES takes it, with the first round key
	mask    = sum + 9 // what remains to be added to GHASH for the tag
	key     = sum + 10
	odd     = sum + 11 // round keys by turns with key
	tmp     = sum + 12 // and the next three
)

// A step takes wide registers, which are stride bytes.
const (
	wide   = 8
	stride = 64 * wide
)

// Layout of GCM.
const (
	powersAt = 0
	lastAt   = powersAt + 16*4*wide // H itself
	keysAt   = lastAt + 16*4
)

func vaes512File(f *file) {
	f.data("swap", "VPSHUFB: reverse a block", 0x08090a0b0c0d0e0f, 0x0001020304050607)
	f.data("poly", "x^128 + x^7 + x^2 + x + 1, reversed, without the highest", 1, 0xc200000000000000)
	f.data("step", "blocks in a step", slices.Repeat([]uint64{4 * wide, 0}, 4)...)
	f.data("one", "counter of the tag", counterWords(1)...)
	f.data("counters", "counters within a step; the last two are the next step's", counterWords(stepCounters()...)...)
	for _, rounds := range []int{10, 14} {
		for _, seal := range []bool{true, false} {
			(&kernel{rounds: rounds, seal: seal}).write(f)
		}
	}
}

// stepCounters are those of a step's blocks. The first is 2, so all but the last
// two can be mixed into a multiple of the step, and need not be added to it.
func stepCounters() (all []uint32) {
	for i := range uint32(4 * wide) {
		all = append(all, (i+2)%(4*wide))
	}
	return all
}

// counterWords are counters at the end of blocks, in big-endian order.
func counterWords(all ...uint32) (words []uint64) {
	for _, v := range all {
		words = append(words, 0, uint64(bits.ReverseBytes32(v))<<32)
	}
	return words
}

// product writes a*b without reduction.
func product(class string, a, b, low, mid, high, tmp int) (c code) {
	r := func(i int) string { return fmt.Sprintf("%s%d", class, i) }
	c.op("VPCLMULQDQ $0x00, %s, %s, %s", r(a), r(b), r(low))
	c.op("VPCLMULQDQ $0x01, %s, %s, %s", r(a), r(b), r(mid))
	c.op("VPCLMULQDQ $0x11, %s, %s, %s", r(a), r(b), r(high))
	c.op("VPCLMULQDQ $0x10, %s, %s, %s", r(a), r(b), r(tmp))
	c.op("VPXORQ %s, %[2]s, %[2]s", r(tmp), r(mid))
	return c
}

// reduce writes dst = low + mid*x^64 + high*x^128 modulo poly. Each step takes 64
// bits off at the low end; adding the middle after the first swap does what
// adding its halves to low and high would. It spoils low and mid.
func reduce(class string, low, mid, high, poly, tmp, dst int) (c code) {
	r := func(i int) string { return fmt.Sprintf("%s%d", class, i) }
	c.op("VPCLMULQDQ $0x01, %s, %s, %s", r(low), r(poly), r(tmp))
	c.op("VPSHUFD $0x4e, %[1]s, %[1]s", r(low))
	c.op("VPTERNLOGQ $0x96, %s, %s, %s", r(tmp), r(low), r(mid))
	c.op("VPCLMULQDQ $0x01, %s, %s, %s", r(mid), r(poly), r(tmp))
	c.op("VPSHUFD $0x4e, %s, %s", r(mid), r(dst))
	c.op("VPTERNLOGQ $0x96, %s, %s, %s", r(tmp), r(high), r(dst))
	return c
}

// kernel is one function. AX is the key, DI the text that remains, CX its
// length, DX the power of H for the first block of the tail.
type kernel struct {
	rounds int
	seal   bool
}

func (k *kernel) name() string {
	if k.seal {
		return fmt.Sprintf("seal%d", 32*k.rounds-192)
	}
	return fmt.Sprintf("open%d", 32*k.rounds-192)
}

func (k *kernel) write(f *file) {
	name := k.name()
	args, results := 64, ""
	if !k.seal {
		args, results = 80, " (tagLo, tagHi uint64)"
	}
	f.text(fmt.Sprintf("func %s(k *GCM, text *byte, n int, nonceHi, nonceLo, aadHi, aadLo, aadBits uint64)%s", name, results), name, args)
	k.begin(f)
	f.op("CMPQ CX, $%d", stride)
	f.op("JBE  %s_short", name)
	if k.seal {
		k.sealSteps(f)
		k.tails(f, "tail", k.hash(wide, true))
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
func (k *kernel) sealSteps(f *file) {
	name := k.name()
	f.note("the first step has nothing to hash yet")
	f.place(weave(k.cipher(wide), k.head()))
	k.mixAndStore(f, wide, false)
	k.next(f, stride)
	f.op("JBE  %s_last", name)
	f.loop(name + "_step")
	f.note("encrypt, and hash what was encrypted before")
	f.place(weave(k.cipher(wide), k.hash(wide, false)))
	k.mixAndStore(f, wide, false)
	k.next(f, stride)
	f.op("JA   %s_step", name)
	f.label(name + "_last")
}

// openSteps hashes and decrypts whole steps.
func (k *kernel) openSteps(f *file) {
	name := k.name()
	f.note("block of the tag, associated data, lengths")
	f.place(k.head())
	f.op("CMPQ CX, $%d", 2*stride)
	f.op("JBE  %s_last", name)
	f.loop(name + "_step")
	f.note("hash and decrypt")
	f.place(weave(k.cipher(wide), append(k.load(wide, false), k.hash(wide, false)...)))
	k.mixAndStore(f, wide, false)
	k.next(f, 2*stride)
	f.op("JA   %s_step", name)
	f.label(name + "_last")
	f.note("hash and decrypt, and add up the lanes")
	f.place(weave(k.cipher(wide), append(k.load(wide, false), k.hash(wide, true)...)))
	k.mixAndStore(f, wide, false)
	k.next(f, stride)
}

// next leaves a step behind and compares what remains.
func (k *kernel) next(f *file, than int) {
	f.op("ADDQ $%d, DI", stride)
	f.op("SUBQ $%d, CX", stride)
	f.op("CMPQ CX, $%d", than)
}

// begin loads arguments and constants.
func (k *kernel) begin(f *file) {
	f.op("MOVQ k+0(FP), AX")
	f.op("MOVQ text+8(FP), DI")
	f.op("MOVQ n+16(FP), CX")
	f.op("VBROADCASTI32X4 swap<>(SB), Z%d", swap)
	f.op("VBROADCASTI32X4 poly<>(SB), Z%d", poly)
	f.note("counters: nonce and 0")
	f.op("VMOVQ nonceLo+32(FP), X%d", counter)
	f.op("VPINSRQ $1, nonceHi+24(FP), X%d, X%[1]d", counter)
	f.op("VSHUFI64X2 $0, Z%d, Z%[1]d, Z%[1]d", counter)
	f.op("VBROADCASTI32X4 %d(AX), Z%d", keysAt, key)
	f.op("VPSHUFB Z%d, Z%d, Z%d", swap, counter, base)
	f.op("VPXORQ Z%d, Z%d, Z%[2]d", key, base)
	f.note("associated data and lengths, in lanes")
	f.op("VMOVQ aadLo+48(FP), X%d", tmp)
	f.op("VPINSRQ $1, aadHi+40(FP), X%d, X%[1]d", tmp)
	f.op("MOVQ CX, R8")
	f.op("SHLQ $3, R8")
	f.op("VMOVQ R8, X%d", tmp+1)
	f.op("VPINSRQ $1, aadBits+56(FP), X%d, X%[1]d", tmp+1)
	f.op("VINSERTI32X4 $1, X%d, Y%d, Y%[2]d", tmp+1, tmp)
}

// head makes of the tag what does not depend on the text: its block of the
// cipher, and the products of associated data and lengths with H. The latter is
// complete and goes into mask, the former is where the sum begins, in lane 0.
func (k *kernel) head() code {
	var aes, ghash code
	aes.op("VPXORQ one<>(SB), X%d, X%d", base, mask)
	for i := 1; i < k.rounds; i++ {
		aes.op("VAESENC %d(AX), X%d, X%[2]d", keysAt+16*i, mask)
	}
	aes.op("VAESENCLAST %d(AX), X%d, X%[2]d", keysAt+16*k.rounds, mask)
	ghash.op("VBROADCASTI32X4 %d(AX), Y%d", lastAt, power)
	ghash = append(ghash, product("Y", tmp, power, low, mid, high, tmp+1)...)
	ghash = append(ghash, reduce("Y", low, mid, high, poly, tmp, sum)...)
	ghash.op("VEXTRACTI32X4 $1, Y%d, X%d", sum, tmp)
	ghash.op("VPSHUFB X%d, X%d, X%[2]d", swap, tmp)
	c := weave(aes, ghash)
	c.op("VPXORQ X%d, X%d, X%[2]d", tmp, mask)
	c.op("VMOVDQA64 X%d, X%[1]d", sum)
	return c
}

// cipher writes counters and all rounds but the last, on n registers. A step's
// last two counters belong to the multiple after it, where the next one begins.
func (k *kernel) cipher(n int) (c code) {
	for i := range min(n, wide-1) {
		c.op("VPXORQ counters<>+%d(SB), Z%d, Z%d", 64*i, base, state+i)
	}
	if last := state + wide - 1; n == wide {
		c.op("VMOVDQA64 Z%d, Z%d", base, last)
		c.op("VPADDD step<>(SB), Z%d, Z%[1]d", counter)
		k.loadKey(&c, 0)
		c.op("VPSHUFB Z%d, Z%d, Z%d", swap, counter, base)
		c.op("VPXORQ Z%d, Z%d, Z%[2]d", key, base)
		c.op("VINSERTI64X4 $1, Y%d, Z%d, Z%[2]d", base, last)
		c.op("VPXORQ counters<>+%d(SB), Z%d, Z%[2]d", 64*(wide-1), last)
	}
	for round := 1; round < k.rounds; round++ {
		k.loadKey(&c, round)
		for i := range n {
			c.op("VAESENC Z%d, Z%d, Z%[2]d", key+round%2, state+i)
		}
	}
	return c
}

func (k *kernel) loadKey(c *code, round int) {
	c.op("VBROADCASTI32X4 %d(AX), Z%d", keysAt+16*round, key+round%2)
}

// load reads n registers of ciphertext and reverses the blocks. Of the last one
// a tail has only the bytes that K1 tells; the others are zero.
func (k *kernel) load(n int, tail bool) (c code) {
	for i := range n {
		if tail && i == n-1 {
			c.op("VMOVDQU8.Z %d(DI), K1, Z%d", 64*i, block+i)
		} else {
			c.op("VMOVDQU64 %d(DI), Z%d", 64*i, block+i)
		}
		c.op("VPSHUFB Z%d, Z%d, Z%[2]d", swap, block+i)
	}
	return c
}

// mixAndStore does the last round, into whose key the text is mixed first. When
// sealing it leaves the ciphertext, reversed, in block.
func (k *kernel) mixAndStore(f *file, n int, tail bool) {
	f.note("last round, with the text")
	f.op("VBROADCASTI32X4 %d(AX), Z%d", keysAt+16*k.rounds, key)
	for i := range n {
		partial := tail && i == n-1
		if partial {
			f.op("VMOVDQU8.Z %d(DI), K1, Z%d", 64*i, block+i)
			f.op("VPXORQ Z%d, Z%d, Z%[2]d", key, block+i)
		} else {
			f.op("VPXORQ %d(DI), Z%d, Z%d", 64*i, key, block+i)
		}
		f.op("VAESENCLAST Z%d, Z%d, Z%[2]d", block+i, state+i)
		switch {
		case partial && k.seal:
			f.op("VMOVDQU8.Z Z%d, K1, Z%[1]d", state+i)
			fallthrough
		case partial:
			f.op("VMOVDQU8 Z%d, K1, %d(DI)", state+i, 64*i)
		default:
			f.op("VMOVDQU64 Z%d, %d(DI)", state+i, 64*i)
		}
		if k.seal {
			f.op("VPSHUFB Z%d, Z%d, Z%d", swap, state+i, block+i)
		}
	}
}

// hash adds n registers to the sum. With last, each block has its own power of H
// and the lanes are added up; else all have the one that brings them to where the
// next step begins. The first register, which waits for the sum before, comes
// last.
func (k *kernel) hash(n int, last bool) code {
	c := k.multiply(n, func(i int) string {
		if last {
			return fmt.Sprintf("VMOVDQU64 %d(AX)", powersAt+16+64*i)
		}
		return fmt.Sprintf("VBROADCASTI32X4 %d(AX)", powersAt+16+64*i)
	})
	if last {
		c = append(c, k.fold()...)
	}
	return c
}

// hashTail does the same where the text ends, with powers from DX on.
func (k *kernel) hashTail(n int) code {
	c := k.multiply(n, func(i int) string { return fmt.Sprintf("VMOVDQU64 %d(DX)", 64*i) })
	return append(c, k.fold()...)
}

// multiply makes the sum of n registers, each times the power that load loads.
// Where an instruction adds two products it does: the fewer there are beside
// AES and products, the less these are held up.
func (k *kernel) multiply(n int, load func(i int) string) (c code) {
	add := func(a, b, to int) { c.op("VPTERNLOGQ $0x96, Z%d, Z%d, Z%d", a, b, to) }
	mul := func(halves string, i, to int) {
		c.op("VPCLMULQDQ $0x%s, Z%d, Z%d, Z%d", halves, power, block+i, to)
	}
	for j := range n {
		i := (j + 1) % n
		c.op("%s, Z%d", load(i), power)
		if i == 0 {
			c.op("VPXORQ Z%d, Z%d, Z%[2]d", sum, block)
		}
		switch {
		case j == 0:
			c = append(c, product("Z", power, block+i, low, mid, high, tmp)...)
			continue
		case j%2 == 1 && j < n-1:
			mul("00", i, tmp)
			mul("11", i, tmp+1)
		case j%2 == 1:
			mul("00", i, tmp)
			c.op("VPXORQ Z%d, Z%d, Z%[2]d", tmp, low)
			mul("11", i, tmp+1)
			c.op("VPXORQ Z%d, Z%d, Z%[2]d", tmp+1, high)
		default:
			mul("00", i, tmp+2)
			add(tmp, tmp+2, low)
			mul("11", i, tmp+3)
			add(tmp+1, tmp+3, high)
		}
		mul("01", i, tmp+2)
		mul("10", i, tmp+3)
		add(tmp+2, tmp+3, mid)
	}
	return append(c, reduce("Z", low, mid, high, poly, tmp, sum)...)
}

// fold adds up the lanes of the sum.
func (k *kernel) fold() (c code) {
	c.op("VEXTRACTI64X4 $1, Z%d, Y%d", sum, tmp)
	c.op("VPXORQ Y%d, Y%d, Y%[2]d", tmp, sum)
	c.op("VEXTRACTI32X4 $1, Y%d, X%d", sum, tmp)
	c.op("VPXORQ X%d, X%d, X%[2]d", tmp, sum)
	return c
}

// tails writes what is left: 1 to wide registers, 0 bytes as one of them. What is
// to be done before goes with the cipher.
func (k *kernel) tails(f *file, kind string, before code) {
	name := k.name() + "_" + kind
	f.note("DX: where powers are as hash wants them, when the text's last block is to be multiplied with H^2")
	f.op("LEAQ 15(CX), R8")
	f.op("ANDQ $~15, R8")
	f.op("LEAQ %d(AX), DX", lastAt)
	f.op("SUBQ R8, DX")
	f.op("MOVQ $-1, R9")
	for n := 1; n < wide; n++ {
		f.op("CMPQ CX, $%d", 64*n)
		f.op("JBE  %s%d", name, n)
	}
	for n := wide; n >= 1; n-- {
		f.label(fmt.Sprintf("%s%d", name, n))
		f.note("registers: %d; K1: bytes of the last one", n)
		f.op("LEAQ %d(CX), R8", -64*(n-1))
		f.op("BZHIQ R8, R9, R9")
		f.op("KMOVQ R9, K1")
		if k.seal {
			f.note("encrypt, and what is to be done before")
			f.place(weave(k.cipher(n), before))
			k.mixAndStore(f, n, true)
			f.note("hash")
			f.place(k.hashTail(n))
		} else {
			f.note("hash and decrypt, and what is to be done before")
			f.place(weave(k.cipher(n), slices.Concat(before, k.load(n, true), k.hashTail(n))))
			k.mixAndStore(f, n, true)
		}
		f.op("JMP  %s_end", k.name())
	}
}

// end writes the tag.
func (k *kernel) end(f *file) {
	f.note("tag = sum, reversed back, and mask")
	f.op("VPSHUFB X%d, X%d, X%[2]d", swap, sum)
	f.op("VPXORQ X%d, X%d, X%[2]d", mask, sum)
	if k.seal {
		f.op("VMOVDQU64 X%d, (DI)(CX*1)", sum)
	} else {
		f.op("VMOVQ X%d, tagLo+64(FP)", sum)
		f.op("VPEXTRQ $1, X%d, tagHi+72(FP)", sum)
	}
	f.note("round keys, powers of H and what blinds the tag stay in no register")
	for n := 16; n < 32; n++ {
		f.op("VPXORD Y%d, Y%[1]d, Y%[1]d", n)
	}
	f.op("VZEROALL")
	f.op("RET")
}
