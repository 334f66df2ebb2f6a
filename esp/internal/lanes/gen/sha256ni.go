package main

import "fmt"

// sha256niFile writes SHA-256 with the SHA extensions over 4 messages at once,
// and over 2 for the small batches.
//
// SHA256RNDS2 has a latency of 4 cycles, and one may start in each: a single
// stream leaves three quarters of the unit idle. Four states and four message
// schedules do not fit into 16 registers, so the schedules are in memory: the
// words of 4 rounds of every lane are made 16 rounds before they are wanted, the
// first of the next block during the last rounds of this one.
//
// The SHA instructions have no VEX form. Mixing them with VEX-encoded ones on
// xmm registers is free as long as the upper halves of all ymm registers are
// zero; on some processors every change costs hundreds of cycles otherwise.
func sha256niFile(f *file) {
	f.printf("")
	f.printf("// round constants (FIPS 180-4, Section 4.2.2)")
	for i, k := range k256 {
		f.printf("DATA k256<>+%d(SB)/4, $0x%08x", 4*i, k)
	}
	f.printf("GLOBL k256<>(SB), RODATA|NOPTR, $256")
	f.printf("")
	f.printf("// VPSHUFB: big-endian words")
	f.printf("DATA swap32<>+0(SB)/8, $0x0405060700010203")
	f.printf("DATA swap32<>+8(SB)/8, $0x0c0d0e0f08090a0b")
	f.printf("GLOBL swap32<>(SB), RODATA|NOPTR, $16")
	for _, lanes := range []int{2, 4} {
		(&shaNI{lanes: lanes}).write(f)
	}
}

type shaNI struct{ lanes int }

// Registers. X0 is what SHA256RNDS2 takes its words from. X9 to X13 take turns:
// four hold the newest words of the lanes, the fifth becomes the next.
func (s *shaNI) abef(lane int) string      { return fmt.Sprintf("X%d", 1+2*lane) }
func (s *shaNI) cdgh(lane int) string      { return fmt.Sprintf("X%d", 2+2*lane) }
func (s *shaNI) newest(lane, g int) string { return fmt.Sprintf("X%d", 9+(lane+4*g)%5) }

const (
	shaTmp   = "X14"
	shaConst = "X15" // constants of 4 rounds
)

// Pointers to the lanes' data. R12 is the words, R13 how far the data go on, DX
// the states at the start of the block.
var shaData = [4]string{"R8", "R9", "R10", "R11"}

func (s *shaNI) words(lane, g int) string {
	return fmt.Sprintf("%d(R12)", 16*(g%16*s.lanes+lane))
}

func (s *shaNI) write(f *file) {
	name := fmt.Sprintf("sha256NIx%d", s.lanes)
	f.text(fmt.Sprintf("func %s(lanes *[16]lane[uint32], blocks int)", name), name, "0", s.lanes*(32+256)+64, 16)
	f.op("MOVQ lanes+0(FP), SI")
	f.op("MOVQ blocks+8(FP), CX")
	f.op("LEAQ k256<>(SB), BX")
	f.note("scratch on a cache line: states, then words")
	f.op("LEAQ 63(SP), DX")
	f.op("ANDQ $~63, DX")
	f.op("LEAQ %d(DX), R12", s.lanes*32)
	for l := range s.lanes {
		s.load(f, l)
	}
	f.note("words of the first 16 rounds")
	for g := range 4 {
		for l := range s.lanes {
			f.place(s.word(l, g))
		}
	}
	f.loop(name + "_block")
	f.note("the next block, or in the last round the same, whose words nobody will use")
	f.op("MOVQ $64, R13")
	f.op("XORL AX, AX")
	f.op("CMPQ CX, $1")
	f.op("CMOVQEQ AX, R13")
	for l := range s.lanes {
		f.op("ADDQ R13, %s", shaData[l])
	}
	for g := range 16 {
		f.note("rounds %d to %d, words of rounds %d to %d", 4*g, 4*g+3, (4*g+16)%64, (4*g+19)%64)
		var rounds, words code
		rounds.op("VMOVDQU %d(BX), %s", 16*g, shaConst)
		for l := range s.lanes {
			rounds = append(rounds, s.rounds(l, g)...)
			words = append(words, s.word(l, (g+4)%16)...)
		}
		f.place(weave(rounds, words))
	}
	f.note("add the states of the block's start")
	f.place(s.feedForward())
	f.op("DECQ CX")
	f.op("JNZ  %s_block", name)
	for l := range s.lanes {
		s.store(f, l)
	}
	f.op("RET")
}

