package promote

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
)

var epoch = time.Date(2015, 6, 1, 0, 0, 0, 0, time.UTC)

// machine is a member of a simulated service.
type machine struct {
	Member
	up   bool
	nat  bool // never answers
	rtt  time.Duration
	loss float64
}

// field is a service whose time the test moves on.
type field struct {
	t        *testing.T
	m        *Machine
	now      time.Time
	rnd      *rand.Rand
	all      map[id.ID]*machine
	joined   uint64
	probes   int
	promoted int
	demoted  map[Reason]int
	watch    func() // after each step
}

func newField(t *testing.T, seed uint64, cfg Config) *field {
	return &field{
		t: t, m: New(cfg), now: epoch, rnd: rand.New(rand.NewPCG(seed, 1)), all: map[id.ID]*machine{}, demoted: map[Reason]int{},
	}
}

func (f *field) join(cloud string, change func(*machine)) *machine {
	f.joined++
	n := f.joined
	var pid id.ID
	binary.BigEndian.PutUint64(pid[:], n*0x9e3779b97f4a7c15)
	a4 := [4]byte{198, 51, byte(n >> 8), byte(n)}
	x := &machine{
		Member: Member{PID: pid, Cloud: cloud, Addr: netip.AddrPortFrom(netip.AddrFrom4(a4), 4500), Joined: f.now},
		up:     true, rtt: 10 * time.Millisecond,
	}
	if change != nil {
		change(x)
	}
	f.all[pid] = x
	return x
}

func (f *field) leave(x *machine) {
	delete(f.all, x.PID)
	f.note(f.m.Gone(x.PID))
}

// sample offers the machine members, as a super peer does.
func (f *field) sample() {
	clouds := map[string]int{}
	for _, pid := range slices.SortedFunc(maps.Keys(f.all), func(a, b id.ID) int { return a.Compare(b) }) {
		x := f.all[pid]
		clouds[x.Cloud]++
		if f.m.Wants(f.now, pid) && f.m.Room(x.Cloud) > 0 {
			f.m.Observe(f.now, x.Member)
		}
	}
	f.m.SetMembers(clouds)
}

// run lets time pass: every second what is due is asked, every 30 s the sample is
// filled.
func (f *field) run(d time.Duration) {
	for end := f.now.Add(d); f.now.Before(end); f.now = f.now.Add(time.Second) {
		if f.now.Unix()%30 == 0 {
			f.sample()
		}
		due := f.m.Due(f.now)
		if len(due) == 0 {
			continue
		}
		for _, who := range due {
			f.probes++
			x := f.all[who.PID]
			ok := x != nil && x.up && !x.nat && f.rnd.Float64() >= x.loss
			rtt := time.Duration(0)
			if ok {
				rtt = time.Duration(float64(x.rtt) * (0.8 + 0.4*f.rnd.Float64()))
				if f.rnd.IntN(20) == 0 {
					rtt *= 5 // a busy moment
				}
			}
			f.m.Probed(f.now, who.PID, rtt, ok)
		}
		f.note(f.m.Decide(f.now))
		if f.watch != nil {
			f.watch()
		}
	}
}

func (f *field) note(ds []Decision) {
	for _, d := range ds {
		switch d.Act {
		case Promote:
			f.promoted++
		case Demote:
			f.demoted[d.Reason]++
		}
	}
}

func (f *field) helpers(cloud string) (all []*machine) {
	for _, h := range f.m.Helpers() {
		if cloud == "" || h.Cloud == cloud {
			x := f.all[h.PID]
			if x == nil {
				f.t.Fatalf("%v: helper %s is no member", f.now.Sub(epoch), h.PID.Short())
			}
			all = append(all, x)
		}
	}
	return all
}

func TestEachCloudGetsItsMinimumSoon(t *testing.T) {
	f := newField(t, 1, Config{})
	for i := range 12 {
		f.join(fmt.Sprintf("cloud-%d", i%3), nil)
	}
	f.run(2 * time.Minute)
	for i := range 3 {
		if n := len(f.helpers(fmt.Sprintf("cloud-%d", i))); n != DefaultMin {
			t.Errorf("cloud %d has %d helpers after two minutes, want %d", i, n, DefaultMin)
		}
	}
}

func TestLargeCloudsGetMoreButNeverTooMany(t *testing.T) {
	f := newField(t, 1, Config{})
	for range 200 {
		f.join("small", nil)
	}
	for range 2000 {
		f.join("large", nil)
	}
	f.run(time.Hour)
	if s, l := len(f.helpers("small")), len(f.helpers("large")); s != 4 || l != DefaultMax {
		t.Errorf("%d helpers of 200, %d of 2000 members; want 4 and %d", s, l, DefaultMax)
	}
}

