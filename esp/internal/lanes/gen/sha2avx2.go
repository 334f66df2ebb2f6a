package main

import "fmt"

// sha2avx2File writes SHA-256 over 8 messages and SHA-512 over 4 at once with
// AVX2: every register holds the same word of each message. It is for processors
// without the SHA extensions, and SHA-512 has none on most others either.
func sha2avx2File(f *file) {
	for _, s := range sha2Both {
		s.write(f)
	}
}

var sha2Both = []sha2{
	{
		bits: 32, rounds: 64, k: k256[:],
		big0: [3]int{2, 13, 22}, big1: [3]int{6, 11, 25},
		small0: [3]int{7, 18, 3}, small1: [3]int{17, 19, 10},
	},
	{
		bits: 64, rounds: 80, k: k512[:],
		big0: [3]int{28, 34, 39}, big1: [3]int{14, 18, 41},
		small0: [3]int{1, 8, 7}, small1: [3]int{19, 61, 6},
	},
}

// sha2 is one of the two; the names are those of FIPS 180-4, Section 4.1: big0
// is Σ0, rotations; small0 is σ0, two rotations and a shift.
type sha2 struct {
	bits, rounds int
	k            []uint64
	big0, big1   [3]int
	small0       [3]int
	small1       [3]int
}

// Scratch at DI: the states at the start of the block, word by word, then the
// last 16 words of the schedule. BX points to the constants, SI to the lanes and,
// while a block is under way, counts groups of rounds.
const (
	sha2States   = 0
	sha2Words    = 8 * 32
	sha2Scratch  = sha2Words + 16*32
	sha2RegBytes = 32
)

// sha2Data are pointers to the lanes' data. AX serves as a temporary while they
// are not in use.
var sha2Data = [8]string{"R8", "R9", "R10", "R11", "R12", "R13", "DX", "AX"}

func (s *sha2) lanes() int { return 256 / s.bits }
func (s *sha2) word() int  { return s.bits / 8 }

func (s *sha2) name() string { return fmt.Sprintf("sha%dAVX2x%d", 8*s.bits, s.lanes()) }

// size picks the instruction for the word's size: VPADD becomes VPADDD or VPADDQ.
func (s *sha2) size(instr string) string {
	if s.bits == 32 {
		return instr + "D"
	}
	return instr + "Q"
}

func (s *sha2) table(suffix string) string { return fmt.Sprintf("%s%d<>", suffix, s.bits) }

// tables writes the constants; width is that of registers in bytes.
func (s *sha2) tables(f *file, width int) {
	f.printf("")
	f.printf("// round constants (FIPS 180-4, Section 4.2)")
	for i, k := range s.k {
		f.printf("DATA %s+%d(SB)/%d, $0x%0*x", s.table("round"), s.word()*i, s.word(), 2*s.word(), k)
	}
	f.printf("GLOBL %s(SB), RODATA|NOPTR, $%d", s.table("round"), s.word()*len(s.k))
	f.printf("")
	f.printf("// VPSHUFB: big-endian words")
	for i := range width / 8 {
		mask := [2][2]uint64{{0x0405060700010203, 0x0c0d0e0f08090a0b}, {0x0001020304050607, 0x08090a0b0c0d0e0f}}
		f.printf("DATA %s+%d(SB)/8, $0x%016x", s.table("swap"), 8*i, mask[s.bits/64][i%2])
	}
	f.printf("GLOBL %s(SB), RODATA|NOPTR, $%d", s.table("swap"), width)
}

func (s *sha2) write(f *file) {
	s.tables(f, sha2RegBytes)
	f.text(fmt.Sprintf("func %s(lanes *[16]lane[uint%d], blocks int)", s.name(), s.bits), s.name(), "0", sha2Scratch+64, 16)
	f.op("MOVQ lanes+0(FP), SI")
	f.op("MOVQ blocks+8(FP), CX")
	f.op("LEAQ %s(SB), BX", s.table("round"))
	f.op("LEAQ 63(SP), DI")
	f.op("ANDQ $~63, DI")
	s.loadStates(f)
	for l := range s.lanes() {
		f.op("MOVQ %d(SI), %s", 16*l+8, sha2Data[l])
	}
	f.loop(s.name() + "_block")
	s.loadWords(f)
	f.note("a to h")
	for i := range 8 {
		f.op("VMOVDQU %d(DI), Y%d", sha2States+sha2RegBytes*i, i)
	}
	f.note("b ^ c, for the first Maj")
	f.op("VPXOR Y1, Y2, Y9")
	f.note("all rounds but the last 16 make the words of 16 rounds later; t counts from BX on")
	f.op("MOVQ $%d, SI", s.rounds/16-1)
	f.loop(s.name() + "_rounds")
	for t := range 16 {
		s.round(f, t)
		s.extend(f, t)
	}
	f.op("ADDQ $%d, BX", 16*s.word())
	f.op("DECQ SI")
	f.op("JNZ  %s_rounds", s.name())
	for t := range 16 {
		s.round(f, t)
	}
	f.op("SUBQ $%d, BX", (s.rounds-16)*s.word())
	f.note("feed forward")
	for i := range 8 {
		f.op("VPADD%s %d(DI), Y%d, Y%[3]d", s.size(""), sha2States+sha2RegBytes*i, i)
		f.op("VMOVDQU Y%d, %d(DI)", i, sha2States+sha2RegBytes*i)
	}
	f.op("DECQ CX")
	f.op("JNZ  %s_block", s.name())
	f.op("MOVQ lanes+0(FP), SI")
	s.storeStates(f)
	f.op("VZEROUPPER")
	f.op("RET")
	s.digest(f)
}