// load brings a state into the order of the instructions.
func (s *shaNI) load(f *file, l int) {
	f.note("lane %d: DCBA, HGFE to ABEF, CDGH", l)
	f.op("MOVQ %d(SI), DI", 16*l)
	f.op("MOVQ %d(SI), %s", 16*l+8, shaData[l])
	f.op("VPSHUFD $0xb1, (DI), %s", shaTmp)
	f.op("VPSHUFD $0x1b, 16(DI), %s", s.cdgh(l))
	f.op("VPALIGNR $8, %s, %s, %s", s.cdgh(l), shaTmp, s.abef(l))
	f.op("VPBLENDW $0xf0, %s, %[2]s, %[2]s", shaTmp, s.cdgh(l))
	f.op("VMOVDQU %s, %d(DX)", s.abef(l), 32*l)
	f.op("VMOVDQU %s, %d(DX)", s.cdgh(l), 32*l+16)
}

func (s *shaNI) store(f *file, l int) {
	f.note("lane %d: back to DCBA, HGFE", l)
	f.op("MOVQ %d(SI), DI", 16*l)
	f.op("VPSHUFD $0x1b, %s, %s", s.abef(l), shaTmp)
	f.op("VPSHUFD $0xb1, %[1]s, %[1]s", s.cdgh(l))
	f.op("VPBLENDW $0xf0, %s, %s, %s", s.cdgh(l), shaTmp, s.abef(l))
	f.op("VPALIGNR $8, %s, %[2]s, %[2]s", shaTmp, s.cdgh(l))
	f.op("VMOVDQU %s, (DI)", s.abef(l))
	f.op("VMOVDQU %s, 16(DI)", s.cdgh(l))
}

// word makes words 4g to 4g+3 of a lane: those of the message, or
//
//	W[t] = σ1(W[t-2]) + W[t-7] + σ0(W[t-15]) + W[t-16],
//
// where SHA256MSG1 adds the two on the right and SHA256MSG2 that on the left.
func (s *shaNI) word(l, g int) (c code) {
	w := s.newest(l, g)
	if g < 4 {
		c.op("VMOVDQU %d(%s), %s", 16*g, shaData[l], w)
		c.op("VPSHUFB swap32<>(SB), %[1]s, %[1]s", w)
	} else {
		before := s.newest(l, g-1)
		c.op("VMOVDQU %s, %s", s.words(l, g-4), w)
		c.op("SHA256MSG1 %s, %s", s.words(l, g-3), w)
		c.op("VPALIGNR $4, %s, %s, %s", s.words(l, g-2), before, shaTmp)
		c.op("VPADDD %s, %[2]s, %[2]s", shaTmp, w)
		c.op("SHA256MSG2 %s, %s", before, w)
	}
	c.op("VMOVDQU %s, %s", w, s.words(l, g))
	return c
}

// rounds writes 4 rounds of a lane. The words of the lower half go first.
func (s *shaNI) rounds(l, g int) (c code) {
	c.op("VPADDD %s, %s, X0", s.words(l, g), shaConst)
	c.op("SHA256RNDS2 X0, %s, %s", s.abef(l), s.cdgh(l))
	c.op("VPSHUFD $0x0e, X0, X0")
	c.op("SHA256RNDS2 X0, %s, %s", s.cdgh(l), s.abef(l))
	return c
}

// feedForward adds the states of the block's start.
func (s *shaNI) feedForward() (c code) {
	for l := range s.lanes {
		c.op("VPADDD %d(DX), %[2]s, %[2]s", 32*l, s.abef(l))
		c.op("VPADDD %d(DX), %[2]s, %[2]s", 32*l+16, s.cdgh(l))
		c.op("VMOVDQU %s, %d(DX)", s.abef(l), 32*l)
		c.op("VMOVDQU %s, %d(DX)", s.cdgh(l), 32*l+16)
	}
	return c
}
