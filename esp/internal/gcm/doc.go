// Package gcm is AES-GCM with a tag of 16 bytes as ESP uses it (RFC 4106), with
// VAES and VPCLMULQDQ: four blocks in a register with AVX-512, two with AVX2, as
// AMD's Zen 3 and Intel's processors since Alder Lake need it.
//
//	nonce = salt 4 ‖ IV 8
//	AAD   = SPI 4 ‖ sequence number 8   (4 without ESN)
//
// A step is eight registers, so 32 or 16 blocks. It encrypts them in counter mode
// while those before go through GHASH; when opening, the same ones. GHASH
// multiplies blocks with powers of H and reduces once a step. Tails have code for
// one to eight registers. Of the last one AVX-512 reads and writes bytes under a
// mask; AVX2 has no such masks, but behind the text there is the tag's place,
// which a last block may reach into. Short texts are nothing but a tail.
//
// Command gen writes the assembly; every instruction belongs to a commented
// step. [Kernels] says what this processor runs, best first. Where there is
// nothing, as on other architectures or with the build tag purego, callers keep to
// the standard library, against which each kernel is tested.
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
