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
)

// Classify tells what the datagram b is. It borrows b.
func Classify(b []byte) Kind {
	switch {
	case len(b) == 1 && b[0] == keepaliveByte:
		return Keepalive
	case len(b) <= MarkerLen:
		return Junk
	case b[0]|b[1]|b[2]|b[3] == 0:
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
	case Keepalive:
		return "keepalive"
	}
	return "junk"
}
