//go:build !purego

#include "textflag.h"

// func cpuid7() (ebx, ecx uint32)
TEXT ·cpuid7(SB), NOSPLIT, $0-8
	// Is there a leaf 7 at all?
	XORL AX, AX
	XORL CX, CX
	CPUID
	CMPL AX, $7
	JB   none

	// Structured extended features.
	MOVL $7, AX
	XORL CX, CX
	CPUID
	MOVL BX, ebx+0(FP)
	MOVL CX, ecx+4(FP)
	RET

none:
	MOVL $0, ebx+0(FP)
	MOVL $0, ecx+4(FP)
	RET
