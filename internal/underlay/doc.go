// Package underlay carries every datagram of a node over one UDP port, in
// batches, and tells ESP from control by the first bytes.
//
// A Conn is a pair of sockets on the same port number, one for IPv4 and one
// for IPv6. One goroutine per Reader receives (recvmmsg, UDP_GRO), any number
// of goroutines send at a time (sendmmsg, UDP_SEGMENT). Addresses are
// netip.AddrPort, and an IPv4 peer is always an IPv4 address, never an
// IPv4-mapped one, so that an endpoint compares equal however it was learnt.
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
// Trains. The kernel passes datagrams of one length between the same two ends
// through its stack as one packet, and hands them over as one:
//
//	WriteBatch  [1400][1400][1400][900]  four messages, one msghdr, no copy
//	                 UDP_SEGMENT 1400        on the wire: four datagrams
//	ReadBatch   [1400 1400 1400 900    ] one message, Segment 1400
//
// A train received is what one sender chose to send: its datagrams need not be
// of one Kind, nor of one SPI. Message.Datagrams iterates over them in place.
//
// Guarantees:
//   - An ICMP error, or any other error that belongs to one datagram, never
//     ends a reader and never stops the rest of a batch; Message.Err and
//     Stats say what happened.
//   - Where the kernel or the device takes no trains, the same datagrams go out
//     one by one; the caller notices nothing, and trains are tried again later.
//   - Close unblocks every reader and writer, which then return net.ErrClosed.
//   - No allocation per datagram, and no buffer that the caller did not bring.
//   - Datagrams longer than their buffer are dropped and counted, never cut.
//   - DSCP and ECN of the outer header are the caller's, both ways (Linux).
//
// Non-goals: it authenticates nothing, keeps no state per peer beyond a few
// refusals of trains, does not choose the source address of a host with
// several, and does not look for path MTUs (but see Conn.SetDontFragment).
//
// The subpackage simnet has the same methods over an in-memory network.
package underlay
