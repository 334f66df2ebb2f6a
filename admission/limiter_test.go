package admission

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestLimiterCountsPerPrefix(t *testing.T) {
	l := NewLimiter(LimiterConfig{Rate: 1, Burst: 2})
	now := testNow
	for i, c := range []struct {
		after time.Duration
		from  string
		want  bool
	}{
		{0, "192.0.2.1", true},
		{0, "192.0.2.200", true},
		{0, "192.0.2.3", false},        // the /24 is used up
		{0, "::ffff:192.0.2.4", false}, // and this is the same one
		{0, "192.0.3.1", true},
		{time.Second, "192.0.2.1", true},
		{0, "192.0.2.1", false},
		{time.Hour, "192.0.2.1", true}, // refills to the burst, not beyond
		{0, "192.0.2.1", true},
		{0, "192.0.2.1", false},
		{-2 * time.Hour, "192.0.2.1", false}, // a clock that steps back refills nothing
		{0, "2001:db8:0:100::1", true},
		{0, "2001:db8:0:1ff::1", true},
		{0, "2001:db8:0:120::1", false}, // the /56
		{0, "2001:db8:0:200::1", true},
	} {
		now = now.Add(c.after)
		if got := l.Allow(now, addr(c.from)); got != c.want {
			t.Errorf("step %d, %s: %v, want %v", i, c.from, got, c.want)
		}
	}
}

func TestLimiterCountsInAll(t *testing.T) {
	l := NewLimiter(LimiterConfig{Rate: 100, Burst: 100, TotalRate: 1, TotalBurst: 3})
	for i := range 5 {
		if got := l.Allow(testNow, netip.AddrFrom4([4]byte{10, 0, byte(i), 1})); got != (i < 3) {
			t.Errorf("admission %d: %v", i, got)
		}
	}
	if !l.Allow(testNow.Add(time.Second), addr("10.9.9.9")) {
		t.Error("nothing refilled")
	}
}

func TestLimiterRefusedPrefixTakesNothingFromOthers(t *testing.T) {
	l := NewLimiter(LimiterConfig{Rate: 1, Burst: 1, TotalRate: 1, TotalBurst: 2})
	for range 10 {
		l.Allow(testNow, addr("192.0.2.1"))
	}
	if !l.Allow(testNow, addr("198.51.100.1")) {
		t.Error("one noisy prefix shut out the others")
	}
}

func TestLimiterTableIsBounded(t *testing.T) {
	l := NewLimiter(LimiterConfig{Rate: 1, Burst: 2, TotalRate: 1e9, TotalBurst: 1e9, Prefixes: 100})
	from := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}) }
	allowed := 0
	for i := range 1000 {
		if l.Allow(testNow, from(i)) {
			allowed++
		}
	}
	// 100 prefixes of their own, and the burst of the shared bucket.
	if len(l.byPrefix) != 100 || l.recent.Len() != 100 || allowed != 102 {
		t.Errorf("%d prefixes, %d allowed", len(l.byPrefix), allowed)
	}
	// The first hundred were not forgotten to make room.
	if !l.Allow(testNow, from(0)) || l.Allow(testNow, from(0)) {
		t.Error("a prefix was forgiven by a flood from others")
	}
	// At rest they make room.
	later := testNow.Add(time.Minute)
	if !l.Allow(later, from(2000)) || l.byPrefix[limitPrefix(from(2000))] == nil || len(l.byPrefix) != 100 {
		t.Error("no room made")
	}
}

func TestLimiterRefusalsNeverEnterTheTable(t *testing.T) {
	l := NewLimiter(LimiterConfig{TotalRate: 1, TotalBurst: 1})
	for i := range 50 {
		l.Allow(testNow, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}))
	}
	if len(l.byPrefix) != 1 {
		t.Errorf("%d prefixes", len(l.byPrefix))
	}
}

func TestLimiterDefaultsAndZeroAddress(t *testing.T) {
	l := NewLimiter(LimiterConfig{})
	for i := range 65 {
		if got := l.Allow(testNow, netip.Addr{}); got != (i < 64) {
			t.Fatalf("admission %d: %v", i, got)
		}
	}
}

// TestLimiterHoldsItsRate compares with the definition over random traffic.
func TestLimiterHoldsItsRate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := NewLimiter(LimiterConfig{Rate: 2, Burst: 5, TotalRate: 20, TotalBurst: 10, Prefixes: 8})
	now, allowed := testNow, map[netip.Prefix]int{}
	total := 0
	for range 20000 {
		now = now.Add(time.Duration(r.IntN(20)) * time.Millisecond)
		a := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(8)), 1})
		if l.Allow(now, a) {
			allowed[limitPrefix(a)]++
			total++
		}
	}
	s := now.Sub(testNow).Seconds()
	for p, n := range allowed {
		if float64(n) > 5+2*s+1e-6 {
			t.Errorf("%v: %d in %.0f s", p, n, s)
		}
	}
	if float64(total) > 10+20*s+1e-6 || float64(total) < 0.9*16*s {
		t.Errorf("%d in all in %.0f s", total, s)
	}
}
