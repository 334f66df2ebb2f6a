package abe

import (
	"testing"
	"time"
)

var poolNow = time.Unix(1_800_000_000, 0)

// fakeSlot is enough for the pool, which opens nothing.
func fakeSlot(n byte, labels map[string]string, generation uint32) *Slot {
	return &Slot{
		ID: SlotID{n}, Key: []byte{n}, Secret: Secret{n},
		Target: Target{testService, generation, ForSlot(SlotID{n})}, labels: labels,
	}
}

// fill gives the pool all that it needs and returns how many that were.
func fill(t *testing.T, p *Pool, now time.Time) (made int) {
	t.Helper()
	for n := byte(1); ; n++ {
		need, ok := p.Need(now)
		if !ok {
			return made
		}
		if _, ok := p.Add(fakeSlot(n, need.Labels, need.Generation), need.Cohort); !ok {
			t.Fatal("refused what it needed")
		}
		made++
	}
}

func TestPoolFillsTheEmptiestSet(t *testing.T) {
	p := NewPool(2, 8, testGeneration)
	if _, ok := p.Need(poolNow); ok {
		t.Error("an empty pool needs something")
	}
	p.Want(labels("tier", "app"))
	p.Want(labels("tier", "web"))
	p.Want(labels("tier", "web"))
	made := map[string]int{}
	for i := range 6 {
		need, ok := p.Need(poolNow)
		if !ok || need.Generation != testGeneration {
			t.Fatal("a pool that is not full needs nothing")
		}
		// The first of each set is the cohort's: it serves any number.
		if first := i < 2; need.Cohort != first || (need.Why == NeedFirst) != first || need.Why == NeedMore {
			t.Errorf("slot %d: %+v", i, need)
		}
		made[need.Labels["tier"]]++
		if _, ok := p.Add(fakeSlot(1, need.Labels, need.Generation), need.Cohort); !ok {
			t.Error("refused what it needed")
		}
		if a, b := made["app"], made["web"]; a-b > 1 || b-a > 1 {
			t.Errorf("filled unevenly: %d, %d", a, b)
		}
	}
	if made["app"] != 3 || made["web"] != 3 { // two and the cohort's each
		t.Errorf("made %v", made)
	}
	if _, ok := p.Need(poolNow); ok {
		t.Error("a full pool needs something")
	}
}

func TestPoolGivesEachSlotOnceAndOldestFirst(t *testing.T) {
	p, app := NewPool(3, 3, testGeneration), labels("tier", "app")
	p.Want(app)
	for n := range byte(3) {
		p.Add(fakeSlot(n+1, app, testGeneration), false)
	}
	for n := range byte(3) {
		if s, cohort, ok := p.Take(app, poolNow); !ok || cohort || s.ID != (SlotID{n + 1}) {
			t.Errorf("take %d: %v", n, ok)
		}
	}
	if _, _, ok := p.Take(app, poolNow); ok {
		t.Error("a slot was given twice")
	}
	if _, _, ok := p.Take(labels("tier", "db"), poolNow); ok || p.Len(labels("tier", "db")) != 0 {
		t.Error("a slot for labels that nobody wanted")
	}
}

