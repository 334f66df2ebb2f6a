package promote

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
)

// Member is somebody who may help.
type Member struct {
	PID   id.ID
	Cloud string
	// Addr is where it answers.
	Addr netip.AddrPort
	// Joined is when it became a member.
	Joined time.Time
	// Named says that another super peer has it as a helper: between equals it is
	// taken, so that the lists of all super peers grow alike.
	Named bool
}

// record is what is known of a member that is asked.
type record struct {
	Member
	helper bool
	since  time.Time // a helper since
	nextAt time.Time // to be asked
	asked  time.Time // last counted probe

	probes, answers, misses int // answers and misses in a row
	heard, weight           float64
	rtt                     [rtts]time.Duration
	rttCount                int
	slow                    time.Duration // their quantile

	missedAt    time.Time // the first of the misses in a row
	slowSince   time.Time
	barredUntil time.Time
	barred      int
	demoted     time.Time
}

// probed counts a probe: how long a state was lasts as long as until it was looked
// at, so a member that is asked more often is not judged by more.
func (r *record) probed(now time.Time, rtt time.Duration, answered bool) {
	since := helperEvery
	if !r.asked.IsZero() {
		since = max(0, now.Sub(r.asked))
	}
	r.asked = now
	keep := math.Exp(-since.Seconds() / memory.Seconds())
	r.heard *= keep
	r.weight = r.weight*keep + 1 - keep
	r.probes++
	if !answered {
		if r.misses == 0 {
			r.missedAt = now
		}
		r.answers, r.misses = 0, r.misses+1
		return
	}
	r.heard += 1 - keep
	r.answers, r.misses = r.answers+1, 0
	r.rtt[r.rttCount%rtts] = rtt
	r.rttCount++
	r.slow = r.quantileOf()
}

// available is the decayed share of time at which probes were answered.
func (r *record) available() float64 {
	if r.weight == 0 {
		return 0
	}
	return r.heard / r.weight
}

// quantileOf returns the quantile of the round trips that are kept.
func (r *record) quantileOf() time.Duration {
	all := r.rtt
	n := min(r.rttCount, rtts)
	slices.Sort(all[:n])
	return all[int(quantile*float64(n-1))]
}

// schedule sets when r is asked next.
func (r *record) schedule(now time.Time) {
	wait := candidateEvery
	switch {
	case r.misses > 0 && r.helper:
		wait = missedEvery
	case r.misses > 0:
		wait = min(silentEvery, helperEvery<<min(r.misses, 10))
	case r.helper, r.probes < promoteProbes:
		wait = helperEvery
	}
	r.nextAt = now.Add(wait)
}

// bar keeps r from being promoted for a while.
func (r *record) bar(now time.Time) {
	if now.Sub(r.demoted) > barForget {
		r.barred = 0
	}
	r.barredUntil = now.Add(min(barLifeMax, barLife<<min(r.barred, 10)))
	r.barred++
	r.demoted = now
}
