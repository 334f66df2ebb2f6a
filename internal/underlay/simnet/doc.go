// Package simnet is an in-memory network with the methods of underlay.Conn,
// for tests of whole nodes.
//
//	a := net.Listen(10.0.0.1:4500) ──WriteBatch──> link a>b ──> inbox ──ReadBatch── b
//	                                               loss, duplication, latency,
//	                                               jitter, reordering, down,
//	                                               MTU, congestion marks
//
// Guarantees:
//   - What happens to the n-th datagram from one address to another follows
//     from Config.Seed, the two addresses and n alone: a run repeats, however
//     the goroutines of different senders interleave.
//   - Datagrams of one link keep their order unless Link.Reorder says otherwise.
//   - Time is package time's, so in a testing/synctest bubble a simulated hour
//     costs nothing. Make the Network inside the bubble. It has no goroutine.
//
// Non-goals: bandwidth, congestion, NAT, ICMP.
package simnet
