// Package relay carries datagrams between two machines that cannot reach each other:
// what a relay does, and what a machine that uses one does. Wire page:
// docs/protocol/relay.md; why so: docs/adr/0027-relays.md.
//
//	A ──────────────── relay ──────────────── B
//	  ask, token, signed ─> allocation of A     allocation of B <─ the same
//	  marker 80 ‖ to B ‖ from A ‖ datagram ──────────────────────> the same bytes
//
// A relay, relay.go and table.go, knows allocations: a member, proved by its
// signature, at an address, proved by a token that only that address was told. A
// datagram names two of them. It has to come from the address of the one and goes,
// unchanged, to the address of the other; nothing in it can name an address.
//
// A machine asks for allocations with Holdings, a machine without socket and clock.
// Conn stands between its port and its sockets and makes a peer behind a relay look
// like an address of the discard prefix 100::/64 (RFC 6666), which no datagram from
// the network can have as its source:
//
//	100::<allocation of the peer, 8 bytes>, port = number of our allocation
//
// So nobody above it knows of headers, and there is no table of peers: the address
// says all.
//
// # Guarantees
//
//   - A relay sends to no address that has not proved, by its token, to receive there,
//     within the last Life, and sends no more bytes than it was sent.
//   - Nobody but a member gets an allocation, each member one at a relay, and only what
//     comes from its address is relayed as from it. Both ends are of one service.
//   - Conn gives out a virtual source only for what came from a relay where we have an
//     allocation, to that allocation.
//
// # Non-goals
//
//   - Secrecy and integrity: what is relayed is ESP or sealed, end to end.
//   - Hiding from the relay, or from who listens beside it, who speaks with whom.
package relay
