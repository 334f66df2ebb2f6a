package main

import "fmt"

// sha256mixFile writes SHA-256 over 8 messages with SHA-NI for the rounds and
// AVX-512's instructions, on 256-bit registers, for the message schedules.
//
// SHA256MSG1 and SHA256MSG2 are several steps each inside the processor, for 4
// words of one message. Rotations and a ternary XOR make as much for a word of 8
// messages. So the schedules lie word by word, one register for the same word of
// each message, and two words are interleaved for what SHA256RNDS2 reads: two
// words of one message, with the round constants in.
//
// All 8 lanes advance together. SHA256RNDS2 starts in each cycle at best and has
// a latency of 4: with four chains every delay by another instruction would stay.
//
// 256 bits and not 512, because on processors that do a 512-bit instruction in
// two halves SHA256RNDS2 competes badly with them. Only registers 16 and up are
// wider than 128 bits: their upper halves do not slow down the SHA instructions,
// which have no VEX form, as those of registers 0 to 15 do.
func sha256mixFile(f *file) {
	f.printf("")
	f.printf("// round constants (FIPS 180-4, Section 4.2.2): of rounds 0 to 15 each four twice,")
	f.printf("// then each two four times")
	for i := range 32 {
		f.printf("DATA k256mix<>+%d(SB)/4, $0x%08x", 4*i, k256[i/8*4+i%4])
	}
	for i := range 8 * 24 {
		f.printf("DATA k256mix<>+%d(SB)/4, $0x%08x", 4*(32+i), k256[16+i/8*2+i%2])
	}
	f.printf("GLOBL k256mix<>(SB), RODATA|NOPTR, $%d", 4*(32+8*24))
	f.printf("")
	f.printf("// VPSHUFB: big-endian words")
	for i := range 2 {
		f.printf("DATA swap32x2<>+%d(SB)/8, $0x0405060700010203", 16*i)
		f.printf("DATA swap32x2<>+%d(SB)/8, $0x0c0d0e0f08090a0b", 16*i+8)
	}
	f.printf("GLOBL swap32x2<>(SB), RODATA|NOPTR, $32")
	mixKernel(f)
}

// Scratch at DX: states of 8 lanes at the start of the block; the last 16 words
// of the schedules; words with constants, 4 of every lane in 128 bytes, of the
// present, the next four and three past groups of rounds.
const (
	mixStates  = 0
	mixWords   = mixStates + 8*32
	mixReady   = mixWords + 16*32
	mixScratch = mixReady + 8*128
)

// Pointers to the lanes' data.
var mixData = [8]string{"R8", "R9", "R10", "R11", "R12", "R13", "R14", "SI"}

// The states are 16 registers, but SHA256RNDS2 reaches 15 beside that of its
// words: the last half of lane 7 changes places with lane 3's for its turns.
// Renaming makes these moves free.
const (
	mixParked = "X16" // of lane 7
	mixGuest  = "X8"  // of lane 3, which gives way
	mixAside  = "X17"
)

func mixABEF(l int) string { return fmt.Sprintf("X%d", 1+2*l) }

func mixCDGH(l int) string {
	if l == 7 {
		return mixParked
	}
	return fmt.Sprintf("X%d", 2+2*l)
}

// mixReg holds word t as long as it is one of the last 8; registers 26 to 31 are
// temporary.
func mixReg(t int) string  { return fmt.Sprintf("Y%d", 18+t%8) }
func mixWord(t int) string { return fmt.Sprintf("%d(DX)", mixWords+32*(t%16)) }

// mixRow is where 4 words of group g stand for lanes l and l+4, as they come from
// the message.
func mixRow(l, g int) int { return mixReady + 128*(g%8) + 32*(l%4) }

// mixPair is where a pair of words of group g stands for lanes 0, 1, 4, 5 or,
// half 1, for the others, as it comes from the schedule.
func mixPair(pair, half, g int) int { return mixReady + 128*(g%8) + 64*pair + 32*half }