func TestEmptyPoolGivesTheCohortSlotForAnHour(t *testing.T) {
	p, app := NewPool(2, 8, testGeneration), labels("tier", "app")
	p.Want(app)
	p.Want(labels("tier", "web"))
	fill(t, p, poolNow)
	own := map[SlotID]bool{}
	for range 2 {
		s, cohort, ok := p.Take(app, poolNow)
		if !ok || cohort || own[s.ID] {
			t.Fatal("a machine with a slot in the pool gets none of its own")
		}
		own[s.ID] = true
	}
	first, cohort, ok := p.Take(app, poolNow)
	if !ok || !cohort || own[first.ID] {
		t.Fatalf("an empty pool gives %v, cohort %v", ok, cohort)
	}
	if !p.OnlyCohort(app) || p.OnlyCohort(labels("tier", "web")) || p.OnlyCohort(labels("tier", "db")) {
		t.Error("OnlyCohort is not what Take would do")
	}
	if p.Invite(app, poolNow) || !p.Invite(labels("tier", "db"), poolNow) {
		t.Error("invited to what is not there, or not to what is made on the spot")
	}
	for _, want := range []bool{true, true, false} { // as many as there are
		if p.Invite(labels("tier", "web"), poolNow) != want {
			t.Errorf("invited: %v", !want)
		}
	}
	if !p.Invite(labels("tier", "web"), poolNow.Add(invitation)) {
		t.Error("an invitation that was not followed counts for ever")
	}
	second, _, _ := p.Take(app, poolNow.Add(time.Minute))
	if second.ID != first.ID || &second.Key[0] == &first.Key[0] {
		t.Error("the second of a cohort has another slot, or the same bytes in memory")
	}
	fill(t, p, poolNow.Add(CohortLife-time.Second))
	for { // there are slots again
		s, cohort, _ := p.Take(app, poolNow.Add(CohortLife-time.Second))
		if cohort {
			if s.ID != first.ID {
				t.Error("another cohort slot within the hour")
			}
			break
		}
	}
	later := poolNow.Add(CohortLife)
	if s, cohort, ok := p.Take(app, later); !ok || !cohort || s.ID != first.ID {
		t.Error("nothing to give while the next cohort slot is being made")
	}
	p.Add(fakeSlot(100, app, testGeneration), false)
	need, ok := p.Need(later)
	if !ok || !need.Cohort {
		t.Fatalf("after the hour the cohort needs %+v", need)
	}
	if former, ok := p.Add(fakeSlot(101, need.Labels, testGeneration), true); !ok || former != first.ID {
		t.Errorf("former cohort slot %v", former)
	}
	p.Take(app, later)
	if s, cohort, _ := p.Take(app, later); !cohort || s.ID != (SlotID{101}) || first.Key[0] == 0 {
		t.Error("the next hour's slot is not given, or a slot that was given out is wiped")
	}
}

func TestPoolKeepsAsManyAsWereTakenLately(t *testing.T) {
	p, app := NewPool(2, 16, testGeneration), labels("tier", "app")
	p.Want(app)
	if made := fill(t, p, poolNow); made != 3 { // two and the cohort's
		t.Fatalf("nobody came yet, and it wants %d", made)
	}
	now := poolNow.Add(30 * 24 * time.Hour)
	for range 9 {
		p.Take(app, now)
	}
	need, _ := p.Need(now)
	if need.Why != NeedLeast {
		t.Errorf("empty, it needs %+v", need)
	}
	p.Add(fakeSlot(1, app, testGeneration), false)
	p.Add(fakeSlot(2, app, testGeneration), false)
	if need, ok := p.Need(now); !ok || need.Why != NeedMore || need.Cohort {
		t.Errorf("with the least there is, it needs %+v", need)
	}
	if made := fill(t, p, now); p.Len(app) != 9 {
		t.Errorf("after 9 were taken it keeps %d, %d made", p.Len(app), made)
	}
	for range 100 {
		p.Take(app, now)
	}
	fill(t, p, now)
	if p.Len(app) != 16 {
		t.Errorf("after a storm it keeps %d, at most 16 are allowed", p.Len(app))
	}
	for hours, want := range []int{16, 8, 4, 2, 2} {
		p := NewPool(2, 16, testGeneration)
		p.Want(app)
		fill(t, p, now)
		for range 100 {
			p.Take(app, now)
		}
		fill(t, p, now.Add(time.Duration(hours)*poolHalf))
		if p.Len(app) != want {
			t.Errorf("%d hours after a storm it keeps %d, want %d", hours, p.Len(app), want)
		}
	}
}

func TestPoolOfOneKeepsNoCohort(t *testing.T) {
	p, app := NewPool(1, 1, testGeneration), labels("tier", "app")
	p.Want(app)
	if made := fill(t, p, poolNow); made != 1 {
		t.Errorf("made %d", made)
	}
}

