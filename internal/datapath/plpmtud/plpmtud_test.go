package plpmtud

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// path is an underlay in simulated time: it answers probes that fit, after a
// round trip, and loses some.
type path struct {
	t     *testing.T
	m     *Machine
	now   time.Time
	mtu   int // of the path; datagrams above it vanish
	local int // of the interface; above it sending is refused
	loss  float64
	rng   *rand.Rand
	down  bool

	answers []answer
	probes  int
	hole    time.Duration
}

type answer struct {
	at   time.Time
	size int
}

const rtt = 30 * time.Millisecond

func newPath(t *testing.T, c Config, mtu int) *path {
	p := &path{t: t, m: New(c), now: time.Unix(1_700_000_000, 0), mtu: mtu, local: MaxSize, rng: rand.New(rand.NewPCG(1, uint64(mtu)))}
	p.do(p.m.Start(p.now))
	return p
}

func (p *path) do(o Output) {
	for o.Probe != 0 {
		p.probes++
		size := o.Probe
		o = Output{}
		switch {
		case size > p.local:
			o = p.m.Refused(p.now, size)
		case size <= p.mtu && !p.down && p.rng.Float64() >= p.loss:
			p.answers = append(p.answers, answer{p.now.Add(rtt), size})
		}
	}
}

// run lets time pass; with traffic, data goes out every 10 ms at the machine's
// size, and time during which it does not arrive is a black hole.
func (p *path) run(d time.Duration, traffic bool) {
	p.t.Helper()
	for end := p.now.Add(d); p.now.Before(end); p.now = p.now.Add(10 * time.Millisecond) {
		for len(p.answers) > 0 && !p.answers[0].at.After(p.now) {
			a := p.answers[0]
			p.answers = p.answers[1:]
			p.do(p.m.Acked(p.now, a.size))
		}
		if dl := p.m.Deadline(); !dl.IsZero() && !dl.After(p.now) {
			p.do(p.m.Tick(p.now))
		}
		if traffic {
			p.do(p.m.Sent(p.now))
			if p.m.MTU() > p.mtu || p.down {
				p.hole += 10 * time.Millisecond
			} else {
				p.hole = 0
			}
			if !p.down && p.hole > confirmEvery+maxProbes*probeTimeout+time.Second {
				p.t.Fatalf("black hole of %v at %v, path %d", p.hole, p.m, p.mtu)
			}
		}
	}
}

// check wants the machine's size close below the path's.
func (p *path) check() {
	p.t.Helper()
	want := min(p.mtu, p.m.max)
	if got := p.m.MTU(); got > want || got < want-grain {
		p.t.Errorf("MTU %d (%v) on a path of %d after %d probes", got, p.m, p.mtu, p.probes)
	}
}

func TestSearchFindsEveryMTU(t *testing.T) {
	step := 61
	if testing.Short() {
		step = 997
	}
	for mtu := 1280; mtu <= 9000; mtu += step {
		p := newPath(t, Config{Max: 9000}, mtu)
		p.run(2*time.Minute, true)
		p.check()
		if p.probes > 80 {
			t.Errorf("path %d: %d probes", mtu, p.probes)
		}
	}
}

func TestSearchOfCommonPathsTakesRoundTrips(t *testing.T) {
	for _, mtu := range []int{1500, 9000} {
		p := newPath(t, Config{Max: mtu}, mtu)
		p.run(30*rtt, true)
		p.check()
		if p.m.state != stateDone {
			t.Errorf("path and interface of %d: %v after 30 round trips", mtu, p.m)
		}
	}
}

func TestSearchSurvivesLoss(t *testing.T) {
	for _, mtu := range []int{1280, 1400, 1492, 1500, 4000, 9000} {
		p := newPath(t, Config{Max: 9000}, mtu)
		p.loss = 0.1
		p.run(3*time.Minute, true)
		if got := p.m.MTU(); got > mtu || got < mtu*9/10 {
			t.Errorf("path %d with loss: %v", mtu, p.m)
		}
	}
}

// The path changes again and again under traffic. run fails on a black hole.
func TestNoBlackHoleWhenThePathChanges(t *testing.T) {
	p := newPath(t, Config{Max: 9000}, 1500)
	p.run(2*time.Minute, true)
	for _, mtu := range []int{9000, 1280, 4000, 1400, 8999, 1281, 1500, 1280} {
		p.mtu = mtu
		p.run(raiseAfter+2*time.Minute, true)
		p.check()
	}
}

func TestSmallerPathIsNoticedByItself(t *testing.T) {
	p := newPath(t, Config{Max: 1500}, 1500)
	p.run(time.Minute, true)
	p.mtu = 1400
	p.run(confirmEvery+maxProbes*probeTimeout+time.Second, true)
	if got := p.m.MTU(); got > 1400 {
		t.Fatalf("%v: still a black hole", p.m)
	}
	p.run(time.Minute, true)
	p.check()
}

func TestTooBigLeadsToTheSizeItNames(t *testing.T) {
	p := newPath(t, Config{Max: 1500}, 1500)
	p.run(time.Minute, true)
	p.mtu = 1444
	p.do(p.m.TooBig(p.now, 1444))
	if p.m.MTU() != DefaultBase {
		t.Errorf("%v at once after the hint, want the base", p.m)
	}
	p.run(5*rtt, true)
	if p.m.MTU() != 1444 {
		t.Errorf("%v, want 1444 after the hint's probe", p.m)
	}
}