func TestDeadHelperIsReplacedWithinAMinute(t *testing.T) {
	f := newField(t, 1, Config{})
	for range 20 {
		f.join("a", nil)
	}
	f.run(time.Hour)
	for range 10 {
		dead := f.helpers("a")[0]
		dead.up = false
		f.run(time.Minute)
		now := f.helpers("a")
		if len(now) != DefaultMin || slices.Contains(now, dead) {
			t.Fatalf("a minute after a death %d helpers, the dead one among them: %v", len(now), slices.Contains(now, dead))
		}
	}
}

func TestWhoDoesNotAnswerIsNeverPromoted(t *testing.T) {
	f := newField(t, 1, Config{})
	for i := range 300 {
		f.join("a", func(x *machine) { x.nat = i%100 != 0 })
	}
	f.watch = func() {
		for _, h := range f.helpers("") {
			if h.nat {
				t.Fatal("a machine behind a NAT was promoted")
			}
		}
	}
	f.run(3 * time.Hour)
	if n := len(f.helpers("")); n < DefaultMin {
		t.Errorf("%d helpers, though 3 of 300 members can be", n)
	}
}

func TestSlowAndUnsteadyMembersAreDemotedIfOthersAreFit(t *testing.T) {
	f := newField(t, 1, Config{})
	for range 10 {
		f.join("a", nil)
	}
	f.run(time.Hour)
	slow, unsteady := f.helpers("a")[0], f.helpers("a")[1]
	slow.rtt, unsteady.loss = 200*time.Millisecond, 0.4
	f.run(2 * time.Hour)
	now := f.helpers("a")
	if slices.Contains(now, slow) || slices.Contains(now, unsteady) || len(now) != DefaultMin {
		t.Errorf("helpers after two hours: slow %v, unsteady %v, %d in all; demoted %v", slices.Contains(now, slow), slices.Contains(now, unsteady), len(now), f.demoted)
	}
}

func TestMinimumKeepsWhoIsBelowTheBar(t *testing.T) {
	f := newField(t, 1, Config{})
	for range 2 {
		f.join("a", func(x *machine) { x.loss = 0.1 })
	}
	f.run(time.Hour)
	for _, x := range f.all {
		x.loss = 0.25 // nobody is fit any more
	}
	f.demoted = map[Reason]int{}
	f.run(2 * time.Hour)
	if f.demoted[ReasonUnavailable]+f.demoted[ReasonSlow] != 0 {
		t.Errorf("demoted %v, and nobody else was there", f.demoted)
	}
}

func TestSuperPeerThatIsCutOffDemotesNobody(t *testing.T) {
	f := newField(t, 1, Config{})
	for range 20 {
		f.join("a", nil)
	}
	f.run(time.Hour)
	before := f.m.Helpers()
	for _, x := range f.all {
		x.up = false
	}
	f.run(time.Hour)
	for _, x := range f.all {
		x.up = true
	}
	f.run(20 * time.Minute)
	if after := f.m.Helpers(); !slices.Equal(before, after) {
		t.Errorf("helpers before %v, after %v", before, after)
	}
}

// TestNoFlappingUnderNoise: a day of loss and jitter, without churn.
func TestNoFlappingUnderNoise(t *testing.T) {
	if testing.Short() {
		t.Skip("simulated days")
	}
	for seed := range uint64(2) {
		f := newField(t, seed, Config{})
		for i := range 60 {
			f.join(fmt.Sprintf("cloud-%d", i%2), func(x *machine) {
				x.loss = 0.03 * f.rnd.Float64()
				x.rtt = time.Duration(5+f.rnd.IntN(10)) * time.Millisecond
			})
		}
		f.run(time.Hour)
		f.promoted, f.demoted = 0, map[Reason]int{}
		f.run(24 * time.Hour)
		if n := len(f.demoted); n > 0 || f.promoted > 0 {
			t.Errorf("seed %d: %d promotions, demotions %v in a day of nothing but noise", seed, f.promoted, f.demoted)
		}
	}
}

