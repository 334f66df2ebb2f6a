package main

import "fmt"

// aesFile writes the AES kernels twice: with AES-NI on 8 blocks at once, and
// with VAES on 16, two to a ymm register. All instructions are VEX-encoded.
func aesFile(f *file) {
	aesKeys(f)
	for _, v := range []*aesVariant{
		{suffix: "NI", reg: "X", perReg: 1},
		{suffix: "VAES", reg: "Y", perReg: 2},
	} {
		v.cbcEncrypt(f)
		v.cbcDecrypt(f)
		v.ecbEncrypt(f)
	}
}

// wide is how many registers are in flight: AESENC has a latency of 4 cycles
// (3 on newer cores) and two start per cycle.
const wide = 8

type aesVariant struct {
	suffix string
	reg    string // register class
	perReg int    // blocks in a register
}

func (v *aesVariant) r(i int) string { return fmt.Sprintf("%s%d", v.reg, i) }

// loadKey fetches round key i into register 8 or 9.
func (v *aesVariant) loadKey(f *file, i, reg int) {
	load := "VMOVDQU"
	if v.perReg == 2 {
		load = "VBROADCASTI128"
	}
	f.op("%s %d(AX), %s", load, 16*i, v.r(reg))
}

// whiten mixes the first round key into the input.
func (v *aesVariant) whiten(f *file) {
	f.note("whitening")
	v.loadKey(f, 0, 8)
	for i := range wide {
		f.op("VPXOR %s, %[2]s, %[2]s", v.r(8), v.r(i))
	}
}

// cipher writes all rounds on registers 0 to wide-1, which hold the whitened
// input. AX has the round keys, BX their number: 10 or 14.
func (v *aesVariant) cipher(f *file, name, instr string) {
	round := func(n int) {
		f.note("round %d", n)
		v.loadKey(f, n, 8+n%2)
		for i := range wide {
			f.op("V%s %s, %[3]s, %[3]s", instr, v.r(8+n%2), v.r(i))
		}
	}
	for n := 1; n <= 9; n++ {
		round(n)
	}
	last := func(n int) {
		f.note("last round, %d", n)
		v.loadKey(f, n, 8)
		for i := range wide {
			f.op("V%sLAST %s, %[3]s, %[3]s", instr, v.r(8), v.r(i))
		}
	}
	f.op("CMPQ BX, $10")
	f.op("JE   %s_ten", name)
	for n := 10; n <= 13; n++ {
		round(n)
	}
	last(14)
	f.op("JMP %s_done", name)
	f.label(name + "_ten")
	last(10)
	f.label(name + "_done")
}

// single writes the same for one block in X0.
func (v *aesVariant) single(f *file, name, instr string) {
	f.op("VPXOR (AX), X0, X0")
	for n := 1; n <= 9; n++ {
		f.op("V%s %d(AX), X0, X0", instr, 16*n)
	}
	f.op("CMPQ BX, $10")
	f.op("JE   %s_ten", name)
	for n := 10; n <= 13; n++ {
		f.op("V%s %d(AX), X0, X0", instr, 16*n)
	}
	f.op("V%sLAST %d(AX), X0, X0", instr, 16*14)
	f.op("JMP %s_done", name)
	f.label(name + "_ten")
	f.op("V%sLAST %d(AX), X0, X0", instr, 16*10)
	f.label(name + "_done")
}

// cbcEncrypt: one chain per lane. DX is the offset into every lane.
//
// Invariant: all loads of a block come before its first store, so that idle
// lanes may repeat a busy one.
func (v *aesVariant) cbcEncrypt(f *file) {
	name := "cbcEncrypt" + v.suffix
	f.text(fmt.Sprintf("func %s(keys *byte, rounds int, heads *[16]*byte, blocks int)", name), name, "NOSPLIT", 0, 32)
	f.op("MOVQ keys+0(FP), AX")
	f.op("MOVQ rounds+8(FP), BX")
	f.op("MOVQ heads+16(FP), SI")
	f.op("MOVQ blocks+24(FP), CX")
	f.op("XORQ DX, DX")
	f.note("the chains start with the IVs")
	v.gather(f, false)
	f.loop(name + "_block")
	f.op("ADDQ $16, DX")
	f.note("chain: previous ciphertext ^ plaintext ^ first round key")
	v.gather(f, true)
	v.cipher(f, name, "AESENC")
	f.note("the ciphertext goes where the plaintext was")
	v.scatter(f)
	f.op("DECQ CX")
	f.op("JNZ  %s_block", name)
	f.op("VZEROUPPER")
	f.op("RET")
}

// gather loads the block at DX of every lane. With mix it is a plaintext: mixed
// with the first round key while the chain still waits for its last ciphertext,
// then with that.
func (v *aesVariant) gather(f *file, mix bool) {
	const key = 15
	if mix {
		v.loadKey(f, 0, key)
	}
	for i := range wide {
		dst := i
		if mix {
			dst = 8 + i%7
		}
		f.op("MOVQ %d(SI), R8", 8*v.perReg*i)
		if v.perReg == 1 {
			f.op("VMOVDQU (R8)(DX*1), X%d", dst)
		} else {
			f.op("MOVQ %d(SI), R9", 16*i+8)
			f.op("VMOVDQU (R8)(DX*1), X%d", dst)
			f.op("VINSERTI128 $1, (R9)(DX*1), %[1]s, %[1]s", v.r(dst))
		}
		if mix {
			f.op("VPXOR %s, %[2]s, %[2]s", v.r(key), v.r(dst))
			f.op("VPXOR %s, %[2]s, %[2]s", v.r(dst), v.r(i))
		}
	}
}

