//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/bench/internal/measure"
)

var update = flag.Bool("update", false, "rewrite testdata")

func TestCommandLine(t *testing.T) {
	names := func(o options) (all []string) {
		for _, s := range o.run {
			all = append(all, s.name)
		}
		return all
	}
	for _, c := range []struct{ args, want, err string }{
		{"", "join firstping ping throughput memory admissions", ""},
		{"-run memory,join", "join memory", ""},
		{"-run memory,speed", "", `no scenario "speed"`},
		{"-json /dev/shm/x.json", "", "choose another directory"},
		{"throughput", "", `unexpected argument "throughput"`},
	} {
		o, err := parse(strings.Fields(c.args), new(bytes.Buffer))
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: %v, want %s", c.args, err, c.err)
		case c.err == "" && (err != nil || strings.Join(names(o), " ") != c.want):
			t.Errorf("%q: %q, %v", c.args, names(o), err)
		}
	}
}

// sample is a report as a run makes it.
func sample() *measure.Report {
	rec := &recorder{}
	rec.median("through the tunnel, median", "ms", []float64{0.25, 0.2, 0.3})
	rec.median("beside it, median", "ms", make([]float64, maxSamples+1))
	return &measure.Report{
		Version: measure.ReportVersion, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Revision: "0123456789ab+",
		Machine: measure.Machine{OS: "linux", Arch: "amd64", Kernel: "6.1.0", CPU: "CPU", CPUs: 2, Go: "go1.26"},
		Scenarios: []measure.Result{
			{Name: "ping", About: "round trips", Seconds: 1.5, Metrics: rec.metrics},
			{Name: "memory", About: "idle", Metrics: []measure.Metric{}, Error: "m1-1 ended: port in use"},
		},
	}
}

// TestReportFormatIsStable: whoever compares runs reads it.
func TestReportFormatIsStable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	if err := measure.Save(path, sample()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the report is not that of %s; if its meaning changed, raise measure.ReportVersion; got\n%s", golden, got)
	}
	var back measure.Report
	if err := json.Unmarshal(got, &back); err != nil || back.Scenarios[0].Metrics[0].Value != 0.25 {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

func TestTableIsReadable(t *testing.T) {
	var b bytes.Buffer
	for _, s := range sample().Scenarios {
		s.Write(&b)
	}
	const want = `
ping: round trips (1.5 s)
    through the tunnel, median       0.250  ms
    beside it, median                    0  ms

memory: idle (0.0 s)
    failed: m1-1 ended: port in use
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}
