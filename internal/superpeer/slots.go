package superpeer

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"icvpn/abe"
	"icvpn/internal/discovery"
	"icvpn/internal/metrics"
	"icvpn/internal/service"
)

// We chose:
const (
	// slotDepth is how many ABE keys are kept ready for each label set at least.
	slotDepth = 4
	// maxSlotDepth bounds how many a storm makes us keep: some 600 kB.
	maxSlotDepth = 64
	// maxLabelSets bounds the label sets that keys are made ahead for. Those of the
	// secrets come first and stay; the others are what machines asked for within a
	// day.
	maxLabelSets = 64
	// expireTick is how often it is looked whether somebody's membership has ended.
	expireTick = time.Minute
)

// prepared is an attribute key for one admission.
type prepared struct {
	*abe.Slot
	cohort bool   // shared with others that were admitted in the same storm
	key    []byte // under which the ledger keeps it, nil if it does not
}

// slotCounts counts where keys came from, and to whom else than machines they
// went: handed to super peers that make none, and lacking where there was none.
type slotCounts struct {
	own, cohort, made, handed, lacking atomic.Uint64
	ahead                              meter // of keys made ahead
}

func (c *slotCounts) counts() (all []metrics.Count) {
	for name, n := range map[string]*atomic.Uint64{"own": &c.own, "cohort": &c.cohort, "made": &c.made, "handed": &c.handed, "lacking": &c.lacking} {
		all = append(all, metrics.Count{Name: name, N: n.Load()})
	}
	slices.SortFunc(all, func(x, y metrics.Count) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// slot returns an attribute key for labels: one made ahead, in a storm the
// cohort's, and only if there is neither, one that is made now, by whoever has the
// ABE master key.
func (a *authority) slot(labels map[string]string, now time.Time) (prepared, error) {
	attrs := discovery.Attributes(a.rules(), labels)
	a.pace.onTaken(now)
	s, cohort, ok := a.slots.Take(attrs, now)
	switch {
	case ok && cohort:
		a.slotCounts.cohort.Add(1)
		return prepared{Slot: s, cohort: true}, nil
	case ok:
		a.slotCounts.own.Add(1)
		return prepared{Slot: s, key: s.ID[:]}, nil
	}
	if a.slots.Sets() < maxLabelSets {
		a.slots.Ask(attrs, now) // the next one with these labels does not wait
	}
	if !a.makes() {
		return prepared{}, lacking("it has no attribute key left for " + service.LabelText(labels) + ", and cannot make one itself")
	}
	a.slotCounts.made.Add(1)
	s, err := a.abe.NewSlot(nil, attrs, a.trust().Descriptor.Generation)
	return prepared{Slot: s}, err
}

// giveBack takes back a key that nobody has seen.
func (a *authority) giveBack(p prepared) {
	if !p.cohort {
		a.slots.Add(p.Slot, false)
	}
}

// Values in the ledger: what the slot is for, then abe.Slot.Keep.
const (
	keptOwn    = 1
	keptCohort = 2
)

// restoreSlots takes the keys that an earlier process made into the pool, and
// forgets those that nobody wants any more, and all of an older copy: they may
// have been given to somebody after it was made.
func (a *authority) restoreSlots(now time.Time) error {
	var useless [][]byte
	older := !a.ledger.Restored(now).IsZero()
	err := a.ledger.Slots(func(key, value []byte) error {
		defer clear(value)
		if older {
			useless = append(useless, key)
			return nil
		}
		former, ok := a.restoreSlot(value)
		if !ok {
			useless = append(useless, key)
		} else if former != (abe.SlotID{}) {
			useless = append(useless, former[:])
		}
		return nil
	})
	return errors.Join(err, a.ledger.ForgetSlots(useless...))
}

func (a *authority) restoreSlot(value []byte) (former abe.SlotID, ok bool) {
	if len(value) == 0 {
		return former, false
	}
	s, err := abe.RestoreSlot(value[1:], a.trust().Service)
	if err != nil || s.Expires != 0 && time.Now().Unix() >= s.Expires {
		return former, false
	}
	return a.slots.Add(s, value[0] == keptCohort)
}

// makeSlot makes a key ahead.
func (a *authority) makeSlot(need abe.Need) error {
	var s *abe.Slot
	var err error
	a.slotCounts.ahead.do(func() { s, err = a.abe.NewSlot(rand.Reader, need.Labels, need.Generation) })
	if err != nil {
		return err
	}
	a.keepSlot(s, need.Cohort)
	return nil
}

// keepSlot puts a key into the pool and keeps it over restarts. It is kept before
// it can be given to anybody: afterwards it would come back from the dead.
func (a *authority) keepSlot(s *abe.Slot, cohort bool) {
	value := []byte{keptOwn}
	if cohort {
		value[0] = keptCohort
	}
	value = append(value, s.Keep()...)
	defer clear(value)
	if err := a.ledger.KeepSlot(s.ID[:], value); err != nil {
		a.log.Debug("attribute key not kept for the next start", "err", err)
	}
	id := s.ID
	useless, ok := a.slots.Add(s, cohort)
	if !ok {
		useless = id
	}
	if useless != (abe.SlotID{}) {
		a.forgetSlots(useless)
	}
}

func (a *authority) forgetSlots(ids ...abe.SlotID) {
	keys := make([][]byte, len(ids))
	for i := range ids {
		keys[i] = ids[i][:]
	}
	if err := a.ledger.ForgetSlots(keys...); err != nil {
		a.log.Debug("attribute key not forgotten", "err", err) // the next start tries again
	}
}

// expireLoop forgets members, tickets and keys whose time has passed.
func (s *SuperPeer) expireLoop(ctx context.Context) error {
	for sleep(ctx, expireTick) {
		s.authority.expire(time.Now())
		s.renewer.Expire(time.Now())
	}
	return nil
}

func (a *authority) expire(now time.Time) {
	a.forgetSlots(a.slots.Expire(now)...)
	gone, err := a.ledger.Expire(now)
	for _, e := range gone {
		if a.ledger.Member(e.PID()) == nil { // not back meanwhile
			a.roster.dropOwn(e.PID())
		}
	}
	if len(gone) > 0 {
		a.touch()
	}
	if err != nil {
		a.log.Warn("ended memberships not forgotten on disk", "err", err)
	}
}
