package keyex

import "time"

// What docs/protocol/keyex.md says.
const (
	version = 1

	// headerSize is msg 1, index 1, total 1, X 32, cookie 17.
	headerSize = 52

	// fragmentSize is the body a datagram carries at most: 1232 bytes of UDP
	// payload on a 1280-byte path, less relay header, seal and both headers.
	fragmentSize = 1088

	// maxFragments makes a message of three datagrams impossible.
	maxFragments = 2

	// HelloPlain is the padded plaintext length of M1 and M2 datagrams: equal,
	// so that the answer is never larger than the question.
	HelloPlain = 256

	maxM1 = 160
	maxM2 = 96
	maxM3 = 2152
	maxM4 = 1832

	// MaxCredential bounds a credential, so that M3 and M4 fit two datagrams.
	MaxCredential = 600

	maxGroups = 4
	maxSuites = 6

	// MaxPaths is how many endpoints an M1 goes to.
	MaxPaths = 8

	// MaxExtended is how many more it goes to once those have been silent.
	MaxExtended = 2

	// minSPI: values below are reserved (RFC 4303, Section 2.1).
	minSPI = 256

	// cookieRotation is the life of one cookie key; the last two are valid, so
	// a cookie lives for at most twice this.
	cookieRotation = 60 * time.Second

	// answerLife is how long an M4 is kept for repeated M3s. It exceeds the
	// life of a cookie, so an M3 can never be answered twice with new keys.
	answerLife = 150 * time.Second

	// Fragment buffers: one incomplete M3 each.
	fragmentLife       = 3 * time.Second
	fragmentsPerSource = 64 // per IPv4 address or IPv6 /64
	fragmentsPerRelay  = 4  // per relay allocation
	fragmentsTotal     = 2048
)

// What the protocol asks of the caller, who owns the SAs.
const (
	// UnconfirmedLife is how long a responder keeps a pair on which no ESP
	// packet has verified yet, MaxUnconfirmed how many of one peer.
	UnconfirmedLife = 30 * time.Second
	MaxUnconfirmed  = 2

	// ConfirmWait is how long traffic waits for a responder's pair to be
	// confirmed before an exchange of our own is begun. The peer may have given
	// up long ago, if its M3 was delayed on the way. (We chose this one.)
	ConfirmWait = 5 * time.Second

	// OldInboundLife is how long an inbound SA outlives its replacement.
	OldInboundLife = 30 * time.Second

	// DuplicateLife is how long the losing one of two pairs from a
	// simultaneous start lives on; see [Result.Preferred].
	DuplicateLife = 10 * time.Second
)

// What we chose.
const (
	// maxAttempts is how many exchanges, each with a new nonce, one Initiate
	// makes when M3 stays unanswered: a forged or stale M2 leads to an M3 that
	// the peer must ignore.
	maxAttempts = 2

	// maxOwn bounds exchanges under way: a full mesh of that many peers.
	maxOwn = 4096

	// maxAnswers bounds M4s kept, 2 kB each; maxAnswersPerPeer is the quota per
	// PID, which only a good signature uses up.
	maxAnswers        = 4096
	maxAnswersPerPeer = 32

	// M3s that get as far as a signature check, per source and window: what
	// one address may cost is 64 verifications in 2 s, about 5 ms.
	sourceWindow      = 2 * time.Second
	requestsPerSource = 64
	requestsPerRelay  = 4
	maxSources        = 4096

	// requestsPerRelayHost is of all allocations at one relay, which may make them
	// up. A machine has 16 relays at most (internal/relay), which then take half of
	// the table. An allocation's quota is one member's, and what one exchange
	// needs, so that it takes many members to use up an honest relay's.
	requestsPerRelayHost = 128

	// fragmentsPerRelayHost keeps one relay from filling all buffers with
	// allocations it makes up.
	fragmentsPerRelayHost = 512

	// Verified credentials are remembered by hash: dates, revocation and policy
	// are looked at again after a minute, or at once after SetPolicy.
	maxCredentials = 1024
	credentialLife = time.Minute

	// maxRelayName bounds Path.Relay, an internal handle.
	maxRelayName = 255

	// spiTries is how often NewSPI is asked before giving up; a second try is
	// needed once in 2^32 / (exchanges under way).
	spiTries = 8

	// jitterShare: waits are spread by up to a quarter either way, so that
	// peers that lost the same link do not come back in step.
	jitterShare = 4
)

// Waits after each transmission; the number of entries is the number of
// transmissions. Short and even rather than doubling: under 30 % loss of
// datagrams each way half of all M1 and more M3 tries fail, and doubling from
// 0.5 s to 8 s then takes 20 s in one of ten exchanges and gives up in one of
// twenty (TestThirtyPercentLossCompletesWithinTenSeconds holds the figure).
var (
	helloWaits = repeat(4, 500*time.Millisecond, 6, time.Second)
	shareWaits = repeat(8, 500*time.Millisecond, 4, time.Second)
)

// repeat returns n times a followed by m times b.
func repeat(n int, a time.Duration, m int, b time.Duration) []time.Duration {
	w := make([]time.Duration, 0, n+m)
	for range n {
		w = append(w, a)
	}
	for range m {
		w = append(w, b)
	}
	return w
}
