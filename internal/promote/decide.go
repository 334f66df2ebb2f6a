package promote

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"icvpn/internal/id"
)

// Act is what is decided about a member.
type Act uint8

// Acts.
const (
	Keep Act = iota
	Promote
	Demote
)

// String names the act.
func (a Act) String() string { return [...]string{"keep", "promote", "demote"}[a] }

// Reason says why.
type Reason uint8

// Reasons.
const (
	ReasonFit         Reason = iota // above the bar of its state
	ReasonMinimum                   // the cloud would have too few
	ReasonSilent                    // it did not answer
	ReasonUnavailable               // it answers too seldom
	ReasonSlow                      // it is slower than its cloud
	ReasonSurplus                   // the cloud has become smaller
	ReasonGone                      // it is no member any more
	NumReasons                      // how many there are
)

var reasonNames = [NumReasons]string{"fit", "minimum", "silent", "unavailable", "slow", "surplus", "gone"}

// String returns the reason as it stands in logs and metrics.
func (r Reason) String() string { return reasonNames[min(r, NumReasons-1)] }

// DemotionReasons returns those for which a helper is demoted.
func DemotionReasons() []Reason {
	return []Reason{ReasonSilent, ReasonUnavailable, ReasonSlow, ReasonSurplus, ReasonGone}
}

// Decision is what is decided about one member.
type Decision struct {
	Member
	Act    Act
	Reason Reason
}

// Helper is a member that is one now.
type Helper struct {
	Member
	Since time.Time
}

// Gone says that somebody is no member any more.
func (m *Machine) Gone(pid id.ID) []Decision {
	r := m.records[pid]
	delete(m.records, pid)
	if r == nil || !r.helper {
		return nil
	}
	return []Decision{{r.Member, Demote, ReasonGone}}
}

// Decide says what becomes of every helper, and who becomes one.
func (m *Machine) Decide(now time.Time) (all []Decision) {
	clouds := map[string][]*record{}
	for _, r := range m.sorted() {
		clouds[r.Cloud] = append(clouds[r.Cloud], r)
	}
	for _, name := range slices.Sorted(maps.Keys(clouds)) {
		c := &cloud{m: m, name: name, now: now, all: clouds[name], median: median(clouds[name])}
		c.decide()
		all = append(all, c.out...)
	}
	return all
}

// Helpers lists them: the first of each cloud, then the second of each, and in a
// cloud those that are it longest. So the first few are spread over the clouds, and
// the order changes as little as they do.
func (m *Machine) Helpers() (all []Helper) {
	type placed struct {
		Helper
		place int
	}
	var placedAll []placed
	for _, r := range m.records {
		if r.helper {
			placedAll = append(placedAll, placed{Helper{r.Member, r.since}, 0})
		}
	}
	older := func(a, b placed) int {
		return cmp.Or(a.Since.Compare(b.Since), bytes.Compare(a.PID[:], b.PID[:]))
	}
	slices.SortFunc(placedAll, older)
	count := map[string]int{}
	for i := range placedAll {
		placedAll[i].place = count[placedAll[i].Cloud]
		count[placedAll[i].Cloud]++
	}
	slices.SortStableFunc(placedAll, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.Cloud, b.Cloud))
	})
	for _, p := range placedAll {
		all = append(all, p.Helper)
	}
	return all
}

// median returns the median of the quantiles of those that answer.
func median(all []*record) time.Duration {
	var q []time.Duration
	for _, r := range all {
		if r.rttCount > 0 && r.misses == 0 {
			q = append(q, r.slow)
		}
	}
	if len(q) == 0 {
		return 0
	}
	slices.Sort(q)
	return q[(len(q)-1)/2]
}

// cloud decides about the members of one.
type cloud struct {
	m      *Machine
	name   string
	now    time.Time
	all    []*record // in order of PID
	median time.Duration
	out    []Decision
}

func (c *cloud) decide() {
	for _, r := range c.helpers() {
		// If nobody has answered since, it is we who are cut off.
		if r.misses >= deadAfter && c.m.answered.After(r.missedAt) {
			c.demote(r, ReasonSilent) // fit for nothing, whatever the minimum
		}
	}
	c.fill()
	c.weed()
	c.grow()
	for _, r := range c.helpers() {
		if !slices.ContainsFunc(c.out, func(d Decision) bool { return d.PID == r.PID }) {
			c.out = append(c.out, Decision{r.Member, Keep, ReasonFit})
		}
	}
}

func (c *cloud) helpers() (all []*record) {
	for _, r := range c.all {
		if r.helper {
			all = append(all, r)
		}
	}
	return all
}

