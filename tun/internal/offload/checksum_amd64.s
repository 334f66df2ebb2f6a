#include "textflag.h"

// Every 64-bit lane is cut into its two 32-bit words, which are added to
// 64-bit lanes of their own: no carry is lost before 2^32 words. Modulo 0xffff
// a sum of 32-bit words is the sum of the 16-bit ones.
//
//	Y0..Y3  sums: low and high words of even, then of odd blocks
//	Y15     mask of the low word in each lane

// ADD_BLOCK adds the block in B to the sums LOW and HIGH; T is scratch.
#define ADD_BLOCK(B, T, LOW, HIGH) \
	VPAND  Y15, B, T      \
	VPSRLQ $32, B, B      \
	VPADDQ T, LOW, LOW    \
	VPADDQ B, HIGH, HIGH

// START clears the sums and makes the mask.
#define START \
	VPXOR    Y0, Y0, Y0      \
	VPXOR    Y1, Y1, Y1      \
	VPXOR    Y2, Y2, Y2      \
	VPXOR    Y3, Y3, Y3      \
	VPCMPEQD Y15, Y15, Y15   \
	VPSRLQ   $32, Y15, Y15

// FINISH adds all lanes into AX.
#define FINISH \
	VPADDQ       Y1, Y0, Y0  \
	VPADDQ       Y3, Y2, Y2  \
	VPADDQ       Y2, Y0, Y0  \
	VEXTRACTI128 $1, Y0, X1  \
	VPADDQ       X1, X0, X0  \
	VPSRLDQ      $8, X0, X1  \
	VPADDQ       X1, X0, X0  \
	VMOVQ        X0, AX      \
	VZEROUPPER

// func sumAVX2(src *byte, n int) uint64
TEXT ·sumAVX2(SB), NOSPLIT, $0-24
	MOVQ src+0(FP), SI
	MOVQ n+8(FP), CX
	START

sumFour:
	CMPQ    CX, $128
	JB      sumOne
	VMOVDQU (SI), Y4
	VMOVDQU 32(SI), Y5
	VMOVDQU 64(SI), Y6
	VMOVDQU 96(SI), Y7
	ADD_BLOCK(Y4, Y8, Y0, Y1)
	ADD_BLOCK(Y5, Y9, Y2, Y3)
	ADD_BLOCK(Y6, Y10, Y0, Y1)
	ADD_BLOCK(Y7, Y11, Y2, Y3)
	ADDQ    $128, SI
	SUBQ    $128, CX
	JMP     sumFour

sumOne:
	TESTQ   CX, CX
	JZ      sumDone
	VMOVDQU (SI), Y4
	ADD_BLOCK(Y4, Y8, Y0, Y1)
	ADDQ    $32, SI
	SUBQ    $32, CX
	JMP     sumOne

sumDone:
	FINISH
	MOVQ AX, ret+16(FP)
	RET

// func copySumAVX2(dst, src *byte, n int) uint64
TEXT ·copySumAVX2(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	START

copyFour:
	CMPQ    CX, $128
	JB      copyOne
	VMOVDQU (SI), Y4
	VMOVDQU 32(SI), Y5
	VMOVDQU 64(SI), Y6
	VMOVDQU 96(SI), Y7
	VMOVDQU Y4, (DI)
	VMOVDQU Y5, 32(DI)
	VMOVDQU Y6, 64(DI)
	VMOVDQU Y7, 96(DI)
	ADD_BLOCK(Y4, Y8, Y0, Y1)
	ADD_BLOCK(Y5, Y9, Y2, Y3)
	ADD_BLOCK(Y6, Y10, Y0, Y1)
	ADD_BLOCK(Y7, Y11, Y2, Y3)
	ADDQ    $128, SI
	ADDQ    $128, DI
	SUBQ    $128, CX
	JMP     copyFour

copyOne:
	TESTQ   CX, CX
	JZ      copyDone
	VMOVDQU (SI), Y4
	VMOVDQU Y4, (DI)
	ADD_BLOCK(Y4, Y8, Y0, Y1)
	ADDQ    $32, SI
	ADDQ    $32, DI
	SUBQ    $32, CX
	JMP     copyOne

copyDone:
	FINISH
	MOVQ AX, ret+24(FP)
	RET
