// Package keypool is what a super peer without the ABE master key and an
// authority say to each other: one request and one answer on a TLS 1.3
// connection in which both have shown the key that the descriptor lists
// (docs/protocol/keypool.md). It is bytes only; who may have what is decided in
// internal/superpeer.
//
//	super peer that admits                              authority
//	  |  TLS 1.3, X25519MLKEM768, ALPN icvpn-keys/1          |
//	  |  both certificates Ed25519, both keys listed         |
//	  |<---------------------------------------------------->|
//	  |-- Request: policies of label sets ------------------>|  scope?
//	  |<- Answer: parameters, statements, envelopes, 2 seeds-|
//	or
//	  |-- Request: n keys of one label set ----------------->|  scope? quota?
//	  |<- Answer: n slots, until when ----------------------->|
//
// A message:
//
//	 0                   4
//	+-------------------+--------------------------+
//	| n, u32 big endian | deterministic CBOR, n B  |
//	+-------------------+--------------------------+
//
// Guarantees: no bytes of a peer panic or make the package allocate more than a
// small multiple of what was received; what has a bad length or count is refused
// as a whole. Non-goals: authentication, which is TLS's, and policy.
package keypool
