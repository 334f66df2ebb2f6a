package sim

import (
	"bytes"
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
