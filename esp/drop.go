package esp

import "sync/atomic"

// Drop says why a packet goes no further; DropNone says that it does. The peer
// never learns it: on the wire every drop is the same silence.
type Drop uint8

// Reasons, in the order in which the checks are made.
const (
	DropNone       Drop = iota // delivered
	DropNoRoom                 // the buffer lacks head- or tailroom: a bug of the caller
	DropTooShort               // shorter than the suite's shortest datagram
	DropMisaligned             // ciphertext is no whole number of blocks
	DropUnknownSPI             // no SA has this SPI
	DropReplay                 // sequence number seen before, or left of the window
	DropAuth                   // the ICV is wrong
	DropPadding                // authentic, but the padding is not 1, 2, 3, ...
	DropExpired                // the SA's hard limit is reached, or it is closed
	DropDummy                  // authentic dummy: no fault, nothing to deliver
	DropInner                  // inner packet is not IP, or contradicts its own length
	DropSource                 // inner source is not the peer's; for the caller to count
	DropPolicy                 // the access rules refuse it; for the caller to count
	numDrops
)

var dropNames = [numDrops]string{
	DropNone:       "none",
	DropNoRoom:     "no_room",
	DropTooShort:   "too_short",
	DropMisaligned: "misaligned",
	DropUnknownSPI: "unknown_spi",
	DropReplay:     "replay",
	DropAuth:       "auth",
	DropPadding:    "padding",
	DropExpired:    "expired",
	DropDummy:      "dummy",
	DropInner:      "inner_malformed",
	DropSource:     "inner_source",
	DropPolicy:     "policy",
}

// String returns the reason as it stands in metrics' labels.
func (d Drop) String() string {
	if d >= numDrops {
		return "invalid"
	}
	return dropNames[d]
}

// Authentic says whether an opened packet with this verdict proved that the
// peer holds the SA's keys and was not seen before: what liveness and key
// confirmation may be built on. A dummy is authentic, and so is a packet that
// fails only the checks on its inside.
func (d Drop) Authentic() bool {
	switch d {
	case DropNone, DropDummy, DropInner, DropSource, DropPolicy:
		return true
	default:
		return false
	}
}

// Drops returns all reasons, for whoever renders a Stats.
func Drops() []Drop {
	all := make([]Drop, 0, numDrops-1)
	for d := DropNone + 1; d < numDrops; d++ {
		all = append(all, d)
	}
	return all
}

// Stats counts what passed and what did not. One Stats may serve any number of
// SAs; the zero value is ready. Bytes are those of inner packets.
type Stats struct {
	SealedPackets atomic.Uint64
	SealedBytes   atomic.Uint64
	SealedDummies atomic.Uint64
	OpenedPackets atomic.Uint64
	OpenedBytes   atomic.Uint64

	drops [numDrops]atomic.Uint64
}

// Dropped returns how many packets were dropped for reason d.
func (s *Stats) Dropped(d Drop) uint64 {
	if d >= numDrops {
		return 0
	}
	return s.drops[d].Load()
}

// CountDrop counts one drop. Seal, Open and SAD.Find count their own; callers
// use it for the checks that are theirs: DropSource and DropPolicy.
func (s *Stats) CountDrop(d Drop) {
	if d != DropNone && d < numDrops {
		s.drops[d].Add(1)
	}
}
