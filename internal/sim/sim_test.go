package sim

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func small() Config {
	return Config{Peers: 60, SuperPeers: 2, Seed: 7, Churn: 0.5, Loss: 0.02, RTT: 40 * time.Millisecond, Duration: 10 * time.Minute, Dead: 0.2, Lookups: 100}
}

func table(t *testing.T, r Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRunIsRepeatedBitForBit(t *testing.T) {
	cfg := small()
	one, two := Run(cfg), Run(cfg)
	if table(t, one) != table(t, two) || one.Digest != two.Digest {
		t.Errorf("two runs of one seed differ:\n%s\n%s", table(t, one), table(t, two))
	}
	cfg.Seed++
	if other := Run(cfg); other.Digest == one.Digest {
		t.Error("another seed has the same digest")
	}
	t.Logf("\n%s", table(t, one))
}

// thousand is a service of 1000 peers.
func thousand(t *testing.T) Config {
	t.Helper()
	if testing.Short() || raceEnabled {
		t.Skip("takes some seconds, and many under the race detector")
	}
	t.Parallel()
	return Config{Peers: 1000, SuperPeers: 4, Seed: 1, RTT: 40 * time.Millisecond, Duration: 10 * time.Minute, Lookups: 1000}
}

// An idle peer in a service of a thousand sends and receives less than 1 kB/s, the
// busiest as well; publishing its contact record is in it.
func TestIdlePeerOfAThousandSendsLittle(t *testing.T) {
	cfg := thousand(t)
	cfg.Lookups = 200
	r := Run(cfg)
	t.Logf("\n%s", table(t, r))
	if q := r.Quiet.Peers; q.Nodes != 1000 || q.Bytes >= 500 || q.BytesMost >= 1000 {
		t.Errorf("traffic of a peer: %v", q)
	}
	if r.Lookups.Found != r.Lookups.Begun {
		t.Errorf("%d of %d lookups found theirs", r.Lookups.Found, r.Lookups.Begun)
	}
}

func TestLookupsFindWithAFifthDead(t *testing.T) {
	cfg := thousand(t)
	cfg.Dead = 0.2
	r := Run(cfg)
	t.Logf("\n%s", table(t, r))
	if l := r.Lookups; l.Begun < 950 || 1000*l.Found < 999*l.Begun {
		t.Errorf("%d of %d lookups found theirs", l.Found, l.Begun)
	}
}

// Half of all die at once, and every super peer, so that no replica helps: what is
// left is the paths, and what publishers put again within the republish interval.
func TestLookupsFindWithHalfDeadAndNoSuperPeer(t *testing.T) {
	cfg := thousand(t)
	cfg.Dead, cfg.orphaned = 0.5, true
	r := Run(cfg)
	t.Logf("\n%s", table(t, r))
	if l := r.Lookups; l.Begun < 950 || 100*l.Found < 99*l.Begun {
		t.Errorf("%d of %d lookups found theirs", l.Found, l.Begun)
	}
}

// Churn of half the peers an hour, loss, and long round trips.
func TestLookupsFindUnderChurnAndLoss(t *testing.T) {
	cfg := thousand(t)
	cfg.Peers, cfg.Churn, cfg.Loss, cfg.RTT = 300, 0.5, 0.05, 150*time.Millisecond
	r := Run(cfg)
	t.Logf("\n%s", table(t, r))
	if l := r.Lookups; l.Begun < 950 || 1000*l.Found < 995*l.Begun {
		t.Errorf("%d of %d lookups found theirs", l.Found, l.Begun)
	}
}

// The path to an item grows with the logarithm of the number of nodes.
func TestHopsGrowAsTheLogarithm(t *testing.T) {
	cfg := small()
	cfg.Churn, cfg.Loss, cfg.Dead, cfg.Duration, cfg.Lookups = 0, 0, 0, time.Minute, 300
	last := 0.0
	for _, n := range []int{16, 96, 576} {
		if n > 100 && (testing.Short() || raceEnabled) {
			break
		}
		cfg.Peers = n
		l := Run(cfg).Lookups
		t.Logf("%d peers: %.2f hops, %d at most", n, l.HopsMean, l.HopsMax)
		if l.HopsMean < last || l.HopsMax > 6 || l.Found != l.Begun {
			t.Errorf("%d peers: %+v after %.2f hops", n, l, last)
		}
		last = l.HopsMean
	}
}

func TestConfigNamesTheBadFlag(t *testing.T) {
	if err := small().Validate(); err != nil {
		t.Fatal(err)
	}
	for flag, spoil := range map[string]func(*Config){
		"--peers 0 ":       func(c *Config) { c.Peers = 0 },
		"--superpeers 65 ": func(c *Config) { c.SuperPeers = 65 },
		"--churn -1 ":      func(c *Config) { c.Churn = -1 },
		"--loss 1 ":        func(c *Config) { c.Loss = 1 },
		"--rtt 1m0s ":      func(c *Config) { c.RTT = time.Minute },
		"--duration 1s ":   func(c *Config) { c.Duration = time.Second },
		"--dead 1 ":        func(c *Config) { c.Dead = 1 },
		"--lookups -1 ":    func(c *Config) { c.Lookups = -1 },
		"--churn 10 ":      func(c *Config) { c.Peers, c.Churn, c.Duration = 100000, 10, 24*time.Hour },
	} {
		cfg := small()
		spoil(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

// Events come by time and, at one time, in the order in which they were planned.
func TestEventsComeInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var e events
	for range 10000 {
		e.push(event{at: time.Duration(r.IntN(100))})
		if r.IntN(3) == 0 {
			e.pop()
		}
	}
	var last event
	for len(e.heap) > 0 {
		next := e.pop()
		if next.at < last.at || next.at == last.at && next.order < last.order {
			t.Fatalf("%v, %d after %v, %d", next.at, next.order, last.at, last.order)
		}
		last = next
	}
}

func TestLatencyIsTheSameBothWays(t *testing.T) {
	w := newWorld(small())
	for i := range 100 {
		ab, ba := w.latency(i, i+1), w.latency(i+1, i)
		if d := ab - ba; d.Abs() > 4*time.Millisecond || ab < 9*time.Millisecond || ab > 32*time.Millisecond {
			t.Errorf("%v there and %v back", ab, ba)
		}
	}
}

// The JSON form is stable: a field that goes or changes needs another version.
func TestJSONForm(t *testing.T) {
	cfg := small()
	cfg.Peers, cfg.Duration, cfg.Lookups = 10, time.Minute, 5
	b, err := json.Marshal(Run(cfg))
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(b, &keys); err != nil {
		t.Fatal(err)
	}
	want := []string{"config", "digest", "drops", "joins", "killed", "lookups", "network", "nodes", "quiet", "simulated_time", "version"}
	if got := slices.Sorted(maps.Keys(keys)); !slices.Equal(got, want) || string(keys["version"]) != "1" {
		t.Errorf("version %s has %q", keys["version"], got)
	}
}
