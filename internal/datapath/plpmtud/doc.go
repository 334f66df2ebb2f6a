// Package plpmtud finds the path MTU of a tunnel by sending probes through it:
// Datagram Packetization Layer Path MTU Discovery (RFC 8899). It is a machine
// without I/O: events in, sizes of probes out, time is a parameter. Sizes are
// those of whole outer IP packets.
//
//	                   Start
//	                     │
//	         ┌───────> base ── lost ×3 ──> failed ── acked ──┐
//	         │           │ acked             │ lost: again,   │
//	current  │           v                   │ less and less  │
//	size no  │        search <───────────────┴────────────────┘
//	longer   │         │   ^ raise time over, or a larger interface
//	passes   │  nothing│   │
//	         │  left   v   │
//	         └──────── done ── confirms the current size while there is traffic
//
// A probe is an ESP dummy packet (RFC 4303, Section 2.6) of the size to be tried,
// with DF, inside the SA: nobody else can make one, and it carries no data that
// could be lost. The peer answers what arrived in an authenticated control
// message; RFC 4303 alone has no answer, so a peer that is no icvpn cannot be
// probed. ICMP and EMSGSIZE are hints: they lower the current size, and probes
// then decide what holds.
//
// Guarantees: MTU never returns a size above the base that no probe has
// confirmed since the last doubt. At most one probe is under way. Without traffic
// the machine is still: once done it has no deadline of its own.
//
// Deviation: probes are waited for one second, not fifteen (RFC 8899, Section
// 5.1.1): they are answered by the peer's data path, and a search of some ten
// probes is to end while its user still waits.
package plpmtud
