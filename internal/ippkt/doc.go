// Package ippkt does to one inner IP packet what a tunnel does besides sealing
// it: ECN (RFC 6040), the TCP maximum segment size (RFC 9293, Section 3.7.1),
// fragments (RFC 791) and the ICMP errors that tell a sender of a smaller MTU
// (RFC 1191, RFC 8201) or of a rule against its packet. Everything works on bytes in place; nothing is kept.
//
//	out  Len ─> Endpoints ─> ClampMSS ─> fits? ── no, DF or IPv6 ──> TooBig, to the sender
//	                                      │  └──── no, IPv4 ───────> Fragment
//	                                      └ yes: ECN copied to the outer header
//	in   Endpoints ─> Decapsulate (ECN) ─> ClampMSS
//
// Guarantees: bytes of a peer never panic it; every function that changes a
// packet leaves its checksums right if they were right before. Nothing
// allocates but Fragment's caller.
//
// Non-goals: reassembly, IPv6 jumbograms, transport checksums of broken packets.
package ippkt
