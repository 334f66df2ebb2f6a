package main

import "fmt"

// aes512File writes the AES kernels with VAES and AVX-512: blocks side by side on
// 512-bit registers, four in each. There are enough registers to keep all round
// keys in some of them.
//
// CBC encryption stays with two lanes to a register of 256 bits: 16 chains are
// just what covers the latency, and an instruction in two halves that comes in
// between delays them more.
func aes512File(f *file) {
	aes512CBCEncrypt(f)
	aes512Blocks(f, "cbcDecryptVAES512", "head", "AESDEC", true)
	aes512Blocks(f, "ecbEncryptVAES512", "data", "AESENC", false)
}

// aes512Wide is how many 512-bit registers are in flight: one VAESENC starts per cycle
// where it is done in two halves, with a latency of 4.
const aes512Wide = 4

// aes512Key holds round key n: 0 to 10, or 0 to 14.
func aes512Key(class string, n int) string { return fmt.Sprintf("%s%d", class, 16+n) }

// aes512Start reads the arguments and the round keys.
func aes512Start(f *file, name, third string) {
	decl := third + " *byte"
	if third == "heads" {
		decl = "heads *[16]*byte"
	}
	f.text(fmt.Sprintf("func %s(keys *byte, rounds int, %s, blocks int)", name, decl), name, "NOSPLIT", 0, 32)
	f.op("MOVQ keys+0(FP), AX")
	f.op("MOVQ rounds+8(FP), BX")
	f.op("MOVQ %s+16(FP), DI", third)
	f.op("MOVQ blocks+24(FP), CX")
	f.note("round keys, each four times in its register; 10 or 14 and the first")
	for n := range 11 {
		f.op("VBROADCASTI32X4 %d(AX), %s", 16*n, aes512Key("Z", n))
	}
	f.op("CMPQ BX, $10")
	f.op("JE   %s_start", name)
	for n := 11; n <= 14; n++ {
		f.op("VBROADCASTI32X4 %d(AX), %s", 16*n, aes512Key("Z", n))
	}
	f.label(name + "_start")
}

// aes512End leaves no round keys behind: VZEROUPPER does not reach their registers,
// and nothing else in the program might use these for a long time.
func aes512End(f *file) {
	f.note("forget the round keys")
	for n := range 15 {
		f.op("VPXORD %s, %[1]s, %[1]s", aes512Key("Y", n))
	}
	f.op("VZEROUPPER")
	f.op("RET")
}

// aes512Rounds writes all rounds on registers 0 to wide-1, which hold the
// whitened input.
func aes512Rounds(f *file, name, instr, class string, wide int) {
	round := func(instr string, n int) {
		f.note("round %d", n)
		for i := range wide {
			f.op("V%s %s, %s%d, %[3]s%[4]d", instr, aes512Key(class, n), class, i)
		}
	}
	for n := 1; n <= 9; n++ {
		round(instr, n)
	}
	f.op("CMPQ BX, $10")
	f.op("JE   %s_ten", name)
	for n := 10; n <= 13; n++ {
		round(instr, n)
	}
	round(instr+"LAST", 14)
	f.op("JMP  %s_done", name)
	f.label(name + "_ten")
	round(instr+"LAST", 10)
	f.label(name + "_done")
}

