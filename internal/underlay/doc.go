// Package underlay carries every datagram of a node over one UDP port, in
// batches, and tells ESP from control by the first bytes.
//
// A Conn is a pair of sockets on the same port number, one for IPv4 and one
// for IPv6. One goroutine per Reader receives (recvmmsg), any number of
// goroutines send (sendmmsg). Addresses are netip.AddrPort, and an IPv4 peer
// is always an IPv4 address, never an IPv4-mapped one, so that an endpoint
// compares equal however it was learnt.
//
// What a datagram is (RFC 3948, Sections 2.1 to 2.3):
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|        SPI, never 0           |  sequence, IV, ciphertext ...  ESP
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|   00 00 00 00, the marker     |  type, kid, nonce, sealed ...  Control
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  FF   |  and nothing else                                      Keepalive
//	+-+-+-+-+
//	anything else: shorter than an ESP header, or a bare marker      Junk
//
// Guarantees:
//   - An ICMP error, or any other error that belongs to one datagram, never
//     ends a reader and never stops the rest of a batch; Message.Err and
//     Stats say what happened.
//   - Close unblocks every reader and writer, which then return net.ErrClosed.
//   - No allocation per datagram, and no buffer that the caller did not bring.
//   - Datagrams longer than their buffer are dropped and counted, never cut.
//
// Non-goals: it authenticates nothing, keeps no state per peer, does not
// choose the source address of a host with several, and leaves the don't
// fragment bit to the kernel.
//
// The subpackage simnet has the same methods over an in-memory network.
package underlay
