package superpeer

import (
	"encoding/binary"
	"testing"
	"time"

	"icvpn/abe"
	"icvpn/internal/discovery"
	"icvpn/internal/ledger"
	"icvpn/internal/wire"
)

// lull is a super peer whose keys cost nothing, and a clock.
type lull struct {
	t    *testing.T
	s    *SuperPeer
	now  time.Time
	made int
}

func newLull(t *testing.T, least, most int) *lull {
	s, _ := newTestSuper(t, new(ledger.Memory), nil)
	a := s.authority
	a.slots = abe.NewPool(least, most, a.trust().Descriptor.Generation)
	a.slots.Want(a.attributes("web"))
	a.slots.Want(a.attributes("app"))
	return &lull{t: t, s: s, now: time.Now()}
}

func (a *authority) attributes(role string) map[string]string {
	return discovery.Attributes(a.rules(), map[string]string{"role": role})
}

// pass lets time pass as idleLoop does, and returns how many keys it made.
func (l *lull) pass(d time.Duration) (made int) {
	l.t.Helper()
	for end := l.now.Add(d); l.now.Before(end); l.now = l.now.Add(idleTick) {
		for {
			need, ok := l.s.due(l.now)
			if !ok {
				break
			}
			l.made++
			made++
			if _, ok := l.s.authority.slots.Add(l.fake(need), need.Cohort); !ok {
				l.t.Fatalf("%+v was not wanted", need)
			}
			l.s.authority.pace.onMade(l.now)
		}
	}
	return made
}

// fake returns a slot that opens nothing.
func (l *lull) fake(need abe.Need) *abe.Slot {
	l.t.Helper()
	id := binary.BigEndian.AppendUint64(make([]byte, abe.SlotSize-8), uint64(l.made))
	kept := wire.Marshal([]any{2, id, need.Generation, need.Labels, []byte{1}, []byte{1}, make([]byte, abe.SecretSize), 0})
	slot, err := abe.RestoreSlot(kept, l.s.authority.trust().Service)
	if err != nil {
		l.t.Fatal(err)
	}
	return slot
}

// storm admits n machines of a role, one in each of every, and returns how many
// keys were made ahead meanwhile.
func (l *lull) storm(n int, role string, every time.Duration) (made int) {
	l.t.Helper()
	for range n {
		if _, err := l.s.authority.slot(map[string]string{"role": role}, l.now); err != nil {
			l.t.Fatal(err)
		}
		made += l.pass(every)
	}
	return made
}

func TestFirstKeysAreMadeAtOnceAndTheOthersSlowly(t *testing.T) {
	l := newLull(t, 4, 64)
	if made := l.pass(idleTick); made != 2 || !l.s.Ready() {
		t.Fatalf("at once %d keys, ready %v; want the cohort's of both roles", made, l.s.Ready())
	}
	if made := l.pass(2 * time.Second); made > 4 {
		t.Errorf("%d keys in 2 s, want one in each half of one", made)
	}
	if made := l.pass(time.Minute); l.made != 2+8 {
		t.Errorf("%d keys in all, %d in the last minute; want 4 of each role and the cohorts'", l.made, made)
	}
	if made := l.pass(24 * time.Hour); made != 0 {
		t.Errorf("%d keys in a day without anybody", made)
	}
}

func TestNoKeysAreMadeInTheLullsOfAStorm(t *testing.T) {
	l := newLull(t, 4, 64)
	l.pass(time.Minute)
	if made := l.storm(200, "web", 100*time.Millisecond); made != 0 {
		t.Errorf("%d keys made ahead in a storm of 20 s", made)
	}
	if n := l.s.authority.slotCounts.made.Load(); n != 0 {
		t.Errorf("%d machines waited for a key", n)
	}
	if made := l.pass(calm - time.Second); made != 0 {
		t.Errorf("%d keys made before it is calm", made)
	}
	if made := l.pass(5 * time.Second); made < 4 || made > 6 {
		t.Errorf("%d keys made when it is calm, want the 4 of always", made)
	}
	if made := l.pass(time.Minute); made != 12 {
		t.Errorf("%d keys in a minute, want one in 5 s", made)
	}
	l.pass(10 * time.Minute)
	if n := l.s.authority.slots.Len(l.s.authority.attributes("web")); n != 64 {
		t.Errorf("after a storm of 200 it keeps %d keys, want 64", n)
	}
	if n := l.s.authority.slots.Len(l.s.authority.attributes("app")); n != 4 {
		t.Errorf("of the role that nobody asked for it keeps %d keys, want 4", n)
	}
}

func TestKeysForAStormAreNotMadeWhenItIsLongPast(t *testing.T) {
	l := newLull(t, 4, 64)
	l.pass(time.Minute)
	l.storm(200, "web", 0)
	l.now = l.now.Add(10 * time.Hour)
	if made := l.pass(time.Hour); made != 4+1 { // and a cohort key for the one that was given
		t.Errorf("%d keys made long after a storm, want the 4 of always and the cohort's", made)
	}
}

func TestMachinesWithoutAPauseGetAKeyInHalfAMinute(t *testing.T) {
	l := newLull(t, 4, 64)
	l.pass(time.Minute)
	if made := l.storm(310, "web", time.Second); made != 10 {
		t.Errorf("%d keys made in 310 s with a machine in each, want one in 31 s", made)
	}
}

func TestConfigBoundsKeysMadeAhead(t *testing.T) {
	l := newLull(t, 1, 1)
	l.pass(time.Minute)
	if l.made != 2 {
		t.Errorf("%d keys made, want one of each role", l.made)
	}
	l.storm(1, "web", 0)
	if made := l.pass(time.Hour); made != 1 {
		t.Errorf("%d keys made for one that was taken", made)
	}
}