func mixKernel(f *file) {
	const name = "sha256NI512x8"
	f.text(fmt.Sprintf("func %s(lanes *[16]lane[uint32], blocks int)", name), name, "0", mixScratch+64, 16)
	f.op("MOVQ lanes+0(FP), SI")
	f.op("MOVQ blocks+8(FP), CX")
	f.op("LEAQ k256mix<>(SB), BX")
	f.note("scratch on a cache line")
	f.op("LEAQ 63(SP), DX")
	f.op("ANDQ $~63, DX")
	for l := range 8 {
		f.note("lane %d: DCBA, HGFE to ABEF, CDGH", l)
		f.op("MOVQ %d(SI), DI", 16*l)
		f.op("VMOVDQU32 (DI), X26")
		f.op("VMOVDQU32 16(DI), X27")
		f.op("VPSHUFD $0xb1, X26, X26")
		f.op("VPSHUFD $0x1b, X27, X27")
		f.op("VPALIGNR $8, X27, X26, X28")
		f.op("VSHUFPD $2, X26, X27, X29")
		f.op("VMOVDQA32 X28, %s", mixABEF(l))
		f.op("VMOVDQA32 X29, %s", mixCDGH(l))
		f.op("VMOVDQU32 X28, %d(DX)", mixStates+32*l)
		f.op("VMOVDQU32 X29, %d(DX)", mixStates+32*l+16)
	}
	for l := range 8 {
		f.op("MOVQ %d(SI), %s", 16*l+8, mixData[l])
	}
	f.note("words of the first 16 rounds")
	for g := range 4 {
		f.place(mixMessage(g))
	}
	f.loop(name + "_block")
	f.note("the next block, or in the last round the same, whose words nobody will use")
	f.op("XORL AX, AX")
	f.op("CMPQ CX, $1")
	f.op("SETNE AX")
	f.op("SHLQ $6, AX")
	for l := range 8 {
		f.op("ADDQ AX, %s", mixData[l])
	}
	for g := range 16 {
		f.note("rounds %d to %d, words of rounds %d to %d", 4*g, 4*g+3, (4*g+16)%64, (4*g+19)%64)
		words := mixMessage
		if g < 12 {
			words = mixSchedule
		}
		f.place(weaveBursts(mixFour(g), words((g+4)%16), 8))
	}
	f.note("add the states of the block's start")
	for l := range 8 {
		at := mixStates + 32*l
		f.op("VPADDD %d(DX), %[2]s, %[2]s", at, mixABEF(l))
		f.op("VPADDD %d(DX), %[2]s, %[2]s", at+16, mixCDGH(l))
		f.op("VMOVDQU32 %s, %d(DX)", mixABEF(l), at)
		f.op("VMOVDQU32 %s, %d(DX)", mixCDGH(l), at+16)
	}
	f.op("DECQ CX")
	f.op("JNZ  %s_block", name)
	f.op("MOVQ lanes+0(FP), SI")
	for l := range 8 {
		f.note("lane %d: back to DCBA, HGFE", l)
		f.op("MOVQ %d(SI), DI", 16*l)
		f.op("VMOVDQA32 %s, X26", mixABEF(l))
		f.op("VMOVDQA32 %s, X27", mixCDGH(l))
		f.op("VPSHUFD $0x1b, X26, X26")
		f.op("VPSHUFD $0xb1, X27, X27")
		f.op("VSHUFPD $2, X27, X26, X28")
		f.op("VPALIGNR $8, X26, X27, X29")
		f.op("VMOVDQU32 X28, (DI)")
		f.op("VMOVDQU32 X29, 16(DI)")
	}
	f.op("RET")
}

