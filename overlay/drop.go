package overlay

import "sync/atomic"

// Drop says why a datagram was not processed. Whoever sent it never learns.
type Drop uint8

// Reasons for dropping a datagram.
const (
	DropNone        Drop = iota
	DropNotRunning       // Deliver before Run or after its end
	DropQueueFull        // more datagrams than the dispatch loop takes
	DropTooLong          // more than MaxPayload bytes
	DropMalformed        // not bencode in its one form, or a field of wrong type, size or combination
	DropNoArguments      // a query without an argument dictionary or its node ID
	DropMethod           // a query other than ping, find_node, get and put
	DropUnasked          // an answer to nothing we asked its sender
	DropAddress          // from an address no node can have
	DropRate             // more queries from one prefix than are answered
	DropSend             // an answer that the transport did not take
	numDrops
)

var dropNames = [numDrops]string{
	"none", "not running", "queue full", "too long", "malformed", "no arguments", "unknown method",
	"unasked", "address", "rate", "send",
}

// String returns the reason as it stands in metrics.
func (d Drop) String() string {
	if d < numDrops {
		return dropNames[d]
	}
	return "unknown"
}

// Drops returns every reason except DropNone.
func Drops() []Drop {
	var all []Drop
	for d := DropNone + 1; d < numDrops; d++ {
		all = append(all, d)
	}
	return all
}

// Stats are the counters of an Overlay since New, read without a lock.
type Stats struct {
	Received     atomic.Uint64 // datagrams handed to Deliver
	Answered     atomic.Uint64 // queries of others that we answered
	Asked        atomic.Uint64 // queries sent, resends not counted
	Silent       atomic.Uint64 // queries that nobody answered
	Bootstraps   atomic.Uint64 // walks to our own ID
	Stored       atomic.Uint64 // puts of others that we took
	Refused      atomic.Uint64 // puts of others that we refused
	Published    atomic.Uint64 // publications put with a quorum
	Unpublished  atomic.Uint64 // publications that found no quorum
	Contradicted atomic.Uint64 // values in answers with a wrong signature, key or hash

	drops [numDrops]atomic.Uint64
}

// Dropped returns how many datagrams were dropped for reason d.
func (s *Stats) Dropped(d Drop) uint64 { return s.drops[d].Load() }

func (s *Stats) drop(d Drop) { s.drops[d].Add(1) }
