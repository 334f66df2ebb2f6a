// Package gcm is AES-GCM with a tag of 16 bytes as ESP uses it (RFC 4106), with
// AVX-512, VAES and VPCLMULQDQ: four blocks in a register.
//
//	nonce = salt 4 ‖ IV 8
//	AAD   = SPI 4 ‖ sequence number 8   (4 without ESN)
//
// A step encrypts 32 blocks in counter mode while the 32 before go through
// GHASH; when opening, the same 32. GHASH multiplies blocks with powers of H and
// reduces once a step. Tails have code for one to eight registers, the last of
// which is read and written under a mask; short texts are nothing but a tail.
//
// Command gen writes the assembly; every instruction belongs to a commented
// step. [Kernels] says whether this processor runs it. Where not, as on other
// architectures or with the build tag purego, callers keep to the standard
// library, against which the kernel is tested.
//
// # Guarantees
//
//   - Running time depends on lengths only, never on keys or data, but for the
//     one bit that Open returns. Tags are compared in constant time.
//   - No allocation after the constructor. Texts are borrowed for a call.
//   - Nothing outside of text and tag is read or written.
//   - Open leaves nothing of a text that is not authentic.
//   - Wipe clears round keys, powers of H and salt.
//
// # Non-goals
//
// Uniqueness of IVs is the caller's business. Nonces and tags of other lengths,
// other associated data.
package gcm

//go:generate go run -C gen . ..
