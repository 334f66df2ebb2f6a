//go:build linux

// Command esp measures ESP tunnels of icvpn beside wireguard-go and beside no
// tunnel at all, on this machine, in one run.
//
//	outer run ── namespaces ──> inner run ── for each round, setting, contestant ──> trial
//	                               │            two hosts with one link, a process in each:
//	                               │            idle pings, a TCP stream, pings beside it
//	                               └─> table, JSON
//
// Contestants take turns, so that what changes on the machine while it measures
// meets all of them. Both ends, the sender and the receiver share the machine's
// processors: figures of two runs compare only on the same machine under the same
// load, ratios within a run compare better.
//
// wireguard-go and the forwarder without cryptography are this program, run again
// as a process of its own in each host: package device of the module in go.mod,
// and its packages tun and conn with two goroutines between them.
//
// A contestant that fails, or content that arrives changed, is an error. Slow
// figures are not.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/internal/lab"
)

// options are the command line.
type options struct {
	contestants []contestant
	settings    []setting
	rounds      int
	bulk        time.Duration
	pings       int
	content     int64
	budget      time.Duration
	iperf3      bool
	congestion  string // of TCP
	json        string
	icvpn       string
	versus      string // another icvpn
	markdown    bool
	list        bool
}

const (
	defaultRounds  = 3
	defaultBulk    = 1500 * time.Millisecond
	defaultPings   = 500
	defaultContent = 128 // MB
	// defaultCongestion is what Linux has if nobody chooses another.
	defaultCongestion = "cubic"

	// defaultBudget is when the last round shall have ended; one takes about a
	// minute.
	defaultBudget = 220 * time.Second
	// graceTimeout is what a run may take beyond its budget before something must
	// have hung.
	graceTimeout = 5 * time.Minute
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == endCommand {
		if err := runEnd(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[2], err)
			os.Exit(1)
		}
		return
	}
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench/esp:", err)
		os.Exit(2)
	case o.list:
		list(os.Stdout)
		return
	}
	code, err := lab.Main(func() int { return inside(o) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/esp:", err)
	}
	os.Exit(code)
}

func parse(args []string, out io.Writer) (o options, err error) {
	f := flag.NewFlagSet("bench/esp", flag.ContinueOnError)
	f.SetOutput(out)
	names := f.String("run", "", "contestants, separated by commas; all-suites stands for icvpn with each suite (default: those that -list marks)")
	where := f.String("settings", "", "settings of the link, separated by commas (default all)")
	megabytes := f.Int("content", defaultContent, "megabytes that must arrive intact through icvpn, in each setting; 0: none")
	f.IntVar(&o.rounds, "n", defaultRounds, "rounds; the medians are shown")
	f.DurationVar(&o.bulk, "time", defaultBulk, "how long the TCP stream is measured")
	f.IntVar(&o.pings, "pings", defaultPings, "echo requests, idle and again under load")
	f.DurationVar(&o.budget, "budget", defaultBudget, "begin no round that would end later")
	f.BoolVar(&o.iperf3, "iperf3", false, "let iperf3, which must be installed, send and receive")
	f.StringVar(&o.congestion, "congestion", defaultCongestion, "TCP's congestion control, of those that the kernel has")
	f.StringVar(&o.json, "json", "", "write the figures to this file too")
	f.StringVar(&o.icvpn, "icvpn", "", "binary to measure (default: built from this source)")
	f.StringVar(&o.versus, "versus", "", "a second binary of icvpn, to compare with the first in turns")
	f.BoolVar(&o.markdown, "markdown", false, "print the tables in Markdown")
	f.BoolVar(&o.list, "list", false, "list contestants and settings and end")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.content = int64(*megabytes) * 1e6
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.rounds < 1 || o.rounds > 100:
		return o, fmt.Errorf("-n %d: use 1 to 100", o.rounds)
	case o.bulk < 100*time.Millisecond || o.bulk > time.Minute:
		return o, fmt.Errorf("-time %v: use 100ms to 1m", o.bulk)
	case o.pings < 10 || o.pings > 10000:
		return o, fmt.Errorf("-pings %d: use 10 to 10000", o.pings)
	case *megabytes < 0 || *megabytes > 10000:
		return o, fmt.Errorf("-content %d: use 0 to 10000", *megabytes)
	}
	if err := measure.CheckReportPath(o.json); err != nil {
		return o, err
	}
	if o.contestants, err = chooseContestants(*names); err != nil {
		return o, err
	}
	if o.versus != "" {
		o.contestants = besides(o.contestants)
		if o.versus, err = filepath.Abs(o.versus); err != nil {
			return o, err
		}
	}
	o.settings, err = chooseSettings(*where)
	return o, err
}

// chooseContestants returns those of these names in the usual order, so that the
// one to compare with always runs at the same place.
func chooseContestants(names string) (chosen []contestant, err error) {
	var wanted []string
	if names != "" {
		wanted = strings.Split(names, ",")
	}
	all := contestants()
	for _, w := range wanted {
		if w != allSuites && !slices.ContainsFunc(all, func(c contestant) bool { return c.name == w }) {
			return nil, fmt.Errorf("no contestant %q; -list names them", w)
		}
	}
	for _, c := range all {
		if wanted == nil && c.usual || slices.Contains(wanted, c.name) || c.hasSuite && slices.Contains(wanted, allSuites) {
			chosen = append(chosen, c)
		}
	}
	return chosen, nil
}

func chooseSettings(names string) (chosen []setting, err error) {
	if names == "" {
		return settings, nil
	}
	wanted := strings.Split(names, ",")
	for _, w := range wanted {
		if !slices.ContainsFunc(settings, func(s setting) bool { return s.name == w }) {
			return nil, fmt.Errorf("no setting %q; -list names them", w)
		}
	}
	for _, s := range settings {
		if slices.Contains(wanted, s.name) {
			chosen = append(chosen, s)
		}
	}
	return chosen, nil
}

func list(w io.Writer) {
	fmt.Fprintln(w, "contestants (* by default):")
	for _, c := range contestants() {
		mark := " "
		if c.usual {
			mark = "*"
		}
		fmt.Fprintf(w, "%s %-28s %s\n", mark, c.name, c.about)
	}
	fmt.Fprintln(w, "settings of the link:")
	for _, s := range settings {
		fmt.Fprintf(w, "  %-28s %s\n", s.name, s.about)
	}
}

// inside is the run in the namespaces.
func inside(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.budget+graceTimeout)
	defer cancel()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench/esp:", err)
		return 1
	}
	return 0
}

// run measures and reports. What was measured before an error is shown.
func run(ctx context.Context, o options, out io.Writer) error {
	if err := lab.CheckTUN(); err != nil {
		return err
	}
	measure.FreeThreads()
	dir, err := os.MkdirTemp(lab.Scratch(), "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o, dir: dir, out: out}
	if b.icvpn, err = measure.Binary(ctx, o.icvpn, dir); err != nil {
		return err
	}
	b.report = newReport(time.Now(), &b.options)
	defer b.close()
	if err := b.makeLinks(); err != nil {
		return err
	}
	b.report.writeHead(out)
	failed := b.roundsLoop(ctx)
	b.report.finish()
	var table bytes.Buffer
	b.report.write(&table, o.markdown)
	_, _ = table.WriteTo(out)
	if o.json != "" {
		failed = errors.Join(failed, measure.Save(o.json, b.report))
	}
	return failed
}
