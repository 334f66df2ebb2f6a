//go:build linux

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"icvpn/bench/internal/measure"
)

// reportVersion grows when a field changes its meaning or goes.
const reportVersion = 1

// report is what -json writes.
type report struct {
	Version   int             `json:"version"`
	Time      time.Time       `json:"time"`
	Machine   measure.Machine `json:"machine"`
	Revision  string          `json:"revision,omitempty"` // of icvpn's source, "+" if changed
	Scenarios []result        `json:"scenarios"`
}

// result is one scenario's figures, and what had to hold.
type result struct {
	Name    string   `json:"name"`
	About   string   `json:"about"`
	Seconds float64  `json:"seconds"` // that it took
	Metrics []metric `json:"metrics"`
	Checks  []check  `json:"checks"`
	Error   string   `json:"error,omitempty"`
}

// metric is one figure.
type metric struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
}

// check is a number that must be Want.
type check struct {
	Name string `json:"name"`
	Got  int    `json:"got"`
	Want int    `json:"want"`
}

// recorder gathers the figures of a scenario.
type recorder struct {
	metrics []metric
	checks  []check
}

func (r *recorder) add(value float64, unit, format string, args ...any) {
	r.metrics = append(r.metrics, metric{fmt.Sprintf(format, args...), unit, value})
}

// times records the middle and the tail of durations in milliseconds.
func (r *recorder) times(took []float64, format string, args ...any) {
	name := fmt.Sprintf(format, args...)
	if len(took) == 0 {
		return
	}
	r.add(measure.Quantile(took, 0.5), "ms", "%s, median", name)
	r.add(measure.Quantile(took, 0.99), "ms", "%s, p99", name)
}

// recordReasons records how often something ended for each reason.
func recordReasons(r *recorder, what string, why map[string]int) {
	for _, text := range slices.Sorted(maps.Keys(why)) {
		r.add(float64(why[text]), "", "  %s: %s", what, text)
	}
}

// must records what has to hold.
func (r *recorder) must(got, want int, format string, args ...any) {
	r.checks = append(r.checks, check{fmt.Sprintf(format, args...), got, want})
}

func newReport(now time.Time, icvpn string) *report {
	r := &report{Version: reportVersion, Time: now.UTC().Truncate(time.Second), Machine: measure.ThisMachine()}
	if icvpn != "" {
		r.Revision = measure.Revision(icvpn)
	}
	return r
}

func (r *report) writeHead(w io.Writer) { fmt.Fprintln(w, r.Machine) }

// failures are the reasons why the run is no success.
func (r *result) failures() (all []string) {
	for _, c := range r.Checks {
		if c.Got != c.Want {
			all = append(all, fmt.Sprintf("%s: %d, must be %d", c.Name, c.Got, c.Want))
		}
	}
	if r.Error != "" {
		all = append(all, r.Error)
	}
	return all
}

// write prints the figures for people.
func (r *result) write(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s (%.1f s)\n", r.Name, r.About, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range r.Metrics {
		fmt.Fprintf(t, "    %s\t%10s\t%s\n", m.Name, measure.Number(m.Value), m.Unit)
	}
	for _, c := range r.Checks {
		verdict := "ok"
		if c.Got != c.Want {
			verdict = fmt.Sprintf("FAILED, must be %d", c.Want)
		}
		fmt.Fprintf(t, "    %s\t%10d\t%s\n", c.Name, c.Got, verdict)
	}
	_ = t.Flush()
	if r.Error != "" {
		fmt.Fprintf(w, "    failed: %s\n", r.Error)
	}
}