func TestPoolWipesWhatItDoesNotKeep(t *testing.T) {
	p, app := NewPool(1, 1, testGeneration), labels("tier", "app")
	p.Want(app)
	kept := fakeSlot(1, app, testGeneration)
	p.Add(kept, false)
	for name, s := range map[string]*Slot{
		"surplus":        fakeSlot(2, app, testGeneration),
		"old generation": fakeSlot(2, app, testGeneration-1),
		"unwanted":       fakeSlot(2, labels("tier", "db"), testGeneration),
	} {
		if _, ok := p.Add(s, false); ok || s.Secret != (Secret{}) || s.Key[0] != 0 {
			t.Errorf("%s: kept or not wiped", name)
		}
	}
	p.Take(app, poolNow) // room again: now only the generation speaks against it
	if _, ok := p.Add(fakeSlot(3, app, testGeneration-1), false); ok {
		t.Error("a slot of the old generation was kept")
	}
	kept, held, next := fakeSlot(4, app, testGeneration), fakeSlot(5, app, testGeneration), fakeSlot(6, app, testGeneration)
	p.Add(kept, false)
	p.Add(held, true)
	p.Add(next, true)
	if held.Secret != (Secret{}) {
		t.Error("a former cohort slot survives")
	}
	p.Reset(testGeneration + 1)
	if kept.Secret != (Secret{}) || next.Secret != (Secret{}) || p.Len(app) != 0 {
		t.Error("slots of the old generation survive")
	}
	if need, ok := p.Need(poolNow); !ok || need.Generation != testGeneration+1 {
		t.Error("the new generation is not needed")
	}
}

func TestPoolForgetsWhatHasExpired(t *testing.T) {
	p, app := NewPool(2, 8, testGeneration), labels("tier", "app")
	p.Want(app)
	fill(t, p, poolNow)
	late, held := fakeSlot(101, app, testGeneration), fakeSlot(102, app, testGeneration)
	late.Expires, held.Expires = poolNow.Unix(), poolNow.Unix()+1
	p.Add(late, false)
	p.Add(held, true)
	if gone := p.Expire(poolNow); len(gone) != 1 || gone[0] != late.ID || late.Key[0] != 0 || p.Len(app) != 2 {
		t.Errorf("expired: %v, %d left", gone, p.Len(app))
	}
	if gone := p.Expire(poolNow.Add(time.Second)); len(gone) != 1 || gone[0] != held.ID {
		t.Errorf("expired: %v", gone)
	}
	if need, ok := p.Need(poolNow); !ok || !need.Cohort {
		t.Error("an expired cohort slot is not missed")
	}
}

func TestPoolForgetsLabelSetsThatNobodyUses(t *testing.T) {
	p, app, web := NewPool(2, 8, testGeneration), labels("tier", "app"), labels("tier", "web")
	p.Want(web)
	p.Ask(web, poolNow)
	p.Ask(app, poolNow)
	fill(t, p, poolNow)
	taken := poolNow.Add(setLife - time.Second)
	if s, _, ok := p.Take(app, taken); !ok || len(p.Expire(taken.Add(setLife-time.Second))) > 0 || p.Sets() != 2 {
		t.Fatalf("%v: a label set that is used is forgotten", s)
	}
	if gone := p.Expire(taken.Add(setLife)); len(gone) != 2 || p.Sets() != 1 || p.Len(app) != 0 {
		t.Errorf("%d keys of %d label sets are left of one that nobody uses, %d gone", p.Len(app), p.Sets(), len(gone))
	}
	if gone := p.Expire(poolNow.Add(1000 * setLife)); len(gone) != 0 || p.Len(web) != 2 {
		t.Error("a label set that is to stay is forgotten")
	}
	if _, ok := p.Add(fakeSlot(9, app, testGeneration), false); ok {
		t.Error("a key that was made for it meanwhile is kept")
	}
}

// Whoever shares a cohort's slot shares all labels, too: the key opens what
// those labels open, and nothing else.
func TestCohortKeyOpensItsLabelsAndNoMore(t *testing.T) {
	p, app := NewPool(1, 4, testGeneration), labels("tier", "app")
	p.Want(app)
	p.Want(labels("tier", "web"))
	p.Add(testSlot().clone(), true)
	one, _, _ := p.Take(app, poolNow)
	two, _, _ := p.Take(app, poolNow)
	if _, _, ok := p.Take(labels("tier", "web"), poolNow); ok {
		t.Fatal("other labels share the cohort")
	}
	for _, s := range []*Slot{one, two} {
		k, err := ParseKey(s.Key)
		if err != nil {
			t.Fatal(err)
		}
		if !opens(k, sealTierApp()) {
			t.Error("the labels' own policy does not open")
		}
		web, err := testAuthority().Params().SealTo(testRand("web"), target(Label("tier", "web")), Secret{1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Unseal(target(Label("tier", "web")), web); err == nil {
			t.Error("another label's policy opens")
		}
		other := ForSlot(SlotID{9})
		ct, err := testAuthority().Params().SealTo(testRand("slot 9"), target(other), Secret{1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Unseal(target(other), ct); err == nil {
			t.Error("another machine's slot opens")
		}
	}
}
