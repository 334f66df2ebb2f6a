package abe

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// Pool keeps slots ready, so that no admission waits for ABE: 20 keys a second
// and core is all that KeyGen gives. Of a label set it wants as many as were
// taken lately; what was taken counts half as much each hour.
//
// In a storm that empties a label set, newcomers share its cohort slot: one that
// was held back for that, the same for everybody until CohortLife after its
// first use. Their label sets are equal, so it opens what their own would; it
// only does not tell them apart (docs/adr/0020-abe-keys-in-a-storm.md).
//
// Pool makes nothing itself: its owner asks Need, decides by Need.Why whether it
// is the time for it, calls NewSlot and gives the result to Add. Safe for
// concurrent use.
type Pool struct {
	min, max int

	mu         sync.Mutex
	generation uint32
	sets       map[string]*poolSet // by labelSet
}

// CohortLife is how long one cohort slot is given out.
const CohortLife = time.Hour

// poolHalf is how long it takes for what was taken to count half.
const poolHalf = time.Hour

// setLife is how long a label set stays that Ask has named, after somebody has
// taken of it.
const setLife = 24 * time.Hour

type poolSet struct {
	labels map[string]string
	stays  bool      // Want has named it
	asked  time.Time // by Ask or Take
	slots  []*Slot
	demand int       // how many were taken, halved each poolHalf; at most Pool.max
	halved time.Time // last time it was

	cohort      *Slot
	cohortSince time.Time // when it was first given out; zero: it was not

	invited   int // to come for a slot of its own, lately
	invitedAt time.Time
}

// invitation is how long a slot is expected to be taken by whom Invite has said so to.
const invitation = 10 * time.Second

// NewPool returns a pool that wants at least min and at most max slots of each
// label set, all of one generation.
func NewPool(min, max int, generation uint32) *Pool {
	if min < 0 {
		min = 0
	}
	if max < min {
		max = min
	}
	return &Pool{min: min, max: max, generation: generation, sets: make(map[string]*poolSet)}
}

// Want names a label set to keep ready; its caller bounds how many there are.
func (p *Pool) Want(labels map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(labels).stays = true
}

// Ask is Want for a label set that nobody may ask for again: Expire forgets it a day
// after it was asked for or taken of.
func (p *Pool) Ask(labels map[string]string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(labels).asked = now
}

func (p *Pool) setLocked(labels map[string]string) *poolSet {
	name := labelSet(labels)
	s := p.sets[name]
	if s == nil {
		s = &poolSet{labels: maps.Clone(labels)}
		p.sets[name] = s
	}
	return s
}

// Sets returns how many label sets are wanted.
func (p *Pool) Sets() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sets)
}

// Need is a slot that the pool lacks.
type Need struct {
	Labels     map[string]string
	Generation uint32
	Cohort     bool // it is to be the cohort's
	Why        Urgency
}

// Urgency is how much a label set lacks.
type Urgency uint8

// What a pool may lack, the most urgent first.
const (
	NeedFirst Urgency = iota // a machine that came now would wait
	NeedLeast                // less than it always has
	NeedMore                 // less than was taken lately
)

// Need returns what is lacked most urgently, by the label set that has fewest
// slots; false when every set has what it wants.
func (p *Pool) Need(now time.Time) (n Need, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *poolSet
	var bestWhy Urgency
	name := ""
	for at, s := range p.sets {
		s.fade(now)
		why, lacks := p.lacks(s, now)
		if !lacks {
			continue
		}
		// Ties go by name, so that what is made does not depend on map order.
		if best == nil || why < bestWhy ||
			why == bestWhy && (len(s.slots) < len(best.slots) || len(s.slots) == len(best.slots) && at < name) {
			best, bestWhy, name = s, why, at
		}
	}
	if best == nil {
		return Need{}, false
	}
	return Need{Labels: maps.Clone(best.labels), Generation: p.generation, Cohort: p.cohortDue(best, now), Why: bestWhy}, true
}

// lacks says whether a set has less than it should, and how urgent that is.
func (p *Pool) lacks(s *poolSet, now time.Time) (why Urgency, lacks bool) {
	switch {
	case len(s.slots) == 0 && s.cohort == nil:
		return NeedFirst, p.max > 0
	case len(s.slots) < p.min || p.cohortDue(s, now):
		return NeedLeast, true
	}
	return NeedMore, len(s.slots) < min(s.demand, p.max)
}

