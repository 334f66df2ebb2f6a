//go:build linux

package main

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// reportVersion grows when a field changes its meaning or goes.
const reportVersion = 1

// report is what -json writes.
type report struct {
	Version   int       `json:"version"`
	Time      time.Time `json:"time"`
	Machine   machineID `json:"machine"`
	Revision  string    `json:"revision,omitempty"` // of icvpn's source, "+" if changed
	Scenarios []result  `json:"scenarios"`
}

// machineID says where the figures are from.
type machineID struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Go     string `json:"go"`
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
	r.add(name, unit, quantile(samples, 0.5), samples...)
}

// quantile returns the smallest sample that is not below the share q of all.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(samples))
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func newReport(now time.Time, icvpn string) *report {
	return &report{
		Version: reportVersion, Time: now.UTC().Truncate(time.Second), Revision: revision(icvpn),
		Machine: machineID{OS: runtime.GOOS, Arch: runtime.GOARCH, Kernel: kernel(), CPU: cpuName(), CPUs: runtime.NumCPU(), Go: runtime.Version()},
	}
}

// revision is what the go command stamped on the binary, if anything.
func revision(icvpn string) (rev string) {
	info, err := buildinfo.ReadFile(icvpn)
	if err != nil {
		return ""
	}
	changed := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	return rev + changed
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func cpuName() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (r *report) writeHead(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "%d x %s, %s %s, %s\n", m.CPUs, cmp.Or(m.CPU, m.Arch), m.OS, m.Kernel, m.Go)
}

// write prints the figures for people.
func (r *result) write(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s (%.1f s)\n", r.Name, r.About, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range r.Metrics {
		fmt.Fprintf(t, "    %s\t%10s\t%s\n", m.Name, number(m.Value), m.Unit)
	}
	_ = t.Flush()
	if r.Error != "" {
		fmt.Fprintf(w, "    failed: %s\n", r.Error)
	}
}

// number shows three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || a == 0:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// save writes the report in one step, so that a reader never sees half of one.
func (r *report) save(path string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
