package sim

import (
	"fmt"
	"time"
)

// Config says what is simulated. The zero value of Seed, Churn, Loss and Dead is
// none of it.
type Config struct {
	Peers      int           // 1 to MaxNodes, super peers not counted
	SuperPeers int           // 1 to 64; every one is a replica
	Seed       uint64        // of everything that is random
	Churn      float64       // share of the peers that is replaced in an hour, 0 to 10
	Loss       float64       // share of datagrams that are lost, 0 to 0.9
	RTT        time.Duration // mean round trip, 0 to 10 s; pairs have 50 to 150 % of it
	Duration   time.Duration // of the quiet time and of the lookups, 1 min to 24 h
	Dead       float64       // share of all nodes that die at once before the lookups, 0 to 0.95
	Lookups    int           // 0 to 1,000,000

	orphaned bool // all super peers die as well: for tests of the paths alone
}

// MaxNodes bounds the nodes of a run: those that churn brings count.
const MaxNodes = 200_000

// Validate says what is wrong with a Config, in words of the command line.
func (c Config) Validate() error {
	for _, f := range []struct {
		flag  string
		value any
		ok    bool
		want  string
	}{
		{"peers", c.Peers, c.Peers >= 1 && c.Peers <= MaxNodes/2, fmt.Sprint("1 to ", MaxNodes/2)},
		{"superpeers", c.SuperPeers, c.SuperPeers >= 1 && c.SuperPeers <= 64, "1 to 64"},
		{"churn", c.Churn, c.Churn >= 0 && c.Churn <= 10, "0 to 10, the share of the peers in an hour"},
		{"loss", c.Loss, c.Loss >= 0 && c.Loss <= 0.9, "0 to 0.9"},
		{"rtt", c.RTT, c.RTT >= 0 && c.RTT <= 10*time.Second, "0 to 10s"},
		{"duration", c.Duration, c.Duration >= time.Minute && c.Duration <= 24*time.Hour, "1m to 24h"},
		{"dead", c.Dead, c.Dead >= 0 && c.Dead <= 0.95, "0 to 0.95"},
		{"lookups", c.Lookups, c.Lookups >= 0 && c.Lookups <= 1_000_000, "0 to 1000000"},
	} {
		if !f.ok {
			return fmt.Errorf("--%s %v is out of range; use %s", f.flag, f.value, f.want)
		}
	}
	if n := c.newcomers(); c.Peers+c.SuperPeers+n > MaxNodes {
		return fmt.Errorf("--churn %v brings %d more peers, too many; use less of it or a shorter --duration", c.Churn, n)
	}
	return nil
}

// newcomers is how many peers churn replaces.
func (c Config) newcomers() int {
	return int(c.Churn * float64(c.Peers) * (2 * c.Duration).Hours())
}
