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
}

// MaxNodes bounds the nodes of a run: those that churn brings count.
const MaxNodes = 200_000

// Validate says what is wrong with a Config, in words of the command line.
func (c Config) Validate() error {
	for _, f := range []struct {
		ok         bool
		flag, want string
	}{
		{c.Peers >= 1 && c.Peers <= MaxNodes/2, "peers", fmt.Sprint("1 to ", MaxNodes/2)},
		{c.SuperPeers >= 1 && c.SuperPeers <= 64, "superpeers", "1 to 64"},
		{c.Churn >= 0 && c.Churn <= 10, "churn", "0 to 10 of the peers an hour"},
		{c.Loss >= 0 && c.Loss <= 0.9, "loss", "0 to 0.9"},
		{c.RTT >= 0 && c.RTT <= 10*time.Second, "rtt", "0 to 10s"},
		{c.Duration >= time.Minute && c.Duration <= 24*time.Hour, "duration", "1m to 24h"},
		{c.Dead >= 0 && c.Dead <= 0.95, "dead", "0 to 0.95"},
		{c.Lookups >= 0 && c.Lookups <= 1_000_000, "lookups", "0 to 1000000"},
	} {
		if !f.ok {
			return fmt.Errorf("--%s is out of range; use %s", f.flag, f.want)
		}
	}
	if n := c.newcomers(); c.Peers+c.SuperPeers+n > MaxNodes {
		return fmt.Errorf("--churn brings %d more peers, too many; use a lower one or a shorter --duration", n)
	}
	return nil
}

// newcomers is how many peers churn replaces.
func (c Config) newcomers() int {
	return int(c.Churn * float64(c.Peers) * (2 * c.Duration).Hours())
}
