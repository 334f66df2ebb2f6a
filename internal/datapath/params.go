package datapath

import (
	"time"

	"icvpn/tun"
)

// We chose:
const (
	// maxBatch is how many packets a batch holds: what one Read of the device
	// may bring, and more than the 64 datagrams of one train.
	maxBatch = tun.MaxBatch

	// inlineMax is how many packets the reading goroutine may process itself:
	// some 15 us of sealing and two system calls, less than it costs to wake
	// another thread twice.
	inlineMax = 16
	// inlineBudget is how many of them it takes for one tunnel within
	// inlineSlot; whoever sends more than that is no ping, and must not keep
	// the reader from the others.
	inlineBudget = 64
	inlineSlot   = 1 << 20 // ns, about a millisecond

	// companyTime is for how long after traffic of another tunnel a tunnel does not
	// count as alone: then its reader serves others too, and never waits for it.
	// A ping a second keeps it so.
	companyTime = 10 * time.Second
	// fewCores is how many cores count as few: there a lone tunnel is processed
	// by its reader from end to end, which costs 15 % less than handing over
	// (docs/performance.md); with more, reading and sealing go on side by side.
	fewCores = 3

	// laneQueue is how many packets wait for a tunnel's goroutine in one
	// direction. Full means drop and count: 1.4 MB are 5 ms at 2.4 Gbit/s, more
	// would be delay for the tunnel's own ping.
	laneQueue = 1024

	// copyMost is how long a message may be that is copied into slots rather
	// than taken with its 64 KiB: 8 KiB copy in 0.2 us.
	copyMost = 8 << 10

	// slotSize is the least room for one packet: an Ethernet MTU with head- and
	// tailroom. Interfaces of larger MTU have larger slots.
	slotSize = 2048

	// tooBigRate and prohibitRate bound the ICMP errors we make, a second, and are
	// what may come at once (RFC 1812, Section 4.3.2.8; RFC 4443, Section 2.4).
	tooBigRate   = 100
	prohibitRate = 20
)
