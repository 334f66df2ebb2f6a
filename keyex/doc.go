// Package keyex turns two peers of a service into fresh keys for a pair of ESP
// security associations: the four messages of docs/protocol/keyex.md (ICVPN
// paper, Section 2.4), as one machine without sockets, goroutines or a clock.
//
//	A                                                         B
//	| M1 hello: PIDs, nonce, groups, suites, rekey ID         |
//	|-------------------------------------------------------->| keeps nothing
//	|          M2 hello: nonce, group, suite, and the cookie  |
//	|<--------------------------------------------------------|
//	| M3: M1, M2, DH share, SPI, credential, signature        |
//	|-------------------------------------------------------->| Result, unconfirmed
//	|          M4: DH share, SPI, credential, signature, MAC  |
//	|<--------------------------------------------------------|
//	Result     first ESP packet (confirms B's)                |
//
// Every datagram is one payload of the sealed control type KE:
//
//	 0     1     2     3                              35    36          52
//	+-----+-----+-----+------------------------------+-----+-----------+------
//	| msg |index|total| X: running hash, 32 bytes    | kid | cookie 16 | body
//	+-----+-----+-----+------------------------------+-----+-----------+------
//
// # Guarantees
//
// A Result means that the peer named in it signed the same transcript, holds
// the epoch key and derived the same keys (for the initiator), or will turn
// out to when the first ESP packet verifies (for the responder). Nothing is
// kept for a hello, and nothing at all for an address that has not proved
// itself with a cookie. A repeated M3 gets the same M4 and never new keys. Each
// call of [Machine.Initiate] ends in exactly one Result with Initiator or
// Replaced set, one Failure, or a Cancel. Nothing on the wire says why a
// message was dropped; counters, [Output.Err] and [Failure] tell the operator.
//
// # Not here
//
// Sealing under the epoch's group key, deciding which peers to talk to, paths
// better than the first one that answered, installing and confirming SAs, and
// concurrency: a Machine belongs to one goroutine, which thereby is the bounded
// pool for Diffie-Hellman work that the protocol asks for.
package keyex
