package seal

import "time"

// The specification says (docs/protocol/control.md):
const (
	// MaxDatagram is the UDP payload of a 1280-byte path: less 40 bytes of IPv6
	// and 8 of UDP.
	MaxDatagram = 1232

	// Overhead is what a datagram carries besides payload and padding: 49 bytes
	// of seal and 10 of inner header.
	Overhead = headerSize + tagSize + innerSize

	// MaxPayload is the largest payload, and the largest padding target.
	MaxPayload = MaxDatagram - Overhead

	// Window is how far a timestamp may be off the service's clock, either way.
	Window = 120 * time.Second

	// DefaultGrace is G of an epoch record in ordinary times.
	DefaultGrace = 10 * time.Minute

	markerSize = 4  // the non-ESP marker
	adSize     = 9  // marker ‖ type ‖ kid
	nonceSize  = 24 // XChaCha20's
	headerSize = adSize + nonceSize
	tagSize    = 16
	innerSize  = 8 + 2 // u64 Unix ms ‖ u16 length
	keySize    = 32
)

// Padding targets, in bytes of payload: a query is as long as the longest
// answer it can draw, so reflection gains an attacker nothing.
const (
	// PadLookup is for DHT get and put, whose answers may fill the path.
	PadLookup = MaxPayload

	// PadQuery is for every other DHT query.
	PadQuery = 450

	// PadHello makes the plaintext of M1 and M2 of the key exchange 256 bytes
	// each, so that M2 is never longer than the M1 it answers.
	PadHello = 256 - innerSize
)

// We chose:
const (
	// generationSpan is the range of timestamps one generation of the nonce set
	// holds. The window is exactly as long, so it touches two generations at most.
	generationSpan = 2 * Window

	// defaultReplayEntries bounds one generation: 273 datagrams a second for the
	// length of the window, about 1 MiB when full.
	defaultReplayEntries = 65536

	// maxEpochs a Ring holds: e-1, e, e+1, and one more handed out early.
	maxEpochs = 4

	// maxAhead bounds how far Member ratchets for a caller, so that a forged
	// epoch number cannot make it spin.
	maxAhead = 1024
)
