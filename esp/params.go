package esp

import "time"

// The specifications say.
const (
	headerLen  = 8  // SPI and sequence number (RFC 4303, Section 2)
	trailerLen = 2  // pad length and next header (RFC 4303, Section 2.4)
	cbcBlock   = 16 // AES block, also the IV's length (RFC 3602, Section 3)
	aeadIV     = 8  // explicit IV (RFC 4106, Section 3.1; RFC 7634, Section 2)
	aeadSalt   = 4  // implicit half of the nonce (RFC 4106, Section 4)
	aeadTag    = 16 // full-length ICV (RFC 4106, Section 6)
	sha256ICV  = 16 // HMAC-SHA2-256-128 (RFC 4868, Section 2.3)
	sha512ICV  = 32 // HMAC-SHA2-512-256
	aeadAlign  = 4  // ICV starts on a 4-byte boundary (RFC 4303, Section 2.4)

	ipv4Header = 20 // without options
	ipv6Header = 40
	udpHeader  = 8

	nextIPv4  = 4  // IPv4 in ESP (IANA protocol numbers)
	nextIPv6  = 41 // IPv6 in ESP
	nextDummy = 59 // "no next header": a dummy packet (RFC 4303, Section 2.6)

	// MinSPI is the lowest SPI that may be assigned: 0 is the non-ESP marker's
	// first half and 1 to 255 are reserved (RFC 4303, Section 2.1).
	MinSPI = 256

	maxSeq32 = 1<<32 - 1
	maxSeq64 = 1<<64 - 1
)

// We chose.
const (
	// DefaultWindow is the replay window in packets. 1024 would be a millisecond
	// at 10 Gbit/s, less than the reordering of several paths or queues.
	DefaultWindow = 8192
	minWindow     = 64      // one bitmap word; RFC 4303, Section 3.4.3 asks for 32
	maxWindow     = 1 << 20 // 256 KiB of bitmap per SA is where sense ends

	// MaxBytes is the default hard limit of encrypted bytes under one key. 2^40
	// bytes are 2^36 blocks: the chance of a CBC block collision stays below
	// 2^-56 (birthday bound of a 128-bit block).
	MaxBytes uint64 = 1 << 40
	// MaxPackets is the default hard limit on sequence numbers under one key. It
	// also bounds what an attacker may try against one key's ICV.
	MaxPackets uint64 = 1 << 32
	// MaxAge is the default hard limit on an SA's age.
	MaxAge = time.Hour

	// The soft limit is drawn per SA from softLow to softHigh, in 1/100 of a
	// percent of the hard one: 80 % on average. Without jitter both ends, and
	// all SAs born in one epoch change, would rekey at the same moment.
	softLow  = 7500
	softHigh = 8500
	softUnit = 10000
)

// Room a buffer needs around the inner packet, whatever the suite: constants,
// so that one buffer pool serves all SAs.
const (
	// Headroom is the room before the inner packet: ESP header and longest IV.
	// UDP encapsulation (RFC 3948) adds nothing to it.
	Headroom = headerLen + cbcBlock
	// Tailroom is the room after the inner packet: longest padding, pad length,
	// next header, longest ICV. TFC padding comes on top.
	Tailroom = cbcBlock - 1 + trailerLen + sha512ICV
)