// cohortDue says whether the next slot is to be the cohort's: there is none, and
// the first slot of all serves a storm best; or its hour has passed, and a lone
// newcomer finds a slot of his own.
func (p *Pool) cohortDue(s *poolSet, now time.Time) bool {
	if p.max < 2 {
		return false
	}
	return s.cohort == nil || len(s.slots) > 0 && !s.cohortSince.IsZero() && now.Sub(s.cohortSince) >= CohortLife
}

// fade forgets half of the demand for each poolHalf that has passed.
func (s *poolSet) fade(now time.Time) {
	for s.demand > 0 && now.Sub(s.halved) >= poolHalf {
		s.demand /= 2
		s.halved = s.halved.Add(poolHalf)
	}
}

// Add takes s, as the cohort's slot if cohort says so, and wipes it if the pool
// is of another generation, does not want its label set or has enough of it.
// It returns the cohort's former slot, wiped, so that nobody keeps it either.
func (p *Pool) Add(s *Slot, cohort bool) (former SlotID, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[labelSet(s.labels)]
	if set == nil || s.Target.Generation != p.generation || !cohort && len(set.slots) >= p.max {
		s.Wipe()
		return former, false
	}
	if !cohort {
		set.slots = append(set.slots, s)
		return former, true
	}
	if set.cohort != nil {
		former = set.cohort.ID
		set.cohort.Wipe()
	}
	set.cohort, set.cohortSince = s, time.Time{}
	return former, true
}

// Take returns a slot for labels and forgets it, oldest first; when none is
// ready, a copy of the cohort's; false when there is none either.
func (p *Pool) Take(labels map[string]string, now time.Time) (s *Slot, cohort, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[labelSet(labels)]
	if set == nil {
		return nil, false, false
	}
	p.want(set, now)
	if len(set.slots) > 0 {
		s := set.slots[0]
		set.slots[0] = nil
		set.slots = set.slots[1:]
		return s, false, true
	}
	if set.cohort == nil {
		return nil, false, false
	}
	if set.cohortSince.IsZero() {
		set.cohortSince = now
	}
	return set.cohort.clone(), true, true
}

// OnlyCohort says whether Take would return the cohort's slot: then who has one
// already may as well keep it, and Missed be told.
func (p *Pool) OnlyCohort(labels map[string]string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[labelSet(labels)]
	return set != nil && len(set.slots) == 0 && set.cohort != nil
}

// Invite says whether somebody who has the cohort's slot should come and Take: there
// is one of its own, and not everybody else was invited to that already.
func (p *Pool) Invite(labels map[string]string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[labelSet(labels)]
	if set == nil || set.cohort == nil {
		return true
	}
	if now.Sub(set.invitedAt) >= invitation {
		set.invited = 0
	}
	if set.invited >= len(set.slots) {
		return false
	}
	set.invited++
	set.invitedAt = now
	return true
}

// Missed counts somebody who wanted a slot of its own and took none.
func (p *Pool) Missed(labels map[string]string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set := p.sets[labelSet(labels)]; set != nil {
		p.want(set, now)
	}
}

// want counts that somebody wants a slot.
func (p *Pool) want(set *poolSet, now time.Time) {
	set.asked = now
	set.fade(now)
	if set.demand == 0 {
		set.halved = now
	}
	set.demand = min(set.demand+1, p.max)
}

// Expire wipes the slots that may not be given out any more, and those of label sets
// that nobody uses, and returns which.
func (p *Pool) Expire(now time.Time) (gone []SlotID) {
	unused := false
	expired := func(s *Slot) bool {
		if !unused && (s.Expires == 0 || now.Unix() < s.Expires) {
			return false
		}
		gone = append(gone, s.ID)
		s.Wipe()
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, set := range p.sets {
		unused = !set.stays && now.Sub(set.asked) >= setLife
		set.slots = slices.DeleteFunc(set.slots, expired)
		if set.cohort != nil && expired(set.cohort) {
			set.cohort = nil
		}
		if unused {
			delete(p.sets, name)
		}
	}
	return gone
}

// Len returns how many slots are ready for labels, the cohort's not counted.
func (p *Pool) Len(labels map[string]string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sets[labelSet(labels)]; s != nil {
		return len(s.slots)
	}
	return 0
}

// Reset moves to another generation and wipes all slots of the old one; label
// sets stay wanted.
func (p *Pool) Reset(generation uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation = generation
	for _, set := range p.sets {
		for _, s := range set.slots {
			s.Wipe()
		}
		if set.cohort != nil {
			set.cohort.Wipe()
		}
		set.slots, set.cohort = nil, nil
	}
}
