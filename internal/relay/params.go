package relay

import "time"

// The specification says (docs/protocol/relay.md):
const (
	version = 1

	// HeaderLen is what a relayed datagram carries before its content.
	HeaderLen = 4 + 4 + 2*idLen
	// dataType is the byte after the non-ESP marker, where sealed datagrams have their
	// type: far above any of those (docs/protocol/control.md).
	dataType = 0x80

	idLen    = 8
	txLen    = 8
	tokenLen = 16
	// maxMessage bounds a query or an answer.
	maxMessage = 160

	// Life is how long an allocation lasts that is not asked for again.
	Life = 2 * time.Minute
	// tokenInterval is how long a token is given out; it counts in the next one, too.
	tokenInterval = time.Minute

	domainAllocate   = "icvpn/1 relay"
	labelToken       = "icvpn/1 relay token"
	labelAllocation  = "icvpn/1 relay allocation"
	labelAllocations = "icvpn/1 relay allocations"
)

// We chose:
const (
	// maxAllocations of all services of a port, which have parts in it and in the total
	// rate (see part).
	maxAllocations = 4096
	// Rate and Burst, in bytes, are of one member's datagrams; TotalRate and
	// TotalBurst of all. What a member receives has no limit of its own: others could
	// use it up.
	defaultRate, defaultBurst           = 4 << 20, 2 << 20
	defaultTotalRate, defaultTotalBurst = 32 << 20, 8 << 20
	// Signatures are looked at that often in a second, and at once: of one network, and
	// of all. 4096 members ask 205 times a second. A verification takes some 50 µs.
	networkRate, networkBurst = 50, 200
	totalRate, totalBurst     = 1000, 2000
	networkBuckets            = 256
	// sweepEvery is the least time between two looks for what has ended.
	sweepEvery = 10 * time.Second
	// forwardBatch datagrams are sent at once.
	forwardBatch = 128

	// refreshEvery also keeps a NAT's mapping towards the relay; 30 s is the shortest
	// that is known to be common (RFC 4787, Section 4.3, asks for two minutes).
	refreshEvery = 20 * time.Second
	// maxHoldings bounds the relays where a machine has allocations.
	maxHoldings = 16
	// maxProofs is how often in a row a relay may ask for proof: its token may have been
	// the last of a minute, or its key new.
	maxProofs = 3
)

// askWaits are the times between two repetitions of a question; after the last the
// relay is given up. With 30 % loss each way one refresh in 60 fails.
var askWaits = [...]time.Duration{500 * time.Millisecond, time.Second, time.Second, 2 * time.Second, 2 * time.Second, 3 * time.Second}
