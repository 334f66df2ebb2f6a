package admission

import "time"

// What the specifications say.
const (
	// ALPN names this protocol in the TLS handshake.
	ALPN = "icvpn/1"

	// exporterChannel is the tls-exporter channel binding of RFC 9266,
	// Section 2: public, never used as key material.
	exporterChannel = "EXPORTER-Channel-Binding"

	// exporterContinuity is key material: it feeds the ratchet of session keys.
	exporterContinuity = "EXPORTER-icvpn-continuity"

	// hashSize is SHA-256's, which is H in every formula of this package.
	hashSize = 32

	// exponentSize is the length of a and b: RFC 5054, Sections 2.5.3 and
	// 2.5.4, ask for 256 bits at least. More would be wasted, since x and u
	// are 256-bit hashes too and cap the strength at 128 bits.
	exponentSize = 32

	// macLabel and the others end in one zero byte on the wire (wire.Label).
	labelSRP        = "icvpn/1 srp mac"
	labelClient     = "c"
	labelServer     = "s"
	labelContinuity = "icvpn/1 continuity"
	labelEnrol      = "icvpn/1 enrol"
	labelContinue   = "icvpn/1 continue"
)

// What we chose.
const (
	version = 1 // of the frames in this package

	// SaltSize is the length of every salt, real or fake: one size, so that
	// it tells nobody which it is.
	SaltSize = 16

	// MinSecret is the least a secret made by the tool may have: 128 bits.
	MinSecret = 16
	// MinPassphrase is the least a secret chosen by a person may have. It
	// refuses the careless; argon2id and the limits on tries do the rest.
	MinPassphrase = 12
	maxSecret     = 1024

	// maxSecretID bounds a secret's name. The alphabet excludes ':', which
	// separates I from P in x.
	maxSecretID = 64

	// argon2id, client side only: 64 MiB and one pass cost 46 ms of one core.
	// Fixed, so that no peer can ask for more.
	argonTime    = 1
	argonMemory  = 64 << 10 // KiB
	argonThreads = 1

	labelArgonSalt       = "icvpn/1 argon2id"
	labelFakeSalt        = "icvpn/1 fake salt"
	labelFakeV           = "icvpn/1 fake verifier"
	labelContinued       = "icvpn/1 continued"
	labelGrant           = "icvpn/1 continued grant"
	labelTicket          = "icvpn/1 ticket"
	labelTicketKid       = "icvpn/1 ticket kid"
	labelTicketKey       = "icvpn/1 ticket key"
	labelTicketSignature = "icvpn/1 ticket signature"
	labelTicketOwn       = "icvpn/1 own ticket"

	labelDatagram        = "icvpn/1 datagram"
	labelDatagramOffer   = "icvpn/1 datagram offer"
	labelDatagramCookie  = "icvpn/1 datagram cookie"
	labelDatagramRequest = "icvpn/1 datagram request"
	labelDatagramRatchet = "icvpn/1 datagram ratchet"
	labelDatagramGrant   = "icvpn/1 datagram grant"
)

// Limits of a frame's body in bytes. A machine's Limit is the largest of those
// it would accept next.
const (
	maxRoot       = 8 << 10
	maxDescriptor = 64 << 10

	limitEarly      = 4 << 10                      // what a client may send at once before it is authenticated ...
	limitContinue   = 6 << 10                      // ... but for a ticket with its request
	limitDescriptor = maxRoot + maxDescriptor + 32 // and CBOR heads, clock
	limitChallenge  = 1 << 10                      // 4096 bits are 512 B
	limitAccept     = 64 << 10                     // ABE public parameters are 3.3 kB
	limitProvision  = 32 << 10                     // an ABE or HPKE sealed request
	limitGrant      = 256 << 10                    // ABE key, credential, policy
	limitTicket     = 1 << 10
	limitMemo       = 256
	limitList       = 16 << 10
	limitListReply  = 1 << 20 // 1,700 records of 600 B
	limitRefused    = 1 << 10
	maxDetail       = 256
	maxOther        = 255

	// maxUnixMs keeps peers' clocks inside what a CBOR reader in any language
	// holds exactly, and far inside int64.
	maxUnixMs = 1 << 53
)

// CertificateLife bounds how long one TLS certificate of a super peer is shown.
// No peer looks at its dates; whoever finds a copy of it should.
const CertificateLife = 30 * 24 * time.Hour

// Timeout is how long the conductor lets one admission take, from TCP accept
// to the last frame: argon2id, a loaded super peer and a 300 ms path fit in.
const Timeout = 20 * time.Second
