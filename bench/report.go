//go:build linux

package main

import (
	"fmt"
	"io"
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

// result is one scenario's figures.
type result struct {
	Name    string   `json:"name"`
	About   string   `json:"about"`
	Seconds float64  `json:"seconds"` // that it took
	Metrics []metric `json:"metrics"`
	Error   string   `json:"error,omitempty"`
}

// metric is one figure. Samples are the measurements behind it, in the order of
// their making; of long series they are left out.
type metric struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Value   float64   `json:"value"`
	Samples []float64 `json:"samples,omitempty"`
}

// recorder gathers the figures of a scenario.
type recorder struct{ metrics []metric }

// maxSamples is how many measurements are worth keeping one by one.
const maxSamples = 32

func (r *recorder) add(name, unit string, value float64, samples ...float64) {
	if len(samples) > maxSamples {
		samples = nil
	}
	r.metrics = append(r.metrics, metric{name, unit, value, samples})
}

// median records the middle one of the samples.
func (r *recorder) median(name, unit string, samples []float64) {
	r.add(name, unit, measure.Quantile(samples, 0.5), samples...)
}

func newReport(now time.Time, icvpn string) *report {
	return &report{
		Version: reportVersion, Time: now.UTC().Truncate(time.Second),
		Machine: measure.ThisMachine(), Revision: measure.Revision(icvpn),
	}
}

func (r *report) writeHead(w io.Writer) {
	fmt.Fprintln(w, r.Machine)
}

// write prints the figures for people.
func (r *result) write(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s (%.1f s)\n", r.Name, r.About, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range r.Metrics {
		fmt.Fprintf(t, "    %s\t%10s\t%s\n", m.Name, measure.Number(m.Value), m.Unit)
	}
	_ = t.Flush()
	if r.Error != "" {
		fmt.Fprintf(w, "    failed: %s\n", r.Error)
	}
}

func (r *report) save(path string) error { return measure.Save(path, r) }
