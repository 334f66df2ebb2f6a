//go:build linux

// Command scale runs a service at size: hundreds of peers with their own
// admission, overlay node, contact record and tunnels, and thousands of members
// in the directory, on one machine. It measures what that costs and checks what
// must hold: everybody finds whom he may reach, no address is given twice,
// tunnels lose nothing when a super peer dies.
//
//	fleet churn deadsuper half      one process: node.Node and superpeer.SuperPeer
//	                                on a network in memory, TUN devices in memory
//	storm idle                      the icvpn binary in a network namespace, with
//	                                clients and peers in this process
//
// Guarantees: the exit code says whether everything that was counted is as it
// must be. Figures of time, processor and memory are printed and never judged.
//
// Non-goals: loss and jitter (icvpn sim has them), throughput (bench).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/internal/lab"
)

// sizes are how large a run is. docs/scale.md has the commands of a run for the
// record.
type sizes struct {
	peers    int           // running, full peers
	members  int           // in the directory that do not run
	supers   int           // super peers
	probes   int           // machines that each peer of a sample pings
	sample   int           // peers that look at their rosters and ping
	settle   time.Duration // until rosters have to be complete; 0: they are not looked at
	joiners  int           // joins and admissions under way at once in a fleet
	idle     time.Duration // that nothing is asked of the fleet
	churn    time.Duration
	storm    int   // newcomers
	clients  int   // admissions under way at once
	spread   []int // super peers of a storm
	prefill  []int // members before a storm
	renewals int
	dead     []int         // half: percent of the peers
	wait     time.Duration // half: until lookups are tried again
}

func defaultSizes() sizes {
	return sizes{
		peers: 200, members: 1000, supers: 4, probes: 4, sample: 50, settle: 5 * time.Minute, joiners: 16, idle: 30 * time.Second, churn: 2 * time.Minute,
		dead: []int{20, 50}, wait: 5*time.Minute + 30*time.Second,
		storm: 1000, clients: 128, spread: []int{1, 2, 4, 8}, prefill: []int{10, 1000, 5000}, renewals: 1000,
	}
}

// options are the command line.
type options struct {
	run     []scenario
	list    bool
	json    string
	icvpn   string
	profile string
	log     bool
	limit   time.Duration
	sizes
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(2)
	case o.list:
		for _, s := range scenarios {
			fmt.Printf("%-10s %s\n", s.name, s.about)
		}
		return
	}
	if !slices.ContainsFunc(o.run, func(s scenario) bool { return s.processes }) {
		os.Exit(inside(o))
	}
	code, err := lab.Main(func() int { return inside(o) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
	}
	os.Exit(code)
}

func parse(args []string, out io.Writer) (o options, err error) {
	o.sizes = defaultSizes()
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.SetOutput(out)
	names := f.String("run", "", "scenarios to run, separated by commas (default all)")
	f.BoolVar(&o.list, "list", false, "list the scenarios and end")
	f.StringVar(&o.json, "json", "", "write the figures to this file too")
	f.StringVar(&o.icvpn, "icvpn", "", "binary to measure (default: built from this source)")
	f.StringVar(&o.profile, "profile", "", "directory for processor and heap profiles of this process")
	f.BoolVar(&o.log, "log", false, "warnings of all peers on standard error")
	f.DurationVar(&o.limit, "limit", time.Hour, "end of the run; what it has not come to by then has failed")
	f.IntVar(&o.peers, "peers", o.peers, "peers that run")
	f.IntVar(&o.members, "members", o.members, "further members of the directory")
	f.IntVar(&o.supers, "supers", o.supers, "super peers")
	f.IntVar(&o.probes, "probes", o.probes, "machines that each peer of the sample pings")
	f.IntVar(&o.sample, "sample", o.sample, "peers that look at their rosters and ping")
	f.DurationVar(&o.settle, "settle", o.settle, "until rosters have to be complete; 0: they are not looked at")
	f.DurationVar(&o.idle, "idle", o.idle, "how long the fleet is watched idle")
	f.DurationVar(&o.churn, "churn", o.churn, "how long peers come and go")
	f.IntVar(&o.joiners, "joiners", o.joiners, "joins and admissions under way at once in a fleet")
	f.IntVar(&o.storm, "storm", o.storm, "newcomers of a storm")
	f.IntVar(&o.clients, "clients", o.clients, "admissions under way at once")
	f.IntVar(&o.renewals, "renewals", o.renewals, "renewals after a storm")
	f.Func("dead", "half: percent of the peers that vanish, separated by commas (default 20,50)", numbers(&o.dead))
	f.DurationVar(&o.wait, "wait", o.wait, "half: look again for so long, 0 not at all; a contact is published again every 5 min")
	f.Func("spread", "super peers that share a storm, separated by commas (default 1,2,4,8)", numbers(&o.spread))
	f.Func("prefill", "members before a storm, separated by commas (default 10,1000,5000)", numbers(&o.prefill))
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.peers < 2 || o.supers < 1 || o.members < 0 || o.clients < 1 || o.joiners < 1 {
		return o, errors.New("it takes two peers, one super peer and one client at least")
	}
	if err := measure.CheckReportPath(o.json); err != nil {
		return o, err
	}
	o.run = scenarios
	if *names != "" {
		o.run, err = measure.Choose(scenarios, strings.Split(*names, ","), func(s scenario) string { return s.name })
	}
	return o, err
}

