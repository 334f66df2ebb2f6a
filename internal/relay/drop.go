package relay

import "sync/atomic"

// Drop is why a relay did not forward a datagram. Nobody is told.
type Drop uint8

// The reasons, in the order of the checks.
const (
	dropNone        Drop = iota
	DropMalformed        // no header, or nothing after it
	DropUnknown          // no allocation of that name sends, or its time is over
	DropForged           // it did not come from the address of the allocation
	DropDestination      // no such allocation in that service, or the sender's own
	DropQuota            // more than one member may send
	DropTotal            // more than is relayed in all, or of one service beside others

	dropEnd
)

// String returns the word used in metrics.
func (d Drop) String() string {
	if d >= dropEnd {
		return "unknown"
	}
	return [dropEnd]string{"none", "malformed", "unknown", "forged", "destination", "quota", "total"}[d]
}

// Drops lists every reason, for the renderer of metrics.
func Drops() []Drop {
	all := make([]Drop, 0, dropEnd-1)
	for d := DropMalformed; d < dropEnd; d++ {
		all = append(all, d)
	}
	return all
}

// Request is what became of a query for an allocation.
type Request uint8

// What became of queries.
const (
	Granted   Request = iota // made, or prolonged
	Asked                    // a token was given out
	Malformed                // no query
	Stranger                 // of nobody who is a member
	Unproved                 // a bad signature
	Limited                  // too many signatures to look at
	Full                     // no place, for this service

	requestEnd
)

// String returns the word used in metrics.
func (r Request) String() string {
	if r >= requestEnd {
		return "unknown"
	}
	return [requestEnd]string{"granted", "asked", "malformed", "stranger", "unproved", "limited", "full"}[r]
}

// Requests lists every outcome, for the renderer of metrics.
func Requests() []Request {
	all := make([]Request, 0, requestEnd)
	for r := Granted; r < requestEnd; r++ {
		all = append(all, r)
	}
	return all
}

// Stats counts what a relay does. All but Allocations only grow.
type Stats struct {
	Packets, Bytes atomic.Uint64 // forwarded, headers included
	Allocations    atomic.Int64  // now
	drops          [dropEnd]atomic.Uint64
	requests       [requestEnd]atomic.Uint64
}

// Dropped returns how many datagrams were not forwarded for reason d.
func (s *Stats) Dropped(d Drop) uint64 {
	if d == dropNone || d >= dropEnd {
		return 0
	}
	return s.drops[d].Load()
}

// Requested returns how many queries ended as r.
func (s *Stats) Requested(r Request) uint64 {
	if r >= requestEnd {
		return 0
	}
	return s.requests[r].Load()
}
