//go:build linux

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
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
	CPUFlags  []string        `json:"cpu_flags"` // those that matter here
	Load      load            `json:"load"`
	Revision  string          `json:"revision,omitempty"` // of icvpn's source, "+" if changed
	Wireguard string          `json:"wireguard_go"`       // version of the module
	Arguments []string        `json:"arguments"`
	Generator string          `json:"generator"` // of the TCP stream
	TCP       string          `json:"tcp_congestion_control"`
	InnerMTU  int             `json:"inner_mtu"`
	Reference string          `json:"reference"` // what ratios are to
	Notes     []string        `json:"notes"`
	Settings  []settingResult `json:"settings"`
}

// load is what others did on the machine.
type load struct {
	Average   float64   `json:"average"`    // of a minute, at the start
	OtherCPUs []float64 `json:"other_cpus"` // processors in use before each round
}

// settingResult is what was measured in one setting.
type settingResult struct {
	Name        string   `json:"name"`
	About       string   `json:"about"`
	Contestants []result `json:"contestants"`
}

// result is what one contestant showed.
type result struct {
	Name    string    `json:"name"`
	About   string    `json:"about"`
	Median  *figures  `json:"median,omitempty"`
	Ratio   *figures  `json:"ratio,omitempty"` // of the medians, to those of the reference
	Trials  []figures `json:"trials"`
	Content *content  `json:"content,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// content is what was sent and compared.
type content struct {
	Bytes    int64  `json:"bytes"`
	Sent     string `json:"sent_sha256"`
	Received string `json:"received_sha256"`
	Intact   bool   `json:"intact"`
}

// figures are those of a trial, or medians, or ratios of them. 0 is none: no
// process, no CPU time.
type figures struct {
	Gbit        float64 `json:"gbit_per_s,omitempty"`
	CPU         float64 `json:"cpu_s_per_gb,omitempty"` // user and system, both ends
	CPUSender   float64 `json:"cpu_sender_s_per_gb,omitempty"`
	CPUReceiver float64 `json:"cpu_receiver_s_per_gb,omitempty"`
	Busy        float64 `json:"busy_cpus,omitempty"` // of the machine, sender and receiver included
	RSSSender   float64 `json:"rss_peak_sender_mib,omitempty"`
	RSSReceiver float64 `json:"rss_peak_receiver_mib,omitempty"`
	IdleMedian  float64 `json:"ping_idle_median_ms,omitempty"`
	IdleP99     float64 `json:"ping_idle_p99_ms,omitempty"`
	LoadMedian  float64 `json:"ping_load_median_ms,omitempty"`
	LoadP99     float64 `json:"ping_load_p99_ms,omitempty"`
	LoadPings   float64 `json:"ping_load_count,omitempty"`
	Lost        float64 `json:"pings_lost,omitempty"`
}

// each returns all figures, in the same order for all.
func (f *figures) each() []*float64 {
	return []*float64{
		&f.Gbit, &f.CPU, &f.CPUSender, &f.CPUReceiver, &f.Busy, &f.RSSSender, &f.RSSReceiver,
		&f.IdleMedian, &f.IdleP99, &f.LoadMedian, &f.LoadP99, &f.LoadPings, &f.Lost,
	}
}

// medians returns the middle one of each figure.
func medians(trials []figures) *figures {
	if len(trials) == 0 {
		return nil
	}
	m := &figures{}
	for i, f := range m.each() {
		var samples []float64
		for j := range trials {
			samples = append(samples, *trials[j].each()[i])
		}
		*f = measure.Quantile(samples, 0.5)
	}
	return m
}

// ratios returns how many times those of ref the figures are. Counts have none.
func ratios(f, ref *figures) *figures {
	if f == nil || ref == nil {
		return nil
	}
	r := &figures{}
	numerators, denominators := f.each(), ref.each()
	for i, v := range r.each() {
		if *denominators[i] > 0 {
			*v = *numerators[i] / *denominators[i]
		}
	}
	r.LoadPings, r.Lost = 0, 0
	return r
}

func newReport(now time.Time, o *options) *report {
	r := &report{
		Version: reportVersion, Time: now.UTC().Truncate(time.Second),
		Machine:  measure.ThisMachine(),
		CPUFlags: measure.CPUFlags("aes", "pclmulqdq", "sha_ni", "avx2", "vaes", "vpclmulqdq", "avx512f", "avx512bw", "sha1", "sha2", "sha512"),
		Load:     load{Average: measure.LoadAverage()},
		Revision: measure.Revision(o.icvpn), Wireguard: wireguardVersion(),
		Arguments: append([]string{}, os.Args[1:]...), Generator: "own", TCP: o.congestion, InnerMTU: innerMTU, Reference: reference,
		Notes: []string{},
	}
	if o.iperf3 {
		r.Generator = "iperf3"
	}
	for _, s := range o.settings {
		res := settingResult{Name: s.name, About: s.about}
		for _, c := range o.contestants {
			res.Contestants = append(res.Contestants, result{Name: c.name, About: c.about, Trials: []figures{}})
		}
		r.Settings = append(r.Settings, res)
	}
	return r
}

// note says something that readers of the figures must know.
func (r *report) note(w io.Writer, text string) {
	r.Notes = append(r.Notes, text)
	fmt.Fprintln(w, "NOTE:", text)
}

// finish computes medians and ratios.
func (r *report) finish() {
	for i := range r.Settings {
		all := r.Settings[i].Contestants
		for j := range all {
			all[j].Median = medians(all[j].Trials)
		}
		at := slices.IndexFunc(all, func(c result) bool { return c.Name == reference })
		for j := range all {
			if at >= 0 {
				all[j].Ratio = ratios(all[j].Median, all[at].Median)
			}
		}
	}
}

func (r *report) writeHead(w io.Writer) {
	fmt.Fprintf(w, "%v (%s)\n", r.Machine, strings.Join(r.CPUFlags, " "))
	fmt.Fprintf(w, "icvpn %s, wireguard-go %s; one TCP stream (%s, %s), inner MTU %d; load average %.1f\n",
		cmp.Or(r.Revision, "of unknown revision"), r.Wireguard, r.Generator, r.TCP, r.InnerMTU, r.Load.Average)
}

// columns of the table; those without a name hold ratios.
var columns = []string{"contestant", "Gbit/s", "", "CPU s/GB", "", "peak RSS MiB", "ping ms, idle", "", "ping ms, loaded", "", "CPUs busy", "n"}

// write prints the figures for people. What stands behind a figure in brackets is
// its ratio to the reference.
func (r *report) write(w io.Writer, markdown bool) {
	for _, s := range r.Settings {
		if !slices.ContainsFunc(s.Contestants, func(c result) bool { return c.Median != nil || c.Error != "" }) {
			continue // interrupted before
		}
		fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.About)
		rows := [][]string{columns}
		for _, c := range s.Contestants {
			if c.Median != nil {
				rows = append(rows, c.cells())
			}
		}
		indent := "    "
		if markdown {
			indent = ""
			writeMarkdown(w, rows)
		} else {
			writeTable(w, rows)
		}
		for _, c := range s.Contestants {
			if c.Content != nil && c.Content.Intact {
				fmt.Fprintf(w, "%s%s: %d MB intact, SHA-256 %s\n", indent, c.Name, c.Content.Bytes/1e6, c.Content.Received)
			}
			if c.Error != "" {
				fmt.Fprintf(w, "%s%s FAILED: %s\n", indent, c.Name, c.Error)
			}
		}
	}
	fmt.Fprintf(w, "\nMedians of n trials; pings median/p99; RSS sender/receiver. In brackets: how many times %s's.\n", r.Reference)
	for _, n := range r.Notes {
		fmt.Fprintln(w, "NOTE:", n)
	}
}

func writeTable(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(t, "    %s\n", strings.Join(row, "\t"))
	}
	_ = t.Flush()
}

// writeMarkdown puts ratios into the cells of their figures.
func writeMarkdown(w io.Writer, rows [][]string) {
	fmt.Fprintln(w)
	for i, row := range rows {
		var cells []string
		for j, cell := range row {
			switch {
			case columns[j] != "":
				cells = append(cells, cell)
			case cell != "":
				cells[len(cells)-1] += " " + cell
			}
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintln(w, strings.Repeat("| --- ", len(cells))+"|")
		}
	}
	fmt.Fprintln(w)
}

// cells are a row of the table.
func (c *result) cells() []string {
	m, r := c.Median, c.Ratio
	if r == nil || c.Name == reference {
		r = &figures{}
	}
	return []string{
		c.Name, pair(m.Gbit), bracket(r.Gbit), pair(m.CPU), bracket(r.CPU), pair(m.RSSSender, m.RSSReceiver),
		pair(m.IdleMedian, m.IdleP99), bracket(r.IdleMedian, r.IdleP99),
		pair(m.LoadMedian, m.LoadP99), bracket(r.LoadMedian, r.LoadP99), pair(m.Busy), fmt.Sprint(len(c.Trials)),
	}
}

// pair shows figures with a stroke between them.
func pair(values ...float64) string {
	var all []string
	for _, v := range values {
		text := "-"
		if v != 0 {
			text = measure.Number(v)
		}
		all = append(all, text)
	}
	if slices.Max(values) == 0 {
		return "-"
	}
	return strings.Join(all, "/")
}

func bracket(values ...float64) string {
	if slices.Max(values) == 0 {
		return ""
	}
	return "(" + pair(values...) + ")"
}