// aes512CBCEncrypt: one chain per lane, 16 of them. DX is the offset into every
// lane.
//
// Invariant: all loads of a block come before its first store, so that idle
// lanes may repeat a busy one.
func aes512CBCEncrypt(f *file) {
	const name = "cbcEncryptVAES512"
	aes512Start(f, name, "heads")
	f.op("XORQ DX, DX")
	f.note("the chains start with the IVs")
	for i := range wide {
		aes512Gather(f, i, i)
	}
	f.loop(name + "_block")
	f.op("ADDQ $16, DX")
	f.note("chain: previous ciphertext ^ plaintext ^ first round key")
	for i := range wide {
		aes512Gather(f, i, 8+i)
	}
	for i := range wide {
		f.op("VPTERNLOGD $0x96, %s, Y%d, Y%d", aes512Key("Y", 0), 8+i, i)
	}
	aes512Rounds(f, name, "AESENC", "Y", wide)
	f.note("the ciphertext goes where the plaintext was")
	for i := range wide {
		f.op("MOVQ %d(DI), R8", 16*i)
		f.op("MOVQ %d(DI), R9", 16*i+8)
		f.op("VMOVDQU X%d, (R8)(DX*1)", i)
		f.op("VEXTRACTI128 $1, Y%d, (R9)(DX*1)", i)
	}
	f.op("DECQ CX")
	f.op("JNZ  %s_block", name)
	aes512End(f)
}

// aes512Gather loads the block at DX of lanes 2i and 2i+1.
func aes512Gather(f *file, i, dst int) {
	f.op("MOVQ %d(DI), R8", 16*i)
	f.op("MOVQ %d(DI), R9", 16*i+8)
	f.op("VMOVDQU (R8)(DX*1), X%d", dst)
	f.op("VINSERTI128 $1, (R9)(DX*1), Y%d, Y%[1]d", dst)
}

// aes512Blocks writes a kernel for blocks that lie side by side and do not
// depend on each other's results. With chain each is mixed with the block before
// it, and the kernel goes from the last to the first: so that is always still
// there.
func aes512Blocks(f *file, name, third, instr string, chain bool) {
	aes512Start(f, name, third)
	if chain {
		f.note("DI: behind the last block")
		f.op("MOVQ CX, DX")
		f.op("SHLQ $4, DX")
		f.op("LEAQ 16(DI)(DX*1), DI")
	}
	some := func(part string, wide int) {
		f.note("%d at once", 4*wide)
		f.op("SUBQ $%d, CX", 4*wide)
		f.op("JB   %s_less_%s", name, part)
		f.loop(name + "_" + part)
		if chain {
			f.op("SUBQ $%d, DI", 64*wide)
		}
		for i := range wide {
			f.op("VPXORD %d(DI), %s, Z%d", 64*i, aes512Key("Z", 0), i)
		}
		aes512Rounds(f, name+"_"+part, instr, "Z", wide)
		if chain {
			f.note("mix in the ciphertext before, all of it before the first store")
			for i := range wide {
				f.op("VPXORD %d(DI), Z%d, Z%[2]d", 64*i-16, i)
			}
		}
		for i := range wide {
			f.op("VMOVDQU32 Z%d, %d(DI)", i, 64*i)
		}
		if !chain {
			f.op("ADDQ $%d, DI", 64*wide)
		}
		f.op("SUBQ $%d, CX", 4*wide)
		f.op("JAE  %s_%s", name, part)
		f.label(name + "_less_" + part)
		f.op("ADDQ $%d, CX", 4*wide)
	}
	some("wide", aes512Wide)
	some("four", 1)
	f.op("JZ   %s_end", name)
	f.note("up to 3 that remain: a mask of two words of 64 bits for each, nothing else is touched")
	f.op("ADDQ CX, CX")
	f.op("MOVL $1, AX")
	f.op("SHLL CX, AX")
	f.op("DECL AX")
	f.op("KMOVB AX, K1")
	if chain {
		f.op("SHLQ $3, CX")
		f.op("SUBQ CX, DI")
	}
	f.op("VMOVDQU64.Z (DI), K1, Z0")
	if chain {
		f.op("VMOVDQU64.Z -16(DI), K1, Z1")
	}
	f.op("VPXORD %s, Z0, Z0", aes512Key("Z", 0))
	aes512Rounds(f, name+"_last", instr, "Z", 1)
	if chain {
		f.op("VPXORD Z1, Z0, Z0")
	}
	f.op("VMOVDQU64 Z0, K1, (DI)")
	f.label(name + "_end")
	aes512End(f)
}
