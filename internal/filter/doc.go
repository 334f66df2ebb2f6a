// Package filter enforces the owners' access rules on every inner packet, at
// both ends of a tunnel.
//
//	rules:  - from: {role: web}          who may open flows
//	          to:   {role: app}          to whom
//	          proto: tcp                 any | tcp | udp | icmp, default any
//	          ports: [443, 8000-8099]    destination ports, default all
//
// Compile turns the rules into a Pair for one tunnel: our labels and the peer's.
// A packet passes in the direction it travels when
//
//	┌ a rule of that direction allows its protocol and destination port, or
//	├ it answers: TCP from a port that a rule of the other direction opens, unless
//	│ it could start a connection (no ACK and no RST); everything else by a table
//	│ of the flows that permitted packets began, 180 s idle, 4096 a direction, the
//	│ least recently used goes first; or
//	├ it is an ICMP echo request and its direction has any rule at all, or an echo
//	│ reply and the other direction has; or
//	├ it is an ICMP error (unreachable, too big, time exceeded, parameter problem)
//	│ that quotes a packet between the same two addresses which the rules allow; or
//	└ it is a later fragment of a datagram whose first fragment passed within the
//	  last 30 s and showed its whole transport header.
//
// No other ICMP crosses a tunnel: no redirects, no neighbour or router discovery.
// Source-routed packets do not either, since their true destination is not the
// one in the header.
//
// Guarantees. No rule, no packet: an empty list lets nobody reach anybody, and a
// rule that Validate refuses allows nothing. Packets cost no allocation; memory
// is bounded for each pair. Pair is safe for concurrent use: the send loop calls
// Outbound while the receive loop calls Inbound.
//
// Not done. TCP answers are told by their flags, not tracked: who is reachable by
// a port may send segments that start nothing from that port, and the RST they
// draw comes back. A later fragment that overtakes its first is dropped.
// Addresses are not checked against credentials: that is the tunnel's work.
package filter
