package seal

import "sync/atomic"

// Type says what a datagram's payload is. Each has keys of its own.
type Type uint8

// The types of control datagrams. Any other is dropped.
const (
	TypeDHT     Type = 1 // DHT query or reply
	TypeKE      Type = 2 // key exchange, M1 to M4
	TypeProbe   Type = 3 // path probe outside a tunnel
	TypeRelay   Type = 4 // relay signalling
	TypeReflect Type = 5 // what is my public address
	TypeRenewal Type = 6 // of a membership, at a super peer

	typeEnd = 7
)

func (t Type) valid() bool { return t >= TypeDHT && t < typeEnd }

// String returns the word used in metrics.
func (t Type) String() string {
	if !t.valid() {
		return "unknown"
	}
	return [typeEnd]string{"", "dht", "ke", "probe", "relay", "reflect", "renewal"}[t]
}

// Drop is why Open refused a datagram. Peers never learn it.
type Drop uint8

// The reasons, in the order of the checks.
const (
	Passed      Drop = iota // not dropped
	DropLength              // shorter than an empty payload, or longer than MaxDatagram
	DropMarker              // first 32 bits not zero: not control
	DropType                // unknown type
	DropUnknown             // no key has this kid; may prompt one renewal
	DropEpoch               // the kid of an epoch whose grace is over
	DropForged              // the tag does not verify
	DropTime                // more than Window off the service's clock
	DropInner               // inner length too large or padding not zero
	DropReplay              // nonce seen before
	DropBusy                // nonce set full and not an answer

	dropEnd
)

// String returns the word used in metrics, as in
// icvpn_control_drops_total{reason="replay"}.
func (d Drop) String() string {
	if d >= dropEnd {
		return "unknown"
	}
	return [dropEnd]string{
		"passed", "length", "marker", "type", "unknown_kid", "old_epoch",
		"forged", "time", "inner", "replay", "busy",
	}[d]
}

// Drops lists every reason, for the renderer of metrics.
func Drops() []Drop {
	all := make([]Drop, 0, dropEnd-1)
	for d := DropLength; d < dropEnd; d++ {
		all = append(all, d)
	}
	return all
}

// Stats counts. Every datagram given to Open is counted once.
type Stats struct {
	Sealed atomic.Uint64
	opened [dropEnd]atomic.Uint64
}

// Opened returns how many datagrams passed.
func (s *Stats) Opened() uint64 { return s.opened[Passed].Load() }

// Dropped returns how many were refused for reason d.
func (s *Stats) Dropped(d Drop) uint64 {
	if d == Passed || d >= dropEnd {
		return 0
	}
	return s.opened[d].Load()
}

func (s *Stats) count(d Drop) { s.opened[d].Add(1) }
