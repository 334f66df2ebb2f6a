package overlay

import (
	"net/netip"
	"time"
)

// limiter is a token bucket per prefix or peer, K. It reads no clock and has no
// lock. A bucket that is full again is forgotten, so it holds only those who
// were busy lately; beyond maxLimiterKeys of those newcomers share one bucket.
type limiter[K comparable] struct {
	rate  float64 // tokens a second
	burst float64
	keys  map[K]bucketState
	swept time.Time
}

type bucketState struct {
	tokens float64
	at     time.Time
}

func newLimiter[K comparable](perSecond int) *limiter[K] {
	return &limiter[K]{
		rate:  float64(perSecond),
		burst: 2 * float64(perSecond),
		keys:  make(map[K]bucketState),
	}
}

// take takes a token of key. If there is none it returns how long until there
// will be: the token is then taken in advance if inAdvance, else not at all.
func (l *limiter[K]) take(now time.Time, key K, inAdvance bool) time.Duration {
	s, ok := l.keys[key]
	if !ok && len(l.keys) >= maxLimiterKeys && now.Sub(l.swept) >= limiterSweep {
		l.sweep(now)
	}
	if !ok && len(l.keys) >= maxLimiterKeys {
		var shared K
		key = shared
		s, ok = l.keys[key]
	}
	if !ok {
		s = bucketState{l.burst, now}
	}
	s.tokens = min(l.burst, s.tokens+l.rate*max(0, now.Sub(s.at).Seconds()))
	s.at = now
	var wait time.Duration
	if s.tokens < 1 {
		wait = time.Duration((1 - s.tokens) / l.rate * float64(time.Second))
	}
	if wait == 0 || inAdvance {
		s.tokens--
	}
	l.keys[key] = s
	return wait
}

// sweep forgets the keys whose bucket is full.
func (l *limiter[K]) sweep(now time.Time) {
	l.swept = now
	for key, s := range l.keys {
		if s.tokens+l.rate*now.Sub(s.at).Seconds() >= l.burst {
			delete(l.keys, key)
		}
	}
}

// sourcePrefix is what one party is taken to control: a /24 or a /56.
func sourcePrefix(a netip.Addr) netip.Prefix {
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // invalid only for an invalid address: one key for all
	return p
}

// host is the address alone, as a limiter's key.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