// scatter stores the block at DX of every lane.
func (v *aesVariant) scatter(f *file) {
	for i := range wide {
		f.op("MOVQ %d(SI), R8", 8*v.perReg*i)
		f.op("VMOVDQU X%d, (R8)(DX*1)", i)
		if v.perReg == 2 {
			f.op("MOVQ %d(SI), R9", 16*i+8)
			f.op("VEXTRACTI128 $1, %s, (R9)(DX*1)", v.r(i))
		}
	}
}

// cbcDecrypt goes from the last block to the first: so the ciphertext before a
// block, which it is mixed with, is always still there.
func (v *aesVariant) cbcDecrypt(f *file) {
	name := "cbcDecrypt" + v.suffix
	size := 16 * v.perReg
	f.text(fmt.Sprintf("func %s(keys *byte, rounds int, head *byte, blocks int)", name), name, "NOSPLIT", 0, 32)
	f.op("MOVQ keys+0(FP), AX")
	f.op("MOVQ rounds+8(FP), BX")
	f.op("MOVQ head+16(FP), DI")
	f.op("MOVQ blocks+24(FP), CX")
	f.note("DI: behind the last block")
	f.op("MOVQ CX, DX")
	f.op("SHLQ $4, DX")
	f.op("LEAQ 16(DI)(DX*1), DI")
	f.op("SUBQ $%d, CX", wide*v.perReg)
	f.op("JB   %s_rest", name)
	f.loop(name + "_wide")
	f.op("SUBQ $%d, DI", wide*size)
	for i := range wide {
		f.op("VMOVDQU %d(DI), %s", i*size, v.r(i))
	}
	v.whiten(f)
	v.cipher(f, name+"_w", "AESDEC")
	f.note("mix in the ciphertext before, all of it before the first store")
	for i := range wide {
		f.op("VPXOR %d(DI), %[2]s, %[2]s", i*size-16, v.r(i))
	}
	for i := range wide {
		f.op("VMOVDQU %s, %d(DI)", v.r(i), i*size)
	}
	f.op("SUBQ $%d, CX", wide*v.perReg)
	f.op("JAE  %s_wide", name)
	f.label(name + "_rest")
	f.note("what remains one by one; the blocks do not depend on each other")
	f.op("ADDQ $%d, CX", wide*v.perReg)
	f.op("JZ   %s_end", name)
	f.label(name + "_one")
	f.op("SUBQ $16, DI")
	f.op("VMOVDQU (DI), X0")
	v.single(f, name+"_o", "AESDEC")
	f.op("VPXOR -16(DI), X0, X0")
	f.op("VMOVDQU X0, (DI)")
	f.op("DECQ CX")
	f.op("JNZ  %s_one", name)
	f.label(name + "_end")
	f.op("VZEROUPPER")
	f.op("RET")
}

// ecbEncrypt works on neighbouring blocks in place.
func (v *aesVariant) ecbEncrypt(f *file) {
	name := "ecbEncrypt" + v.suffix
	size := 16 * v.perReg
	f.text(fmt.Sprintf("func %s(keys *byte, rounds int, data *byte, blocks int)", name), name, "NOSPLIT", 0, 32)
	f.op("MOVQ keys+0(FP), AX")
	f.op("MOVQ rounds+8(FP), BX")
	f.op("MOVQ data+16(FP), DI")
	f.op("MOVQ blocks+24(FP), CX")
	f.op("SUBQ $%d, CX", wide*v.perReg)
	f.op("JB   %s_rest", name)
	f.loop(name + "_wide")
	for i := range wide {
		f.op("VMOVDQU %d(DI), %s", i*size, v.r(i))
	}
	v.whiten(f)
	v.cipher(f, name+"_w", "AESENC")
	for i := range wide {
		f.op("VMOVDQU %s, %d(DI)", v.r(i), i*size)
	}
	f.op("ADDQ $%d, DI", wide*size)
	f.op("SUBQ $%d, CX", wide*v.perReg)
	f.op("JAE  %s_wide", name)
	f.label(name + "_rest")
	f.op("ADDQ $%d, CX", wide*v.perReg)
	f.op("JZ   %s_end", name)
	f.label(name + "_one")
	f.op("VMOVDQU (DI), X0")
	v.single(f, name+"_o", "AESENC")
	f.op("VMOVDQU X0, (DI)")
	f.op("ADDQ $16, DI")
	f.op("DECQ CX")
	f.op("JNZ  %s_one", name)
	f.label(name + "_end")
	f.op("VZEROUPPER")
	f.op("RET")
}

// aesKeys writes what the key schedule needs: the S-box without a table, whose
// cache lines would tell about the key, and InvMixColumns.
func aesKeys(f *file) {
	f.text("func subWord(w uint32) uint32", "subWord", "NOSPLIT", 0, 12)
	f.op("MOVL w+0(FP), AX")
	f.note("a word in place 1 comes out through the S-box in place 0")
	f.op("VMOVD AX, X0")
	f.op("VPSLLDQ $4, X0, X0")
	f.op("VAESKEYGENASSIST $0, X0, X0")
	f.op("VMOVD X0, AX")
	f.op("MOVL AX, ret+8(FP)")
	f.op("VPXOR X0, X0, X0") // part of a key
	f.op("RET")

	f.text("func invMixColumns(dst, src *[16]byte)", "invMixColumns", "NOSPLIT", 0, 16)
	f.op("MOVQ dst+0(FP), DI")
	f.op("MOVQ src+8(FP), SI")
	f.op("VAESIMC (SI), X0")
	f.op("VMOVDQU X0, (DI)")
	f.op("VPXOR X0, X0, X0") // part of a key
	f.op("RET")
}