// Every batch that was under way reports that it was too long: the search that
// the first report began goes on.
func TestTooBigAgainAndAgainDelaysNothing(t *testing.T) {
	p := newPath(t, Config{Max: 1500}, 1500)
	p.run(time.Minute, true)
	p.mtu = 1400
	for range 100 {
		p.do(p.m.TooBig(p.now, 1499))
		p.run(10*time.Millisecond, true)
	}
	if got := p.m.MTU(); got < 1280 || p.m.state == stateBase {
		t.Fatalf("%v after a second of complaints", p.m)
	}
	p.run(time.Minute, true)
	p.check()
}

// Anybody can send ICMP: a lie costs a moment at the base, no more.
func TestForgedTooBigIsUndoneByProbes(t *testing.T) {
	for _, claim := range []int{0, 68, 576, 1279, 1499} {
		p := newPath(t, Config{Max: 1500}, 1500)
		p.run(time.Minute, true)
		p.do(p.m.TooBig(p.now, claim))
		p.run(time.Minute, true)
		if got := p.m.MTU(); got < 1480 {
			t.Errorf("claim %d: %v", claim, p.m)
		}
	}
	p := newPath(t, Config{Max: 1500}, 1500)
	p.run(time.Minute, true)
	before := p.m.MTU()
	if o := p.m.TooBig(p.now, 1500); o != (Output{}) || p.m.MTU() != before {
		t.Errorf("a claim of the size in use changes something: %+v", o)
	}
}

func TestDeadPeerIsProbedLessAndLess(t *testing.T) {
	p := newPath(t, Config{Max: 1500}, 1500)
	p.run(time.Minute, true)
	p.down = true
	p.run(time.Minute, true)
	if p.m.MTU() != DefaultMin || p.m.state != stateFailed {
		t.Errorf("%v without any answer, want failed at %d", p.m, DefaultMin)
	}
	before := p.probes
	p.run(time.Hour, true)
	if n := p.probes - before; n > 62 {
		t.Errorf("%d probes in an hour to a dead peer", n)
	}
	p.down = false
	p.run(failedMax+time.Minute, true)
	p.check()
}

func TestShortOutageKeepsTheSize(t *testing.T) {
	p := newPath(t, Config{Max: 1500}, 1500)
	p.run(time.Minute, true)
	p.down = true
	p.run(confirmEvery+maxProbes*probeTimeout, true)
	p.down = false
	p.run(time.Minute, true)
	p.check()
}

func TestIdleMachineIsStill(t *testing.T) {
	p := newPath(t, Config{Max: 1500}, 1500)
	p.run(time.Minute, false)
	if !p.m.Deadline().IsZero() {
		t.Fatalf("%v has a deadline without traffic", p.m)
	}
	before := p.probes
	p.run(time.Hour, false)
	if p.probes != before {
		t.Errorf("%d probes in an idle hour", p.probes-before)
	}
}

func TestRefusedProbeCostsNoTime(t *testing.T) {
	p := newPath(t, Config{Max: 9000}, 9000)
	p.local = 1500
	p.run(3*time.Second, true)
	if got := p.m.MTU(); got < 1500-grain || got > 1500 || p.m.state != stateDone {
		t.Errorf("%v three seconds after the start behind an interface of 1500", p.m)
	}
}

func TestSetMaxFollowsTheInterface(t *testing.T) {
	p := newPath(t, Config{Max: 1500}, 9000)
	p.run(time.Minute, true)
	p.do(p.m.SetMax(p.now, 9000))
	p.run(time.Minute, true)
	p.check()
	p.do(p.m.SetMax(p.now, 1300))
	if got := p.m.MTU(); got > 1300 {
		t.Errorf("%v behind an interface of 1300", p.m)
	}
	p.mtu = 1300
	p.run(time.Minute, true)
	p.check()
}

func TestLateAndForeignAnswersChangeNothing(t *testing.T) {
	m := New(Config{})
	now := time.Unix(0, 0)
	if o := m.Acked(now, 1500); o != (Output{}) {
		t.Errorf("an answer before the start: %+v", o)
	}
	m.Start(now)
	if o := m.Acked(now, 1500); o != (Output{}) || m.MTU() != DefaultBase {
		t.Errorf("an answer to no probe: %+v, %v", o, m)
	}
}

// No sequence of events may panic the machine or let it claim a size above the
// base that was not acknowledged.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6})
	f.Add([]byte{1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2})
	f.Fuzz(func(t *testing.T, events []byte) {
		m := New(Config{Max: 9000})
		now := time.Unix(1_000_000, 0)
		acked := map[int]bool{}
		probe := 0
		for _, e := range events {
			var o Output
			switch arg := int(e) * 37; e % 8 {
			case 0:
				o = m.Start(now)
			case 1, 2:
				acked[probe] = true
				o = m.Acked(now, probe)
			case 3:
				o = m.Tick(now)
			case 4:
				now = now.Add(time.Duration(e) * time.Second)
				o = m.Tick(now)
			case 5:
				now = now.Add(time.Duration(e) * time.Second)
				o = m.Sent(now)
			case 6:
				o = m.TooBig(now, arg)
			case 7:
				o = m.SetMax(now, arg)
			}
			if o.Probe != 0 {
				probe = o.Probe
			}
			if got := m.MTU(); got > DefaultBase && !acked[got] || got < DefaultMin {
				t.Fatalf("%v after %v", m, events)
			}
			_ = fmt.Sprint(m)
		}
	})
}
