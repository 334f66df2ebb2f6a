package overlay

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
