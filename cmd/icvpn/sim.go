package main

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"icvpn/internal/sim"
)

// simFlags are those of icvpn sim.
type simFlags struct {
	sim.Config
	sweep []int
	json  bool
}

func newSim(a *app) *cobra.Command {
	f := &simFlags{}
	cmd := &cobra.Command{
		Use:   "sim [flags]",
		Short: "Run an overlay of thousands of nodes in simulated time",
		Long: "sim runs the overlay's own code for thousands of nodes in one process, on a clock and a network that\n" +
			"are simulated, and prints how they join, what their lookups find and what they send. What it prints\n" +
			"follows from the flags alone: the same seed gives the same datagrams, bit for bit, as the digest over\n" +
			"all of them shows. What a run took of this machine goes to standard error.\n\n" +
			"It opens no socket and needs no privileges. docs/sim.md says how to read it.",
		Example: "  icvpn sim --peers 1000 --superpeers 4 --seed 1 --dead 0.5 --duration 1h\n" +
			"  icvpn sim --sweep 16,64,256,1024,4096",
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error { return a.sim(f) },
	}
	flags := cmd.Flags()
	flags.IntVar(&f.Peers, "peers", 1000, "number `N` of peers")
	flags.IntVar(&f.SuperPeers, "superpeers", 4, "number `M` of super peers, which keep every item")
	flags.Uint64Var(&f.Seed, "seed", 1, "`SEED` of all that is random")
	flags.Float64Var(&f.Churn, "churn", 0, "`SHARE` of the peers that vanish in an hour, others joining in their place")
	flags.Float64Var(&f.Loss, "loss", 0, "`SHARE` of datagrams that get lost")
	flags.DurationVar(&f.RTT, "rtt", 40*time.Millisecond, "mean round trip `TIME`; pairs have 50 to 150 % of it")
	flags.DurationVar(&f.Duration, "duration", 10*time.Minute, "`TIME` in which traffic is measured, and again that of the lookups")
	flags.Float64Var(&f.Dead, "dead", 0, "`SHARE` of all nodes that die at once before the lookups")
	flags.IntVar(&f.Lookups, "lookups", 1000, "`NUMBER` of lookups")
	flags.IntSliceVar(&f.sweep, "sweep", nil, "run once for each of these `NUMBERS` of peers, such as 16,64,256, and print a line each")
	flags.BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

func (a *app) sim(f *simFlags) error {
	sizes := f.sweep
	if sizes == nil {
		sizes = []int{f.Peers}
	}
	for _, n := range sizes {
		cfg := f.Config
		cfg.Peers = n
		if err := cfg.Validate(); err != nil {
			return &usageError{err.Error()}
		}
	}
	var results []sim.Result
	for _, n := range sizes {
		cfg := f.Config
		cfg.Peers = n
		began := a.now()
		results = append(results, sim.Run(cfg))
		a.simCost(n, a.now().Sub(began))
	}
	switch {
	case f.json && f.sweep == nil:
		return a.printJSON(results[0])
	case f.json:
		return a.printJSON(results)
	case f.sweep != nil:
		a.simSweep(results)
		return nil
	}
	return results[0].Write(a.stdout)
}

// simCost says what a run took of this machine.
func (a *app) simCost(peers int, took time.Duration) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(a.stderr, "icvpn: %d peers took %v and, with all runs before, %d MiB of memory\n", peers, took.Round(100*time.Millisecond), m.Sys>>20)
}

// simSweep prints a line for each size.
func (a *app) simSweep(results []sim.Result) {
	t := &table{right: map[int]bool{}}
	head := []string{"PEERS", "LOG2", "HOPS", "MAX", "FOUND", "P50", "P99", "DATAGRAMS/S", "BYTES/S"}
	for i := range head {
		t.right[i] = true
	}
	t.row(head...)
	for _, r := range results {
		l := r.Lookups
		t.row(strconv.Itoa(r.Config.Peers), fmt.Sprintf("%.1f", math.Log2(float64(r.Config.Peers))),
			fmt.Sprintf("%.2f", l.HopsMean), strconv.Itoa(l.HopsMax), fmt.Sprintf("%g %%", l.FoundPercent),
			fmt.Sprintf("%.0f ms", 1000*l.Latency.P50), fmt.Sprintf("%.0f ms", 1000*l.Latency.P99),
			fmt.Sprintf("%.2f", r.Quiet.Peers.Datagrams), fmt.Sprintf("%.0f", r.Quiet.Peers.Bytes))
	}
	t.writeTo(a.stdout)
}
