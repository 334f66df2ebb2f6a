package main

// setupFile writes what a key's set-up needs: a lone block, and a product in
// GF(2^128).
func setupFile(f *file) {
	f.text("func encryptBlock(keys *[15][16]byte, rounds int, block *[16]byte)", "encryptBlock", 24)
	f.op("MOVQ keys+0(FP), AX")
	f.op("MOVQ rounds+8(FP), CX")
	f.op("MOVQ block+16(FP), DI")
	f.op("VMOVDQU (DI), X0")
	f.op("VPXOR (AX), X0, X0")
	f.label("encryptBlock_round")
	f.op("ADDQ $16, AX")
	f.op("DECQ CX")
	f.op("JZ   encryptBlock_last")
	f.op("VAESENC (AX), X0, X0")
	f.op("JMP  encryptBlock_round")
	f.label("encryptBlock_last")
	f.op("VAESENCLAST (AX), X0, X0")
	f.op("VMOVDQU X0, (DI)")
	f.op("VPXOR X0, X0, X0")
	f.op("RET")

	f.text("func multiply(dst, a, b *element)", "multiply", 24)
	f.op("MOVQ dst+0(FP), DI")
	f.op("MOVQ a+8(FP), SI")
	f.op("MOVQ b+16(FP), DX")
	f.op("VMOVDQU (SI), X0")
	f.op("VMOVDQU (DX), X1")
	f.op("VMOVDQU64 poly<>(SB), X5")
	f.place(product("X", 1, 0, 2, 3, 4, 6))
	f.place(reduce("X", 2, 3, 4, 5, 6, 7))
	f.op("VMOVDQU X7, (DI)")
	f.op("VZEROALL")
	f.op("RET")
}
