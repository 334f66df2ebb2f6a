// Package lanes is AES-CBC and HMAC-SHA2 over many messages at once.
//
// CBC encryption and SHA-2 are serial within a message: each step waits for the
// one before, and the processor's units stand idle. Over many messages, each in
// a lane of its own, they are not. The kernels are assembly for amd64:
//
//	AES-CBC, either way   AES-NI   8 blocks at once
//	                      VAES    16, in 256-bit registers
//	                      VAES and AVX-512   16; decryption in 512-bit registers
//	SHA-256               SHA-NI   4 messages at once; 2 where there are no more
//	                      SHA-NI and AVX-512   8; the above where there are no more
//	                      AVX2     8
//	                      AVX-512 16
//	SHA-512               AVX2     4
//	                      AVX-512  8
//
// Command gen writes all of them but CPUID; every instruction belongs to a
// commented step. [AESKernels], [SHA256Kernels] and [SHA512Kernels] say which of
// them this processor runs, best first. Where there are none, as on other
// architectures or with the build tag purego, callers keep to the standard
// library, against which each kernel is tested.
//
// # Guarantees
//
//   - Running time depends on lengths and their order only, never on keys or data.
//   - No allocation after the constructors. Messages are borrowed for a call.
//   - Nothing outside a message is written. Reading keeps to messages as well.
//   - Wipe clears expanded keys and keyed states.
//   - Lengths need not be equal. Equal ones are fastest: they need no bookkeeping
//     for each lane, and a lane that runs out of messages repeats another's work.
//
// # Non-goals
//
// No packet format, no padding of plaintexts, no comparison of MACs.
package lanes

//go:generate go run -C gen . ..