// mixFour writes 4 rounds of all lanes, two of each and then the other two.
func mixFour(g int) (c code) {
	c.op("LEAQ %d(DX), DI", mixReady+128*(g%8))
	for pair := range 2 {
		for l := range 8 {
			at := mixRow(l, 0) + 16*(l/4) + 8*pair
			if g >= 4 {
				at = mixPair(pair, l%4/2, 0) + 16*(l/4) + 8*(l%2)
			}
			c.op("VMOVQ %d(DI), X0", at-mixReady)
			abef, cdgh := mixABEF(l), mixCDGH(l)
			if l == 7 {
				cdgh = mixGuest
				c.op("VMOVDQA32 %s, %s", mixGuest, mixAside)
				c.op("VMOVDQA32 %s, %s", mixParked, mixGuest)
			}
			if pair == 1 {
				abef, cdgh = cdgh, abef
			}
			c.op("SHA256RNDS2 X0, %s, %s", abef, cdgh)
			if l == 7 {
				c.op("VMOVDQA32 %s, %s", mixGuest, mixParked)
				c.op("VMOVDQA32 %s, %s", mixAside, mixGuest)
			}
		}
	}
	return c
}

// mixMessage reads words 4g to 4g+3 of all lanes.
func mixMessage(g int) (c code) {
	for row := range 4 {
		c.op("VMOVDQU32 %d(%s), X%d", 16*g, mixData[row], 26+row)
		c.op("VINSERTI32X4 $1, %d(%s), Y%d, Y%[3]d", 16*g, mixData[row+4], 26+row)
		c.op("VPSHUFB swap32x2<>(SB), Y%d, Y%[1]d", 26+row)
		c.op("VPADDD %d(BX), Y%d, Y30", 32*g, 26+row)
		c.op("VMOVDQU32 Y30, %d(DX)", mixRow(row, g))
	}
	// Rows of a lane's 4 words to columns of a word of 4 lanes, in each half.
	c.op("VPUNPCKLDQ Y27, Y26, Y30")
	c.op("VPUNPCKHDQ Y27, Y26, Y26")
	c.op("VPUNPCKLDQ Y29, Y28, Y31")
	c.op("VPUNPCKHDQ Y29, Y28, Y27")
	c.op("VPUNPCKLQDQ Y31, Y30, %s", mixReg(4*g))
	c.op("VPUNPCKHQDQ Y31, Y30, %s", mixReg(4*g+1))
	c.op("VPUNPCKLQDQ Y27, Y26, %s", mixReg(4*g+2))
	c.op("VPUNPCKHQDQ Y27, Y26, %s", mixReg(4*g+3))
	for i := range 4 {
		c.op("VMOVDQU32 %s, %s", mixReg(4*g+i), mixWord(4*g+i))
	}
	return c
}

// mixSchedule makes words 4g to 4g+3 of all lanes:
//
//	W[t] = σ1(W[t-2]) + W[t-7] + σ0(W[t-15]) + W[t-16].
func mixSchedule(g int) (c code) {
	for t := 4 * g; t < 4*g+4; t++ {
		c.op("VMOVDQU32 %s, Y26", mixWord(t-15))
		mixSigma(&c, "Y26", 7, 18, 3, "Y27", "Y28", "Y29")
		c.op("VPADDD %s, Y27, Y27", mixWord(t-16))
		c.op("VPADDD %s, Y27, Y27", mixReg(t-7))
		mixSigma(&c, mixReg(t-2), 17, 19, 10, "Y30", "Y31", "Y29")
		c.op("VPADDD Y30, Y27, %s", mixReg(t))
		c.op("VMOVDQU32 %s, %s", mixReg(t), mixWord(t))
		if t%2 == 0 {
			continue
		}
		k := 128 + 32*((t-16)/2)
		for half, instr := range []string{"VPUNPCKLDQ", "VPUNPCKHDQ"} {
			c.op("%s %s, %s, Y%d", instr, mixReg(t), mixReg(t-1), 26+half)
			c.op("VPADDD %d(BX), Y%d, Y%[2]d", k, 26+half)
			c.op("VMOVDQU32 Y%d, %d(DX)", 26+half, mixPair(t%4/2, half, g))
		}
	}
	return c
}

// mixSigma leaves two rotations and a shift of x, added without carry, in a.
func mixSigma(c *code, x string, r1, r2, shift int, a, b, d string) {
	c.op("VPRORD $%d, %s, %s", r1, x, a)
	c.op("VPRORD $%d, %s, %s", r2, x, b)
	c.op("VPSRLD $%d, %s, %s", shift, x, d)
	c.op("VPTERNLOGD $0x96, %s, %s, %s", d, b, a)
}