// digest writes a state as FIPS 180-4 orders its bytes, with stores as wide as
// the loads of a kernel that is to read them.
func (s *sha2) digest(f *file) {
	name := fmt.Sprintf("digest%d", 8*s.bits)
	f.text(fmt.Sprintf("func %s(block *[128]byte, state *[8]uint%d)", name, s.bits), name, "NOSPLIT", 0, 16)
	f.op("MOVQ block+0(FP), DI")
	f.op("MOVQ state+8(FP), SI")
	f.op("VMOVDQU %s(SB), X0", s.table("swap"))
	for at := 0; at < 8*s.word(); at += 16 {
		f.op("VMOVDQU %d(SI), X1", at)
		f.op("VPSHUFB X0, X1, X1")
		f.op("VMOVDQU X1, %d(DI)", at)
	}
	f.op("RET")
}

// transpose turns rows in Y0.. into columns in Y8..: 8 by 8 words of 32 bits or 4
// by 4 of 64.
func (s *sha2) transpose(f *file) {
	if s.bits == 32 {
		f.note("transpose: pairs of words, pairs of pairs, halves")
		for i := 0; i < 8; i += 2 {
			f.op("VPUNPCKLDQ Y%d, Y%d, Y%d", i+1, i, 8+i)
			f.op("VPUNPCKHDQ Y%d, Y%d, Y%d", i+1, i, 9+i)
		}
		for i := 8; i < 16; i += 4 {
			f.op("VPUNPCKLQDQ Y%d, Y%d, Y%d", i+2, i, i-8)
			f.op("VPUNPCKHQDQ Y%d, Y%d, Y%d", i+2, i, i-7)
			f.op("VPUNPCKLQDQ Y%d, Y%d, Y%d", i+3, i+1, i-6)
			f.op("VPUNPCKHQDQ Y%d, Y%d, Y%d", i+3, i+1, i-5)
		}
		for i := range 4 {
			f.op("VPERM2I128 $0x20, Y%d, Y%d, Y%d", 4+i, i, 8+i)
			f.op("VPERM2I128 $0x31, Y%d, Y%d, Y%d", 4+i, i, 12+i)
		}
		return
	}
	f.note("transpose: pairs of words, halves")
	for i := 0; i < 4; i += 2 {
		f.op("VPUNPCKLQDQ Y%d, Y%d, Y%d", i+1, i, 4+i)
		f.op("VPUNPCKHQDQ Y%d, Y%d, Y%d", i+1, i, 5+i)
	}
	for i := range 2 {
		f.op("VPERM2I128 $0x20, Y%d, Y%d, Y%d", 6+i, 4+i, 8+i)
		f.op("VPERM2I128 $0x31, Y%d, Y%d, Y%d", 6+i, 4+i, 10+i)
	}
}

func (s *sha2) loadStates(f *file) {
	for part := 0; part < 8; part += s.lanes() {
		f.note("states, words %d to %d", part, part+s.lanes()-1)
		for l := range s.lanes() {
			f.op("MOVQ %d(SI), AX", 16*l)
			f.op("VMOVDQU %d(AX), Y%d", s.word()*part, l)
		}
		s.transpose(f)
		for i := range s.lanes() {
			f.op("VMOVDQU Y%d, %d(DI)", 8+i, sha2States+sha2RegBytes*(part+i))
		}
	}
}

func (s *sha2) storeStates(f *file) {
	for part := 0; part < 8; part += s.lanes() {
		f.note("states, words %d to %d, back to their lanes", part, part+s.lanes()-1)
		for i := range s.lanes() {
			f.op("VMOVDQU %d(DI), Y%d", sha2States+sha2RegBytes*(part+i), i)
		}
		s.transpose(f)
		for l := range s.lanes() {
			f.op("MOVQ %d(SI), AX", 16*l)
			f.op("VMOVDQU Y%d, %d(AX)", 8+l, s.word()*part)
		}
	}
}

