// Package esp turns IP packets into RFC 4303 ESP datagrams and back, in tunnel
// mode, under security associations (SAs) whose keys somebody else agreed.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------------------------------------------------------+ ---- ----
//	| SPI, never 0 to 255                                           |  ^    ^
//	+---------------------------------------------------------------+  |    |
//	| sequence number, low 32 bits                                  |  | AEAD: AAD
//	+---------------------------------------------------------------+  | HMAC |
//	| IV: 16 bytes (CBC) or 8 (AEAD)                                |  | input| ----
//	+---------------------------------------------------------------+  |      |  ^
//	| inner IPv4 or IPv6 packet                                     |  |      |  |
//	| TFC padding, zeros                                            |  |      | en-
//	+               +---------------+---------------+---------------+  |      | crypt-
//	| 01 02 03 ...  | padding       | pad length    | next header   |  v      | ed
//	+---------------+---------------+---------------+---------------+ ----    | ----
//	| (high 32 bits of the sequence number: in the ICV, never sent) |
//	+---------------------------------------------------------------+
//	| ICV: 16 bytes (HMAC-SHA2-256-128 and AEADs) or 32 (SHA2-512)  |
//	+---------------------------------------------------------------+
//
// docs/protocol/esp.md is the format for readers, docs/protocol/port.md tells
// how a datagram becomes ESP at all (RFC 3948).
//
// # Use
//
// An [Outbound] SA seals batches of packets in place, an [Inbound] SA opens
// them in place; [SAD] finds the inbound SA of a datagram by its SPI. A batch
// is a []Packet: buffers with [Headroom] bytes before the inner packet and
// [Tailroom] after it. Every packet carries its own verdict, a [Drop], and the
// call as a whole returns how long the SA has to live, a [Life].
//
// # Guarantees
//
//   - Open authenticates before it believes anything, and marks a number as seen
//     only after that (RFC 4303, Section 3.4.3). The CBC suites decrypt after that,
//     too; AEADs leave nothing of a plaintext that is not authentic.
//   - A sequence number, hence an IV or a nonce, is used once under a key: it
//     comes from the SA's 64-bit counter only, and the counter does not wrap.
//   - Hard limits in bytes, packets and age end an SA on both sides for good.
//   - Seal and Open allocate nothing per packet and may be called concurrently.
//   - No datagram panics the package, and none makes it forget an SA.
//
// # Non-goals
//
// No sockets, no goroutines, no clock: time is a parameter. Who may use an
// inner address, which peer a packet is routed to, the outer header (DSCP, ECN,
// path MTU) and key agreement are the callers' business. Transport mode, AH,
// reassembly of IP fragments and multicast SAs are left out.
//
// Keys are wiped where this package holds them: as bytes, and as round keys and
// keyed states of packages lanes and gcm. The standard library, which computes
// ChaCha20-Poly1305 and, on processors without kernels, everything, keeps expanded
// keys in objects that cannot be wiped; Close drops them to the garbage collector.
//
// # Speed
//
// The CBC suites take a batch's packets through AES and SHA-2 side by side,
// esp/internal/lanes, with what the processor has; the bigger the batches, the
// better. AES-GCM has kernels for VAES and VPCLMULQDQ, with AVX-512 and without,
// esp/internal/gcm. docs/performance.md has the figures.
package esp
