// Package datapath conducts packets between a TUN device, the security
// associations of any number of tunnels, and a UDP port. It knows nothing of key
// exchange, discovery or rules: those are its [Owner]'s, asked for each packet.
//
//	device ─> ReadLoop ─> Route ─┬─> lane ─> Outbound? MSS, MTU, TOS, TFC ─> Seal ─> Send
//	                             └─> lane ─> ...                      one per tunnel
//	device <─ ECN, MSS <─ Inbound? <─ Open <─ lane <─┬─ SAD <─ Receive <─ readers
//	                      ... <─ lane <──────────────┘
//
// # Use
//
// New, then a Tunnel for each peer, with a Way out and inbound SAs in the SAD
// whose owner it is. One goroutine runs ReadLoop, each reader of the port calls
// Receive; both return once device and port are closed, and then Wait.
//
// # Who does the work
//
// A tunnel has two lanes, one for each direction. A few packets on an idle lane
// are processed by the goroutine that read them: no wake-up, the shortest way for
// a ping. More of them, or those of a lane at work, go into its queue and are
// processed by a goroutine of the lane's own, so that no tunnel keeps the reader
// from another, and several tunnels use several cores. The goroutine ends when
// the queue is empty.
//
// A tunnel that has been alone with its traffic for some seconds may keep its
// reader: with few cores the reader processes everything, which is cheapest;
// with more it hands over, and waits for a full queue instead of dropping. Either
// way what is too much waits in the kernel.
//
// # Guarantees
//
//   - Packets of one tunnel and direction keep their order, whoever works.
//   - Queues are bounded by packets; full means drop and count, or, if the reader
//     has nobody else to serve, wait.
//   - Nothing allocates per packet. In: packets are opened in the buffer they
//     were received in, which is exchanged; only short messages that have to
//     wait are copied. Out: they are sealed in the slot they were read into.
//   - An idle tunnel is a struct: no goroutine, no timer, no buffer.
//   - Outer packets are not fragmented, unless the policy says so or IPv6 inside
//     leaves no other way; senders of what is too long are told, by the MSS of
//     their SYN and by ICMP.
//
// # Non-goals
//
// No retransmission, no scheduling by class, no reassembly. The inner TTL is left
// alone: RFC 4301, Section 5.1.2 has whoever forwards decrement it, and that is
// the kernel, before the packet enters the device and after it has left it.
// Finding the path MTU is the owner's task, with package plpmtud or without.
package datapath