// TestBoundsHoldUnderChurn: for eight hours members come, go, die and are slow.
func TestBoundsHoldUnderChurn(t *testing.T) {
	for seed := range uint64(2) {
		f := newField(t, seed, Config{})
		churn := func() *machine {
			return f.join(fmt.Sprintf("cloud-%d", f.rnd.IntN(3)), func(x *machine) {
				x.nat = f.rnd.IntN(3) == 0
				x.loss = 0.05 * f.rnd.Float64()
				x.rtt = time.Duration(1+f.rnd.IntN(80)) * time.Millisecond
			})
		}
		for range 90 {
			churn()
		}
		f.run(30 * time.Minute)
		low := map[string]int{} // seconds below the minimum in a row
		worst := 0
		f.watch = func() {
			for c := range 3 {
				name := fmt.Sprintf("cloud-%d", c)
				alive := 0
				for _, h := range f.helpers(name) {
					if h.up {
						alive++
					}
				}
				if n := len(f.helpers(name)); n > DefaultMax {
					t.Fatalf("%d helpers in %s", n, name)
				}
				if low[name]++; alive >= DefaultMin {
					low[name] = 0
				}
				worst = max(worst, low[name])
			}
		}
		for range 8 * 6 { // every ten minutes somebody comes and somebody goes
			churn()
			var pids []id.ID
			for pid := range f.all {
				pids = append(pids, pid)
			}
			slices.SortFunc(pids, func(a, b id.ID) int { return a.Compare(b) })
			x := f.all[pids[f.rnd.IntN(len(pids))]]
			if f.rnd.IntN(2) == 0 {
				f.leave(x)
				f.run(10 * time.Minute)
			} else {
				x.up = false
				f.run(7 * time.Minute)
				f.leave(x)
				f.run(3 * time.Minute)
			}
		}
		if worst > 60 {
			t.Errorf("seed %d: a cloud had too few live helpers for %d s", seed, worst)
		}
		t.Logf("seed %d: %d promotions, demotions %v, below the minimum for %d s at most, %.2f probes/s", seed, f.promoted, f.demoted, worst, float64(f.probes)/30600)
	}
}

func TestFlappingMemberWaitsLongerEachTime(t *testing.T) {
	f := newField(t, 1, Config{Min: 1, Max: 1})
	first := f.join("a", nil)
	f.run(time.Hour)
	f.join("a", nil)
	f.run(time.Hour)
	times := 0
	f.watch = func() {
		h := f.helpers("a")
		if len(h) == 1 && h[0] == first && first.up {
			first.up = false
			times++
		} else if len(h) == 1 && h[0] != first {
			first.up = true
			h[0].loss = 0 // it is fit all the time, so it stays
		}
	}
	f.run(24 * time.Hour)
	if times > 1 {
		t.Errorf("a member that died each time it was promoted was promoted %d times", times)
	}
}

func TestHelpersAreSpreadOverClouds(t *testing.T) {
	f := newField(t, 1, Config{})
	for i := range 30 {
		f.join(fmt.Sprintf("cloud-%d", i%3), nil)
	}
	f.run(time.Hour)
	h := f.m.Helpers()
	if len(h) < 6 {
		t.Fatalf("%d helpers", len(h))
	}
	for i := 0; i < 6; i += 3 {
		if h[i].Cloud == h[i+1].Cloud || h[i+1].Cloud == h[i+2].Cloud || h[i].Cloud == h[i+2].Cloud {
			t.Errorf("places %d to %d are not of three clouds", i, i+2)
		}
	}
}

func TestNamedDecidesBetweenEquals(t *testing.T) {
	f := newField(t, 1, Config{})
	var named []*machine
	for i := range 10 {
		named = append(named, f.join("a", func(x *machine) { x.Named = i >= 8 }))
	}
	f.run(2 * time.Minute)
	for _, x := range named[8:] {
		if !slices.Contains(f.helpers("a"), x) {
			t.Error("another super peer's helper was not taken")
		}
	}
}

func TestTrafficIsBounded(t *testing.T) {
	f := newField(t, 1, Config{})
	for range 1000 {
		f.join("a", nil)
	}
	f.run(time.Hour)
	f.probes = 0
	f.run(time.Hour)
	perSecond := float64(f.probes) / 3600
	t.Logf("1000 members of one cloud: %d helpers, %.2f probes/s", len(f.helpers("")), perSecond)
	if bound := DefaultMax/helperEvery.Seconds() + MaxCandidates/candidateEvery.Seconds(); perSecond > bound*1.05 {
		t.Errorf("%.2f probes a second, at most %.2f expected", perSecond, bound)
	}
	if n := len(f.m.Asked()); n > DefaultMax+MaxCandidates {
		t.Errorf("%d members are asked", n)
	}
}

func TestManyCloudsAreBounded(t *testing.T) {
	f := newField(t, 1, Config{})
	for i := range 500 {
		f.join(fmt.Sprintf("cloud-%d", i%100), nil)
	}
	f.run(time.Hour)
	if h, a := len(f.helpers("")), len(f.m.Asked()); h != MaxHelpers || a > MaxHelpers+MaxCandidates {
		t.Errorf("%d helpers, %d asked", h, a)
	}
}

func TestSameObservationsSameDecisions(t *testing.T) {
	run := func() []Helper {
		f := newField(t, 7, Config{})
		for i := range 50 {
			f.join(fmt.Sprintf("cloud-%d", i%2), func(x *machine) { x.loss = 0.1 })
		}
		f.run(2 * time.Hour)
		return f.m.Helpers()
	}
	if a, b := run(), run(); !slices.Equal(a, b) {
		t.Errorf("%v and %v", a, b)
	}
}