// target is how many helpers the cloud is to have.
func (c *cloud) target() int {
	want := (c.m.members[c.name] + perHelper - 1) / perHelper
	return min(c.m.cfg.Max, max(c.m.cfg.Min, want))
}

// fill brings a cloud to its minimum: with those above the promotion bar, else
// with whoever answers, those last that were demoted lately.
func (c *cloud) fill() {
	for len(c.helpers()) < c.m.cfg.Min {
		r := c.best(func(r *record) bool { return r.answers >= urgentAnswers })
		if r == nil || !c.promote(r, ReasonMinimum) {
			return
		}
	}
}

// weed demotes who is below the demotion bar, if the cloud has enough without it
// or somebody above the promotion bar takes its place.
func (c *cloud) weed() {
	for _, r := range c.helpers() {
		why := c.unfit(r)
		if why == ReasonFit {
			continue
		}
		if len(c.helpers()) <= c.m.cfg.Min {
			other := c.best(c.fit)
			if other == nil || !c.promote(other, ReasonMinimum) {
				c.out = append(c.out, Decision{r.Member, Keep, ReasonMinimum})
				continue
			}
		}
		c.demote(r, why)
	}
}

// grow follows the size of the cloud, slowly: one too many is none too many.
func (c *cloud) grow() {
	n := len(c.helpers())
	switch {
	case n > c.m.cfg.Max, n > c.target()+1:
		helpers := c.helpers()
		last := slices.MaxFunc(helpers, func(a, b *record) int {
			return cmp.Or(a.since.Compare(b.since), bytes.Compare(a.PID[:], b.PID[:]))
		})
		c.demote(last, ReasonSurplus)
	case n < c.target() && c.now.Sub(c.m.promoted[c.name]) >= promoteEvery:
		if r := c.best(c.fit); r != nil {
			c.promote(r, ReasonFit)
		}
	}
}

// fit is the promotion bar.
func (c *cloud) fit(r *record) bool {
	return r.rttCount > 0 && r.misses == 0 && r.probes >= promoteProbes && !c.now.Before(r.barredUntil) &&
		c.now.Sub(r.Joined) >= promoteAge && r.available() >= promoteAvailable && r.slow <= scale(c.median, fastFactor)+fastSlack
}

// unfit is the demotion bar; ReasonFit for who is above it.
func (c *cloud) unfit(r *record) Reason {
	if r.slow <= scale(c.median, slowFactor)+slowSlack {
		r.slowSince = time.Time{}
	} else if r.slowSince.IsZero() {
		r.slowSince = c.now
	}
	switch {
	case r.probes >= promoteProbes && r.available() < demoteAvailable:
		return ReasonUnavailable
	case !r.slowSince.IsZero() && c.now.Sub(r.slowSince) >= slowLife:
		return ReasonSlow
	}
	return ReasonFit
}

func scale(d time.Duration, by float64) time.Duration { return time.Duration(by * float64(d)) }

// best returns the candidate to take of those that pass: one that is above the
// promotion bar, is not barred, another super peer has as a helper, joined first. Who
// has been there for long will be there for long (Saroiu et al. 2002; the reason
// why Kademlia keeps old contacts).
func (c *cloud) best(passes func(*record) bool) (best *record) {
	no := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	better := func(a, b *record) bool {
		return cmp.Or(
			cmp.Compare(no(c.fit(a)), no(c.fit(b))),
			cmp.Compare(no(!c.now.Before(a.barredUntil)), no(!c.now.Before(b.barredUntil))),
			cmp.Compare(no(a.Named), no(b.Named)),
			a.Joined.Compare(b.Joined),
			bytes.Compare(a.PID[:], b.PID[:]),
		) < 0
	}
	for _, r := range c.all {
		if !r.helper && passes(r) && (best == nil || better(r, best)) {
			best = r
		}
	}
	return best
}

// promote makes r a helper, unless the super peer has enough in all.
func (c *cloud) promote(r *record, why Reason) bool {
	n := 0
	for _, other := range c.m.records {
		if other.helper {
			n++
		}
	}
	if n >= MaxHelpers {
		return false
	}
	if c.fit(r) {
		why = ReasonFit
	}
	r.helper, r.since, r.slowSince = true, c.now, time.Time{}
	r.schedule(c.now)
	c.m.promoted[c.name] = c.now
	c.out = append(c.out, Decision{r.Member, Promote, why})
	return true
}

func (c *cloud) demote(r *record, why Reason) {
	r.helper = false
	if why != ReasonSurplus {
		r.bar(c.now)
	}
	r.schedule(c.now)
	c.out = append(c.out, Decision{r.Member, Demote, why})
}
