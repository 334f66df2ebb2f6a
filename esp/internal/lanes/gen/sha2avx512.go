package main

import "fmt"

// sha2avx512File writes SHA-256 over 16 messages and SHA-512 over 8 at once with
// AVX-512: as with AVX2, but there are rotations, any function of three inputs is
// one instruction, and state and message schedule are all in registers.
func sha2avx512File(f *file) {
	for _, s := range sha2Both {
		(&sha2x512{s}).write(f)
	}
}

type sha2x512 struct{ sha2 }

// Registers: 0 to 7 are a to h, 8 to 23 the last 16 words of the schedule, the
// others temporary. SI points to the lanes, DX is how far their data are done, DI
// points to the states at the start of the block, BX to the constants.
func (s *sha2x512) lanes() int      { return 512 / s.bits }
func (s *sha2x512) w(t int) string  { return fmt.Sprintf("Z%d", 8+t%16) }
func (s *sha2x512) perPart() int    { return 128 / s.bits } // words in 128 bits
func (s *sha2x512) state(i int) int { return 64 * i }

func (s *sha2x512) write(f *file) {
	s.tables(f, 64)
	name := fmt.Sprintf("sha%dAVX512x%d", 8*s.bits, s.lanes())
	f.text(fmt.Sprintf("func %s(lanes *[16]lane[uint%d], blocks int)", name, s.bits), name, "0", 8*64+64, 16)
	f.op("MOVQ lanes+0(FP), SI")
	f.op("MOVQ blocks+8(FP), CX")
	f.op("LEAQ %s(SB), BX", s.table("round"))
	f.op("LEAQ 63(SP), DI")
	f.op("ANDQ $~63, DI")
	f.op("XORQ DX, DX")
	for part := 0; part < 8; part += s.perPart() {
		f.note("states, words %d to %d", part, part+s.perPart()-1)
		s.gather(f, part, 0, false, func(i int) string { return fmt.Sprintf("Z%d", i) })
	}
	f.loop(name + "_block")
	for i := range 8 {
		f.op("VMOVDQU32 Z%d, %d(DI)", i, s.state(i))
	}
	for part := 0; part < 16; part += s.perPart() {
		f.note("words %d to %d", part, part+s.perPart()-1)
		s.gather(f, part, 8, true, s.w)
	}
	f.op("ADDQ $%d, DX", 16*s.word())
	f.note("all rounds but the last 16 make the words of 16 rounds later; t counts from BX on")
	f.op("MOVQ $%d, AX", s.rounds/16-1)
	f.loop(name + "_rounds")
	for t := range 16 {
		s.round(f, t)
		s.extend(f, t)
	}
	f.op("ADDQ $%d, BX", 16*s.word())
	f.op("DECQ AX")
	f.op("JNZ  %s_rounds", name)
	for t := range 16 {
		s.round(f, t)
	}
	f.op("SUBQ $%d, BX", (s.rounds-16)*s.word())
	f.note("feed forward")
	for i := range 8 {
		f.op("%s %d(DI), Z%d, Z%[3]d", s.size("VPADD"), s.state(i), i)
	}
	f.op("DECQ CX")
	f.op("JNZ  %s_block", name)
	for part := 0; part < 8; part += s.perPart() {
		f.note("states, words %d to %d, back to their lanes", part, part+s.perPart()-1)
		s.scatter(f, part)
	}
	f.op("VZEROUPPER")
	f.op("RET")
}

// gather reads 128 bits of each lane, from word part on, through the pointers at
// field, and turns them into a register for each word. A row holds every fourth
// lane, or every second of SHA-512, so that what comes out is in the lanes'
// order.
func (s *sha2x512) gather(f *file, part, field int, data bool, out func(i int) string) {
	n := s.perPart()
	offset := ""
	if data {
		offset = "(DX*1)"
	}
	for row := range n {
		for k := range 4 {
			f.op("MOVQ %d(SI), R%d", 16*(row+n*k)+field, 8+k)
		}
		f.op("VMOVDQU32 %d(R8)%s, X%d", s.word()*part, offset, 24+row)
		for k := 1; k < 4; k++ {
			f.op("VINSERTI32X4 $%d, %d(R%d)%s, Z%d, Z%[5]d", k, s.word()*part, 8+k, offset, 24+row)
		}
		if data {
			f.op("VPSHUFB %s(SB), Z%d, Z%[2]d", s.table("swap"), 24+row)
		}
	}
	s.turn(f, func(i int) string { return fmt.Sprintf("Z%d", 24+i) }, func(i int) string { return out(part + i) })
}

