package main

import "fmt"

// sha256niFile writes SHA-256 with the SHA extensions over 4 messages at once,
// and over 2 for the small batches.
//
// SHA256RNDS2 has a latency of 4 cycles, and one may start in each: a single
// stream leaves three quarters of the unit idle. The message schedule does not
// fit into the 16 registers beside 4 states, so words plus constants of the next
// blocks go to the stack while the rounds of the present blocks run from there.
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

// Registers. X0 is what SHA256RNDS2 takes its words from.
func (s *shaNI) abef(lane int) string { return fmt.Sprintf("X%d", 1+2*lane) }
func (s *shaNI) cdgh(lane int) string { return fmt.Sprintf("X%d", 2+2*lane) }
func (s *shaNI) msg(i int) string     { return fmt.Sprintf("X%d", 9+i%4) }

const (
	shaTmp  = "X13"
	shaSwap = "X15"
)

// Pointers to the lanes' data. R12 is the schedule the rounds read, R13 the one
// being made, DX the states at the start of the block.
var shaData = [4]string{"R8", "R9", "R10", "R11"}

const shaSchedule = 256 // bytes of one lane

func (s *shaNI) write(f *file) {
	name := fmt.Sprintf("sha256NIx%d", s.lanes)
	frame := 2*s.lanes*shaSchedule + s.lanes*32 + 64
	f.text(fmt.Sprintf("func %s(lanes *[8]lane[uint32], blocks int)", name), name, "0", frame, 16)
	f.op("MOVQ lanes+0(FP), SI")
	f.op("MOVQ blocks+8(FP), CX")
	f.op("LEAQ k256<>(SB), BX")
	f.op("VMOVDQU swap32<>(SB), %s", shaSwap)
	f.note("scratch on a cache line: states, then two sets of schedules")
	f.op("LEAQ 63(SP), DX")
	f.op("ANDQ $~63, DX")
	f.op("LEAQ %d(DX), R12", s.lanes*32)
	f.op("LEAQ %d(DX), R13", s.lanes*32+s.lanes*shaSchedule)
	for l := range s.lanes {
		s.load(f, l)
	}
	f.note("schedules of the first blocks")
	f.place(s.schedule("R12"))
	f.op("DECQ CX")
	f.op("JZ   %s_last", name)
	f.label(name + "_block")
	f.note("rounds of these blocks, schedules of the next")
	f.place(weave(s.rounds(), s.schedule("R13")))
	f.place(s.feedForward())
	f.op("XCHGQ R12, R13")
	f.op("DECQ CX")
	f.op("JNZ  %s_block", name)
	f.label(name + "_last")
	f.note("rounds of the last blocks")
	f.place(s.rounds())
	f.place(s.feedForward())
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

// schedule writes W[t]+K[t] of one block of each lane to the scratch at dst, and
// steps the data pointers on.
func (s *shaNI) schedule(dst string) (c code) {
	for l := range s.lanes {
		for g := range 16 {
			m := s.msg(g)
			if g < 4 {
				// The block itself, big-endian.
				c.op("VMOVDQU %d(%s), %s", 16*g, shaData[l], m)
				c.op("VPSHUFB %s, %[2]s, %[2]s", shaSwap, m)
			} else {
				// W[t] = σ1(W[t-2]) + W[t-7] + σ0(W[t-15]) + W[t-16], four at once.
				c.op("SHA256MSG1 %s, %s", s.msg(g+1), m)
				c.op("VPALIGNR $4, %s, %s, %s", s.msg(g+2), s.msg(g+3), shaTmp)
				c.op("VPADDD %s, %[2]s, %[2]s", shaTmp, m)
				c.op("SHA256MSG2 %s, %s", s.msg(g+3), m)
			}
			c.op("VPADDD %d(BX), %s, X14", 16*g, m)
			c.op("VMOVDQU X14, %d(%s)", shaSchedule*l+16*g, dst)
		}
		c.op("ADDQ $64, %s", shaData[l])
	}
	return c
}

// rounds writes the 64 rounds of all lanes, two by two, lane after lane.
func (s *shaNI) rounds() (c code) {
	for r := 0; r < 64; r += 4 {
		for l := range s.lanes {
			c.op("VMOVQ %d(R12), X0", shaSchedule*l+4*r)
			c.op("SHA256RNDS2 X0, %s, %s", s.abef(l), s.cdgh(l))
		}
		for l := range s.lanes {
			c.op("VMOVQ %d(R12), X0", shaSchedule*l+4*r+8)
			c.op("SHA256RNDS2 X0, %s, %s", s.cdgh(l), s.abef(l))
		}
	}
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
