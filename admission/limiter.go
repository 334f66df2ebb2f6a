package admission

import (
	"container/list"
	"net/netip"
	"time"
)

// LimiterConfig bounds admissions per source and in all. The zero value has
// the defaults.
type LimiterConfig struct {
	// Rate is admissions per second from one IPv4 /24 or IPv6 /56, default 5.
	Rate float64
	// Burst is how many one prefix may start at once, default 64: a deployment
	// boots its machines together.
	Burst float64
	// TotalRate is admissions per second from everywhere, default 500: about
	// half of what one core computes (docs/protocol/admission.md).
	TotalRate float64
	// TotalBurst defaults to two seconds of TotalRate.
	TotalBurst float64
	// Prefixes bounds the table, default 4096 (some 600 KiB). When it is full
	// of prefixes that are not at rest, newcomers share one bucket.
	Prefixes int
}

func (c LimiterConfig) withDefaults() LimiterConfig {
	if c.Rate <= 0 {
		c.Rate = 5
	}
	if c.Burst <= 0 {
		c.Burst = 64
	}
	if c.TotalRate <= 0 {
		c.TotalRate = 500
	}
	if c.TotalBurst <= 0 {
		c.TotalBurst = 2 * c.TotalRate
	}
	if c.Prefixes <= 0 {
		c.Prefixes = 4096
	}
	return c
}

// Limiter is a token bucket per source prefix and one for all. It reads no
// clock and is not safe for concurrent use.
type Limiter struct {
	cfg      LimiterConfig
	total    bucket
	overflow bucket // shared by prefixes that found no room
	byPrefix map[netip.Prefix]*list.Element
	recent   *list.List // of *prefixBucket, least recently admitted first
}

type prefixBucket struct {
	prefix netip.Prefix
	bucket bucket
}

// NewLimiter returns a limiter with full buckets.
func NewLimiter(cfg LimiterConfig) *Limiter {
	return &Limiter{cfg: cfg.withDefaults(), byPrefix: map[netip.Prefix]*list.Element{}, recent: list.New()}
}

// Allow says whether an admission from addr may start at now, and counts it if
// so. A prefix that is over its rate takes nothing from the others' share.
func (l *Limiter) Allow(now time.Time, addr netip.Addr) bool {
	b, use := l.find(now, limitPrefix(addr))
	if b.level(now, l.cfg.Rate, l.cfg.Burst) < 1 || l.total.level(now, l.cfg.TotalRate, l.cfg.TotalBurst) < 1 {
		return false
	}
	b.spent++
	l.total.spent++
	use()
	return true
}

// find returns the bucket of prefix, and what to do once it was used. A prefix
// that is refused never enters the table.
func (l *Limiter) find(now time.Time, prefix netip.Prefix) (*bucket, func()) {
	if e, ok := l.byPrefix[prefix]; ok {
		return &e.Value.(*prefixBucket).bucket, func() { l.recent.MoveToBack(e) }
	}
	if len(l.byPrefix) >= l.cfg.Prefixes {
		oldest := l.recent.Front()
		p := oldest.Value.(*prefixBucket)
		// Only a bucket that has refilled can go without being forgiven.
		if p.bucket.level(now, l.cfg.Rate, l.cfg.Burst) < l.cfg.Burst {
			return &l.overflow, func() {}
		}
		l.recent.Remove(oldest)
		delete(l.byPrefix, p.prefix)
	}
	p := &prefixBucket{prefix: prefix}
	return &p.bucket, func() { l.byPrefix[prefix] = l.recent.PushBack(p) }
}

// bucket counts what was spent and forgets it at a rate; its zero value is full.
type bucket struct {
	spent float64
	at    time.Time
}

// level returns how much is left at now. A clock that steps back refills
// nothing.
func (b *bucket) level(now time.Time, rate, burst float64) float64 {
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.spent = max(0, b.spent-d*rate)
		b.at = now
	}
	return burst - b.spent
}

// limitPrefix returns the /24 or /56 that counts as one source: less would let
// a household or a small rack count many times.
func limitPrefix(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 56
	if addr.Is4() {
		bits = 24
	}
	p, err := addr.Prefix(bits)
	if err != nil { // the zero Addr: all such sources are one
		return netip.Prefix{}
	}
	return p
}
