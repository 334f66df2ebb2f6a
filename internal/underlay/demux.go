package underlay

// Kind is what a datagram claims to be. It is decided by framing alone: any
// host may send any kind.
type Kind uint8

const (
	// Junk is neither of the others; drop it.
	Junk Kind = iota
	// ESP begins with a non-zero SPI and holds at least an ESP header.
	ESP
	// Control is a sealed control datagram: four zero bytes, then more.
	Control
	// Relayed is a datagram with a header that says between which allocations it
	// travels (docs/protocol/relay.md).
	Relayed
	// Keepalive is the single byte 0xFF, sent to keep a NAT mapping open.
	Keepalive
)

const (
	// MarkerLen is the length of the non-ESP marker (RFC 3948, Section 2.2).
	MarkerLen = 4
	// espHeaderLen is SPI and sequence number (RFC 4303, Section 2).
	espHeaderLen = 8
	// keepaliveByte is the whole NAT keepalive (RFC 3948, Section 2.3).
	keepaliveByte = 0xFF
	// relayedByte, where control datagrams have their type, and the length of the header
	// of which it is part (docs/protocol/relay.md).
	relayedByte   = 0x80
	relayedHeader = 24
)

// Classify tells what the datagram b is. It borrows b.
func Classify(b []byte) Kind {
	switch {
	case len(b) == 1 && b[0] == keepaliveByte:
		return Keepalive
	case len(b) <= MarkerLen:
		return Junk
	case b[0]|b[1]|b[2]|b[3] == 0:
		if b[MarkerLen] == relayedByte && len(b) > relayedHeader {
			return Relayed
		}
		return Control
	case len(b) < espHeaderLen:
		return Junk
	}
	return ESP
}

// String returns the name of k as it stands in logs and metrics.
func (k Kind) String() string {
	switch k {
	case ESP:
		return "esp"
	case Control:
		return "control"
	case Relayed:
		return "relayed"
	case Keepalive:
		return "keepalive"
	}
	return "junk"
}