// loadWords reads a block of every lane and steps the data pointers on.
func (s *sha2) loadWords(f *file) {
	for part := 0; part < 16; part += s.lanes() {
		f.note("words %d to %d", part, part+s.lanes()-1)
		for l := range s.lanes() {
			f.op("VMOVDQU %d(%s), Y%d", s.word()*part, sha2Data[l], l)
			f.op("VPSHUFB %s(SB), Y%d, Y%[2]d", s.table("swap"), l)
		}
		s.transpose(f)
		for i := range s.lanes() {
			f.op("VMOVDQU Y%d, %s", 8+i, s.wordAt(part+i))
		}
	}
	for l := range s.lanes() {
		f.op("ADDQ $%d, %s", 16*s.word(), sha2Data[l])
	}
}

func (s *sha2) wordAt(t int) string {
	return fmt.Sprintf("%d(DI)", sha2Words+sha2RegBytes*(t%16))
}

// rotate writes dst = x >>> n with tmp. AVX2 has no rotation.
func (s *sha2) rotate(f *file, x string, n int, dst, tmp string) {
	f.op("%s $%d, %s, %s", s.size("VPSRL"), n, x, dst)
	f.op("%s $%d, %s, %s", s.size("VPSLL"), s.bits-n, x, tmp)
	f.op("VPXOR %s, %[2]s, %[2]s", tmp, dst)
}

// round writes round t. The 8 working variables rotate by their names; Y8 and Y9
// take turns to hold a ^ b, which is the next round's b ^ c.
func (s *sha2) round(f *file, t int) {
	v := func(i int) string { return fmt.Sprintf("Y%d", (i+16-t)%8) }
	a, b, d, e, g, h := v(0), v(1), v(3), v(4), v(6), v(7)
	ab, bc := fmt.Sprintf("Y%d", 8+t%2), fmt.Sprintf("Y%d", 9-t%2)
	add := s.size("VPADD")

	f.note("round %d: h += K + W + Σ1(e) + Ch(e, f, g)", t)
	f.op("%s %d(BX), Y10", s.size("VPBROADCAST"), s.word()*t)
	f.op("%s %s, Y10, Y10", add, s.wordAt(t))
	f.op("%s Y10, %[2]s, %[2]s", add, h)
	s.sigma(f, e, s.big1)
	f.op("VPXOR %s, %s, Y12", v(5), g)
	f.op("VPAND %s, Y12, Y12", e)
	f.op("VPXOR %s, Y12, Y12", g)
	f.op("%s Y12, %[2]s, %[2]s", add, h)
	f.op("%s Y11, %[2]s, %[2]s", add, h)
	f.note("d += h; h += Σ0(a) + Maj(a, b, c)")
	f.op("%s %s, %[3]s, %[3]s", add, h, d)
	s.sigma(f, a, s.big0)
	f.op("VPXOR %s, %s, %s", a, b, ab)
	f.op("VPAND %s, %s, Y12", ab, bc)
	f.op("VPXOR %s, Y12, Y12", b)
	f.op("%s Y12, %[2]s, %[2]s", add, h)
	f.op("%s Y11, %[2]s, %[2]s", add, h)
}

// sigma leaves the sum of three rotations in Y11.
func (s *sha2) sigma(f *file, x string, by [3]int) {
	s.rotate(f, x, by[0], "Y11", "Y12")
	s.rotate(f, x, by[1], "Y12", "Y13")
	s.rotate(f, x, by[2], "Y13", "Y14")
	f.op("VPXOR Y12, Y11, Y11")
	f.op("VPXOR Y13, Y11, Y11")
}

// extend makes W[t+16] where W[t] was: σ1(W[t+14]) + W[t+9] + σ0(W[t+1]) + W[t].
func (s *sha2) extend(f *file, t int) {
	add := s.size("VPADD")
	f.note("W[%d]", t+16)
	f.op("VMOVDQU %s, Y10", s.wordAt(t+1))
	s.smallSigma(f, "Y10", s.small0)
	f.op("VMOVDQU %s, Y15", s.wordAt(t+9))
	f.op("%s %s, Y15, Y15", add, s.wordAt(t))
	f.op("%s Y11, Y15, Y15", add)
	f.op("VMOVDQU %s, Y10", s.wordAt(t+14))
	s.smallSigma(f, "Y10", s.small1)
	f.op("%s Y11, Y15, Y15", add)
	f.op("VMOVDQU Y15, %s", s.wordAt(t))
}

func (s *sha2) smallSigma(f *file, x string, by [3]int) {
	s.rotate(f, x, by[0], "Y11", "Y12")
	s.rotate(f, x, by[1], "Y12", "Y13")
	f.op("%s $%d, %s, Y13", s.size("VPSRL"), by[2], x)
	f.op("VPXOR Y12, Y11, Y11")
	f.op("VPXOR Y13, Y11, Y11")
}
