package admission

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// ThrottleConfig bounds wrong proofs. The zero value has the defaults.
type ThrottleConfig struct {
	// Rate is wrong proofs per minute for one secret ID from strangers
	// everywhere, default 60: 2^25 guesses a year, which is far from finding
	// what 12 characters and argon2id hide.
	Rate float64
	// Burst is how many may come at once, default 120.
	Burst float64
	// SourceRate is wrong proofs per minute for one secret ID from one IPv4
	// /24 or IPv6 /56, default 10: less than Rate, so that one source alone
	// cannot use up a secret's share.
	SourceRate float64
	// SourceBurst is how many may come at once, default 20: as many machines
	// that boot behind one address with the same old token.
	SourceBurst float64
}

func (c ThrottleConfig) withDefaults() ThrottleConfig {
	if c.Rate <= 0 {
		c.Rate = 60
	}
	if c.Burst <= 0 {
		c.Burst = 120
	}
	if c.SourceRate <= 0 {
		c.SourceRate = 10
	}
	if c.SourceBurst <= 0 {
		c.SourceBurst = 20
	}
	return c
}

// Source is where a peer comes from, as the conductor sees it.
type Source struct {
	Addr netip.Addr
	// Known says that somebody was admitted from Addr lately. What strangers
	// guess elsewhere does not count against it.
	Known bool
}

// Throttle bounds online guessing: a proof takes a token from its secret ID's
// bucket and from that of its secret ID and source; a right one gives both
// back. With either one empty the answer is CodeBusy, which makes no peer drop
// its secret, whether the proof would have been right or not.
//
// Nobody is locked out for good: buckets refill, a source's failures do not
// count against other sources beyond the secret's share, and the failures of
// strangers not at all against a known source. What a guesser with enough
// sources can do is to keep newcomers with one secret waiting as long as he
// goes on; they need his secret ID's bucket too.
//
// The tables are of fixed size and indexed by a keyed hash. Secret IDs that do
// not exist are counted like those that do, so the answers tell nothing about
// them, and no flood of names makes a table grow or forgets an entry. At the
// Limiter's TotalRate, names that are spread over the tables by chance refill
// faster than they empty.
//
// It is safe for concurrent use. A nil Throttle allows everything.
type Throttle struct {
	cfg  ThrottleConfig
	seed maphash.Seed

	mu       sync.Mutex
	bySecret [4096]bucket  // 128 KiB
	bySource [16384]bucket // 512 KiB
}

// NewThrottle returns a throttle with full buckets.
func NewThrottle(cfg ThrottleConfig) *Throttle {
	return &Throttle{cfg: cfg.withDefaults(), seed: maphash.MakeSeed()}
}

// secretAndSource is what the second table counts.
type secretAndSource struct {
	secretID string
	prefix   netip.Prefix
}

func (t *Throttle) bucketsLocked(secretID string, from Source) (secret, source *bucket) {
	s := maphash.String(t.seed, secretID) % uint64(len(t.bySecret))
	p := maphash.Comparable(t.seed, secretAndSource{secretID, limitPrefix(from.Addr)}) % uint64(len(t.bySource))
	return &t.bySecret[s], &t.bySource[p]
}

// open says whether a proof would be looked at now. It takes nothing: whoever
// stops before his proof has guessed nothing.
func (t *Throttle) open(now time.Time, secretID string, from Source) bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.openLocked(now, secretID, from)
}

func (t *Throttle) openLocked(now time.Time, secretID string, from Source) bool {
	secret, source := t.bucketsLocked(secretID, from)
	return source.level(now, t.cfg.SourceRate/60, t.cfg.SourceBurst) >= 1 &&
		(from.Known || secret.level(now, t.cfg.Rate/60, t.cfg.Burst) >= 1)
}

// take counts a proof before it is looked at, so that proofs in flight
// together stay under the bounds too. It is false, and counts nothing, when
// there were too many wrong ones.
func (t *Throttle) take(now time.Time, secretID string, from Source) bool {
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.openLocked(now, secretID, from) {
		return false
	}
	secret, source := t.bucketsLocked(secretID, from)
	source.spent++
	if !from.Known {
		secret.spent++
	}
	return true
}

// giveBack undoes take: the proof was right.
func (t *Throttle) giveBack(secretID string, from Source) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	secret, source := t.bucketsLocked(secretID, from)
	source.spent = max(0, source.spent-1)
	if !from.Known {
		secret.spent = max(0, secret.spent-1)
	}
}
