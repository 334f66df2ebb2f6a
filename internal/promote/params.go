package promote

import "time"

// We chose (docs/protocol/helpers.md):
const (
	// DefaultMin and DefaultMax helpers are in each cloud; in between one for each
	// perHelper members. Two, so that one may die while the other answers.
	DefaultMin = 2
	DefaultMax = 8
	perHelper  = 50

	// MaxHelpers and MaxCandidates are what one super peer asks at all;
	// leastCandidates of them are kept for each cloud.
	MaxHelpers      = 32
	MaxCandidates   = 64
	leastCandidates = 4

	// helperEvery is the time between two probes of a helper, missedEvery after one
	// that was not answered. With deadAfter misses a dead helper is known after
	// 8 + 4 * 3 s and the last wait for an answer.
	helperEvery = 8 * time.Second
	missedEvery = 3 * time.Second
	deadAfter   = 5
	// ProbeTimeout is how long an answer is waited for.
	ProbeTimeout = 2 * time.Second
	// candidateEvery is the time between two probes of a candidate that answers;
	// helperEvery while little is known of it. One that does not answer is asked
	// after twice as long each time, up to silentEvery.
	candidateEvery = time.Minute
	silentEvery    = 15 * time.Minute
	// After restAfter misses in a row a candidate gives its place to another member, for
	// restLife.
	restAfter = 5
	restLife  = 15 * time.Minute
	// maxResting bounds what is remembered of those.
	maxResting = 4096

	// memory is the time constant of the availability: what was half an hour ago
	// counts 1/e of what is now.
	memory = 30 * time.Minute

	// The promotion bar: so old, so many probes, so available, and not slower than
	// fastFactor times the cloud's median and fastSlack more.
	promoteAge       = 10 * time.Minute
	promoteProbes    = 6
	promoteAvailable = 0.95
	fastFactor       = 1.5
	fastSlack        = 5 * time.Millisecond
	// promoteEvery is the time between two promotions of a cloud above its minimum.
	promoteEvery = time.Minute

	// The bar of a cloud below its minimum: so many answers in a row.
	urgentAnswers = 3

	// The demotion bar: less available, or slower than slowFactor times the median and
	// slowSlack more for slowLife.
	demoteAvailable = 0.80
	slowFactor      = 3
	slowSlack       = 20 * time.Millisecond
	slowLife        = 5 * time.Minute

	// Whoever was demoted is barred for barLife, twice as long each time, up to
	// barLifeMax; a day without a demotion makes it as good as new.
	barLife    = 10 * time.Minute
	barLifeMax = 4 * time.Hour
	barForget  = 24 * time.Hour

	// rtts are kept of each, and their quantile counts: one in four may be slow.
	rtts     = 16
	quantile = 0.75
)
