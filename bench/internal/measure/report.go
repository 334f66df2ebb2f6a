//go:build linux

package measure

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// ReportVersion grows when a field of Report changes its meaning or goes.
const ReportVersion = 1

// Report is what a benchmark of scenarios writes with -json.
type Report struct {
	Version   int       `json:"version"`
	Time      time.Time `json:"time"`
	Machine   Machine   `json:"machine"`
	Revision  string    `json:"revision,omitempty"` // of icvpn's source, "+" if changed
	Scenarios []Result  `json:"scenarios"`
}

// Result is one scenario's figures, and what had to hold.
type Result struct {
	Name    string   `json:"name"`
	About   string   `json:"about"`
	Seconds float64  `json:"seconds"` // that it took
	Metrics []Metric `json:"metrics"`
	Checks  []Check  `json:"checks,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// Metric is one figure. Samples are the measurements behind it, in the order of
// their making; of long series they are left out.
type Metric struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Value   float64   `json:"value"`
	Samples []float64 `json:"samples,omitempty"`
}

// Check is a number that must be Want.
type Check struct {
	Name string `json:"name"`
	Got  int    `json:"got"`
	Want int    `json:"want"`
}

// NewReport returns a report without scenarios. The binary of icvpn, if one is
// measured, says its revision.
func NewReport(now time.Time, binary string) *Report {
	r := &Report{Version: ReportVersion, Time: now.UTC().Truncate(time.Second), Machine: ThisMachine()}
	if binary != "" {
		r.Revision = Revision(binary)
	}
	return r
}

// Failures are the reasons why a scenario is no success.
func (r *Result) Failures() (all []string) {
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

// Write prints the figures for people.
func (r *Result) Write(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s (%.1f s)\n", r.Name, r.About, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range r.Metrics {
		fmt.Fprintf(t, "    %s\t%10s\t%s\n", m.Name, Number(m.Value), m.Unit)
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

// Choose returns those of all whose names are wanted, in the order of all.
func Choose[S any](all []S, wanted []string, name func(S) string) (chosen []S, err error) {
	for _, w := range wanted {
		if !slices.ContainsFunc(all, func(s S) bool { return name(s) == w }) {
			return nil, fmt.Errorf("no scenario %q; -list names them", w)
		}
	}
	for _, s := range all {
		if slices.Contains(wanted, name(s)) {
			chosen = append(chosen, s)
		}
	}
	return chosen, nil
}
