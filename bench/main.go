//go:build linux

// Command bench measures icvpn on this machine: how fast a machine joins, what
// the tunnel costs in latency and throughput, what an idle process holds, how
// many admissions a core serves.
//
//	outer run ── namespaces ──> inner run ── for each scenario ──> rig
//	                                             │                  two clouds, a super peer
//	                                             └─> report          in each, real icvpn processes
//
// Figures of two runs compare only where machine and load are the same; so each
// scenario that can measures the way beside the tunnel in the same run, in turns,
// and gives the ratio.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/internal/lab"
)

// wholeTimeout ends a run in which something hangs; all scenarios together take
// about a minute.
const wholeTimeout = 5 * time.Minute

// options are the command line.
type options struct {
	run   []scenario
	list  bool
	json  string
	icvpn string
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	case o.list:
		for _, s := range scenarios {
			fmt.Printf("%-11s %s\n", s.name, s.about)
		}
		return
	}
	code, err := lab.Main(func() int { return inside(o) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(code)
}

func parse(args []string, out io.Writer) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	names := f.String("run", "", "scenarios to run, separated by commas (default all)")
	f.BoolVar(&o.list, "list", false, "list the scenarios and end")
	f.StringVar(&o.json, "json", "", "write the figures to this file too")
	f.StringVar(&o.icvpn, "icvpn", "", "binary to measure (default: built from this source)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
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

// inside is the run in the namespaces.
func inside(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	if err := runAll(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// bench is what scenarios stand on.
type bench struct {
	ctx   context.Context
	dir   string // scratch
	icvpn string // the binary
	rigs  int
}

// runAll runs the scenarios one after the other, each on a rig of its own. One
// that fails does not keep the others from running.
func runAll(ctx context.Context, o options, out io.Writer) error {
	if err := lab.CheckTUN(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(lab.Scratch(), "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{ctx: ctx, dir: dir}
	if b.icvpn, err = measure.Binary(ctx, o.icvpn, dir); err != nil {
		return err
	}
	r := measure.NewReport(time.Now(), b.icvpn)
	fmt.Fprintln(out, r.Machine)
	var failed error
	for _, s := range o.run {
		res := b.runScenario(s)
		res.Write(out)
		r.Scenarios = append(r.Scenarios, res)
		if res.Error != "" {
			failed = errors.Join(failed, fmt.Errorf("%s: %s", s.name, res.Error))
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
	rec := &recorder{metrics: []measure.Metric{}}
	began := time.Now()
	err := s.run(b, rec)
	res := measure.Result{Name: s.name, About: s.about, Seconds: time.Since(began).Seconds(), Metrics: rec.metrics}
	if err != nil {
		res.Error = err.Error()
	}
	return res
}