// scatter is the way back, for the states.
func (s *sha2x512) scatter(f *file, part int) {
	n := s.perPart()
	row := func(i int) string { return fmt.Sprintf("%d", 24+i) }
	s.turn(f, func(i int) string { return fmt.Sprintf("Z%d", part+i) }, func(i int) string { return "Z" + row(i) })
	for r := range n {
		for k := range 4 {
			f.op("MOVQ %d(SI), R%d", 16*(r+n*k), 8+k)
		}
		f.op("VMOVDQU32 X%s, %d(R8)", row(r), s.word()*part)
		for k := 1; k < 4; k++ {
			f.op("VEXTRACTI32X4 $%d, Z%s, %d(R%d)", k, row(r), s.word()*part, 8+k)
		}
	}
}

// turn transposes 4 by 4 words of 32 bits, or 2 by 2 of 64, in each quarter.
func (s *sha2x512) turn(f *file, in, out func(i int) string) {
	if s.bits == 64 {
		f.op("VPUNPCKLQDQ %s, %s, Z28", in(1), in(0))
		f.op("VPUNPCKHQDQ %s, %s, %s", in(1), in(0), out(1))
		f.op("VMOVDQA32 Z28, %s", out(0))
		return
	}
	f.op("VPUNPCKLDQ %s, %s, Z28", in(1), in(0))
	f.op("VPUNPCKHDQ %s, %s, Z29", in(1), in(0))
	f.op("VPUNPCKLDQ %s, %s, Z30", in(3), in(2))
	f.op("VPUNPCKHDQ %s, %s, Z31", in(3), in(2))
	for i, instr := range []string{"VPUNPCKLQDQ", "VPUNPCKHQDQ", "VPUNPCKLQDQ", "VPUNPCKHQDQ"} {
		f.op("%s Z%d, Z%d, %s", instr, 30+i/2, 28+i/2, out(i))
	}
}

// round writes round t. The 8 working variables rotate by their names.
func (s *sha2x512) round(f *file, t int) {
	v := func(i int) string { return fmt.Sprintf("Z%d", (i+16-t)%8) }
	a, d, e, h := v(0), v(3), v(4), v(7)
	add := s.size("VPADD")

	f.note("round %d: h += K + W + Σ1(e) + Ch(e, f, g)", t)
	f.op("%s.BCST %d(BX), %s, Z24", add, s.word()*t, s.w(t))
	f.op("%s Z24, %[2]s, %[2]s", add, h)
	s.sigma(f, s.size("VPROR"), e, s.big1)
	f.op("VMOVDQA32 %s, Z28", e)
	f.op("%s $0xca, %s, %s, Z28", s.size("VPTERNLOG"), v(6), v(5))
	f.op("%s Z28, %[2]s, %[2]s", add, h)
	f.op("%s Z25, %[2]s, %[2]s", add, h)
	f.note("d += h; h += Σ0(a) + Maj(a, b, c)")
	f.op("%s %s, %[3]s, %[3]s", add, h, d)
	s.sigma(f, s.size("VPROR"), a, s.big0)
	f.op("VMOVDQA32 %s, Z28", a)
	f.op("%s $0xe8, %s, %s, Z28", s.size("VPTERNLOG"), v(2), v(1))
	f.op("%s Z28, %[2]s, %[2]s", add, h)
	f.op("%s Z25, %[2]s, %[2]s", add, h)
}

// sigma leaves the sum of two rotations and a third, or a shift, in Z25.
func (s *sha2x512) sigma(f *file, third, x string, by [3]int) {
	f.op("%s $%d, %s, Z25", s.size("VPROR"), by[0], x)
	f.op("%s $%d, %s, Z26", s.size("VPROR"), by[1], x)
	f.op("%s $%d, %s, Z27", third, by[2], x)
	f.op("%s $0x96, Z27, Z26, Z25", s.size("VPTERNLOG"))
}

// extend makes W[t+16] where W[t] was: σ1(W[t+14]) + W[t+9] + σ0(W[t+1]) + W[t].
func (s *sha2x512) extend(f *file, t int) {
	add, shift := s.size("VPADD"), s.size("VPSRL")
	f.note("W[%d]", t+16)
	s.sigma(f, shift, s.w(t+1), s.small0)
	f.op("%s %s, %s, %[3]s", add, s.w(t+9), s.w(t))
	f.op("%s Z25, %s, %[2]s", add, s.w(t))
	s.sigma(f, shift, s.w(t+14), s.small1)
	f.op("%s Z25, %s, %[2]s", add, s.w(t))
}
