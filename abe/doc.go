// Package abe is the access control of discovery: who may read a record is a
// policy over attributes, enforced by CP-ABE, paid for once.
//
// A pairing-based encryption costs milliseconds and kilobytes, a record has
// microseconds and 600 bytes. So CP-ABE (circl, abe/cpabe/tkn20) is only a KEM,
// used once per Target = (service, generation, discovery policy), and HPKE
// (RFC 9180) does the rest:
//
//	authority seed ──HKDF── seed of the Target (32 bytes, same at every authority)
//	                             │                        │
//	             ABE, signed: Envelope              with the epoch key
//	          opened by keys that match                   │
//	                             └──> seed ──────> PolicyKey (X25519 pair)
//	                                                  │             │
//	               signed Statement: the public half ─┘             │
//	               Seal: anyone, to a policy he cannot open         │
//	                                             Open: who matches ─┘
//
// Envelope and Statement are one CBOR array and an Ed25519 signature after it
// (docs/protocol/abe.md):
//
//	+----------------------------------------------------------+-----------+
//	| [1, type, service, policy, generation, ..., seq, expiry] | sig (64)  |
//	+----------------------------------------------------------+-----------+
//	| signed: "icvpn/1 <type>" 00 and the array as sent        |
//
//	sealed record:  | enc (32) | ciphertext (n) | tag (16) |
//
// Guarantees. A record opens only with a key whose attributes satisfy the
// policy, of the same service and generation, and while the holder also has the
// epoch key. Two keys never add up to a third (collusion). A policy has exactly
// one text, so it can be hashed, signed and compared. No bytes from a peer
// panic, or make the package allocate more than a small multiple of what was
// received: what circl does not check, check.go does before circl sees it.
//
// Non-goals. CP-ABE here has neither forward secrecy nor post-quantum strength,
// and policies stand in clear in an envelope. Sealing does not authenticate the
// sender: whoever publishes, signs. There is no negation: tkn20's `not x:y` is
// false for a key that lacks label x, so a rule "everybody but evil" would
// depend on which labels existed when a key was made. Every key carries every
// label of the service (`none` where it has no value), so negation could be
// added; write access rules positively instead.
//
// The package is pure: no clock, no goroutine, no I/O. Randomness comes from
// the reader a call is given, or from crypto/rand where it takes none.
package abe