// numbers reads a list of them into where, which it empties first.
func numbers(where *[]int) func(string) error {
	return func(text string) error {
		*where = nil
		for part := range strings.SplitSeq(text, ",") {
			n, err := strconv.Atoi(part)
			if err != nil || n < 0 {
				return fmt.Errorf("%q is no number", part)
			}
			*where = append(*where, n)
		}
		return nil
	}
}

// scenario is one thing to run at size.
type scenario struct {
	name, about string
	processes   bool // needs the binary and a network namespace
	run         func(*bench, *recorder) error
}

var scenarios = []scenario{
	{"fleet", "every peer finds every peer it may reach; an idle peer's traffic, processor time and memory", false, fleet},
	{"churn", "peers leave, vanish and return while others look them up", false, churn},
	{"deadsuper", "a super peer dies under admissions and traffic; a partition between super peers heals", false, deadSuper},
	{"half", "a fifth and a half of the peers vanish at once", false, half},
	{"storm", "newcomers at once on a super peer, and what each costs it", true, storm},
	{"idle", "one peer's process and a super peer's in a service of many", true, idle},
}

// inside runs everything in this process.
func inside(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	if err := runAll(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		return 1
	}
	return 0
}

// bench is what scenarios stand on.
type bench struct {
	options
	ctx context.Context
	dir string // scratch
	bin string // the binary, if a scenario needs it
	out *slog.Logger

	began    time.Time
	scenario string    // under way
	progress io.Writer // of stages
}

// runAll runs the scenarios one after the other. One that fails does not keep
// the others from running.
func runAll(ctx context.Context, o options, out io.Writer) error {
	b := &bench{options: o, ctx: ctx, out: slog.New(slog.DiscardHandler), began: time.Now(), progress: os.Stderr}
	if o.log {
		b.out = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if slices.ContainsFunc(o.run, func(s scenario) bool { return s.processes }) {
		var err error
		if b.dir, err = os.MkdirTemp(lab.Scratch(), "scale"); err != nil {
			return err
		}
		defer os.RemoveAll(b.dir)
		if b.bin, err = measure.Binary(ctx, o.icvpn, b.dir); err != nil {
			return err
		}
	}
	r := measure.NewReport(time.Now(), b.bin)
	fmt.Fprintln(out, r.Machine)
	var failed error
	for _, s := range o.run {
		res := b.runScenario(s)
		res.Write(out)
		r.Scenarios = append(r.Scenarios, res)
		for _, why := range res.Failures() {
			failed = errors.Join(failed, fmt.Errorf("%s: %s", s.name, why))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if o.json != "" {
		failed = errors.Join(failed, measure.Save(o.json, r))
	}
	return failed
}

func (b *bench) runScenario(s scenario) measure.Result {
	rec := &recorder{metrics: []measure.Metric{}, checks: []measure.Check{}}
	began := time.Now()
	b.scenario = s.name
	err := b.profiled(s.name, func() error { return s.run(b, rec) })
	res := measure.Result{Name: s.name, About: s.about, Seconds: time.Since(began).Seconds(), Metrics: rec.metrics, Checks: rec.checks}
	if err != nil {
		res.Error = err.Error()
	}
	return res
}

// profiled writes profiles of what f does, if they are wanted.
func (b *bench) profiled(name string, f func() error) error {
	if b.profile == "" {
		return f()
	}
	cpu, err := os.Create(filepath.Join(b.profile, name+".cpu"))
	if err != nil {
		return err
	}
	defer cpu.Close()
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}

// heapProfile writes what is live now, if profiles are wanted.
func (b *bench) heapProfile(name string) {
	if b.profile == "" {
		return
	}
	if f, err := os.Create(filepath.Join(b.profile, name+".heap")); err == nil {
		_ = pprof.WriteHeapProfile(f)
		f.Close()
	}
}

// pause waits, unless the run ends.
func (b *bench) pause(d time.Duration) error { return measure.Sleep(b.ctx, d) }
