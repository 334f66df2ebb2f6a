// Package seal keeps outsiders off the control plane: every control datagram
// (DHT, key exchange, probe, relay signalling, reflection) is sealed under the
// epoch's group key of its service. Wire page: docs/protocol/control.md.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------------------------------------------------------+
//	|              0 (non-ESP marker, RFC 3948, 2.2)                | \
//	+---------------+-----------------------------------------------+  associated
//	|     type      |                  kid (24 of 32 bits)          |  data, 9
//	+---------------+-----------------------------------------------+  bytes
//	|  kid, last 8  |                                               | /
//	+---------------+               nonce, 24 bytes                 |
//	|               +-----------------------------------------------+
//	|               |                                               |
//	+---------------+   XChaCha20-Poly1305 of                       |
//	|     u64 Unix ms ‖ u16 length ‖ payload ‖ zeros                |
//	|                                               + tag, 16 bytes |
//	+---------------------------------------------------------------+
//
// Keys. Super peers hold a MasterKey M_e and ratchet it forward; members get a
// MemberKey K_e = HKDF-Expand(M_e, ...) and can compute no other epoch. A Ring
// is what one process knows of one service: up to four epochs, the clock offset
// learnt at admission and the set of nonces seen. Rings is a super peer's view
// of several services.
//
// Guarantees. A datagram that Open passes was sealed by somebody who holds the
// group key of that service, type and epoch, within 120 seconds of the service's
// clock, and was not passed before by this Ring.
//
// Not guaranteed. Open never says which member sealed: nothing may be authorised
// by it. A captured datagram still opens once at every other node; so queries
// are padded (PadLookup, PadQuery) and no answer may exceed Opened.Room. The
// nonce set is lost with the process: within the window a restart opens it anew.
//
// The package opens no socket, starts no goroutine and reads no clock. Ring and
// Rings are safe for concurrent use.
package seal
