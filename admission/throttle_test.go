package admission

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func from(s string) Source { return Source{Addr: addr(s)} }

// guess runs an admission with a wrong secret, or the right one, at now.
func guess(t *testing.T, w *world, th *Throttle, now time.Time, from Source, secretID string, right bool) Code {
	t.Helper()
	cfg := testClientConfig()
	cfg.SecretID = secretID
	if !right {
		cfg.Secret = []byte("fedcba9876543210")
	}
	s, err := NewServer(ServerConfig{Backend: w, Binding: cfg.Binding, Throttle: th, Source: from})
	if err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, cfg)
	next := c.Begin()
	for {
		out, err := s.Step(now, next)
		if err != nil {
			t.Fatal(err)
		}
		if out.Done && out.Refused == 0 {
			return 0
		}
		back, err := new(run).clientStep(c, out.Send[0])
		if err != nil {
			if refusedWith(err) != out.Refused || out.Refused == 0 {
				t.Fatalf("server refused with %v, client: %v", out.Refused, err)
			}
			return out.Refused
		}
		if back == nil {
			return 0
		}
		next = *back
	}
}

func TestGuessesFromManySourcesAreBounded(t *testing.T) {
	for _, secretID := range []string{testSecretID, "nobody"} { // the same for IDs that do not exist
		w, th := newWorld(t), NewThrottle(ThrottleConfig{Rate: 6, Burst: 5})
		for i := range 8 {
			want := CodeWrongSecret
			if i >= 5 {
				want = CodeBusy
			}
			src := Source{Addr: netip.AddrFrom4([4]byte{10, byte(i), 0, 1})}
			if got := guess(t, w, th, testNow, src, secretID, false); got != want {
				t.Fatalf("%s, guess %d: %v, want %v", secretID, i, got, want)
			}
		}
		if got := guess(t, w, th, testNow.Add(10*time.Second), from("192.0.2.1"), secretID, false); got != CodeWrongSecret {
			t.Errorf("%s, ten seconds later: %v", secretID, got)
		}
	}
}

func TestThrottleLocksNobodyOutForGood(t *testing.T) {
	w, th := newWorld(t), NewThrottle(ThrottleConfig{Rate: 6, Burst: 3})
	for i := range 6 {
		guess(t, w, th, testNow, Source{Addr: netip.AddrFrom4([4]byte{10, byte(i), 0, 1})}, testSecretID, false)
	}
	if got := guess(t, w, th, testNow, Source{Addr: addr("192.0.2.1"), Known: true}, testSecretID, true); got != 0 {
		t.Errorf("a known source while strangers guess: %v", got)
	}
	if got := guess(t, w, th, testNow, from("198.51.100.1"), testSecretID, true); got != CodeBusy {
		t.Errorf("a newcomer while strangers guess: %v, want busy: a right proof must not be told from a wrong one", got)
	}
	if got := guess(t, w, th, testNow.Add(10*time.Second), from("198.51.100.1"), testSecretID, true); got != 0 {
		t.Errorf("the same newcomer after ten seconds: %v", got)
	}
}

func TestOneSourceCannotUseUpASecret(t *testing.T) {
	w, th := newWorld(t), NewThrottle(ThrottleConfig{Burst: 10, SourceBurst: 3})
	for i := range 5 {
		want := CodeWrongSecret
		if i >= 3 {
			want = CodeBusy
		}
		src := Source{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})} // one /24
		if got := guess(t, w, th, testNow, src, testSecretID, false); got != want {
			t.Fatalf("guess %d: %v, want %v", i, got, want)
		}
	}
	if got := guess(t, w, th, testNow, from("192.0.2.9"), "web-2", false); got != CodeWrongSecret {
		t.Errorf("another secret from there: %v", got)
	}
	if got := guess(t, w, th, testNow, from("198.51.100.1"), testSecretID, true); got != 0 {
		t.Errorf("the right secret from elsewhere: %v", got)
	}
	// Being known is no licence to guess.
	if got := guess(t, w, th, testNow, Source{Addr: addr("192.0.2.1"), Known: true}, testSecretID, false); got != CodeBusy {
		t.Errorf("a known source over its own share: %v", got)
	}
}

func TestRightProofsAreNotCounted(t *testing.T) {
	w, th := newWorld(t), NewThrottle(ThrottleConfig{Burst: 2, SourceBurst: 2})
	for i := range 6 {
		if got := guess(t, w, th, testNow, from("192.0.2.1"), testSecretID, true); got != 0 {
			t.Fatalf("admission %d: %v", i, got)
		}
	}
}

// TestGuessesInFlightTogetherAreBounded: the challenge is there already when
// the share is used up.
func TestGuessesInFlightTogetherAreBounded(t *testing.T) {
	th := NewThrottle(ThrottleConfig{Burst: 4})
	var wg sync.WaitGroup
	var mu sync.Mutex
	took := 0
	for i := range 50 {
		wg.Go(func() {
			if !th.take(testNow, "web-1", Source{Addr: netip.AddrFrom4([4]byte{10, byte(i), 0, 1})}) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			took++
		})
	}
	wg.Wait()
	if took != 4 {
		t.Errorf("%d proofs looked at, want 4", took)
	}
}

// TestAbandonedAdmissionsAreNoGuesses: connections that stop after the
// challenge keep nobody out.
func TestAbandonedAdmissionsAreNoGuesses(t *testing.T) {
	th := NewThrottle(ThrottleConfig{Burst: 2})
	for i := range 10 {
		if !th.open(testNow, "web-1", Source{Addr: netip.AddrFrom4([4]byte{10, byte(i), 0, 1})}) {
			t.Fatalf("admission %d not begun", i)
		}
	}
}

// TestNamesSpreadOverTheTablesHarmNobody: at the Limiter's total rate, from as
// many sources as one likes, random names leave a real one alone.
func TestNamesSpreadOverTheTablesHarmNobody(t *testing.T) {
	th := NewThrottle(ThrottleConfig{})
	now, shut := testNow, 0
	for i := range 60_000 { // two minutes of 500 a second
		now = now.Add(2 * time.Millisecond)
		th.take(now, fmt.Sprintf("name-%d", i), Source{Addr: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})})
		if !th.open(now, "web-1", from("192.0.2.1")) {
			shut++
		}
	}
	if shut != 0 {
		t.Errorf("shut out %d times", shut)
	}
}
