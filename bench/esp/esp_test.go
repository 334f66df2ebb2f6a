//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/internal/lab/labtest"
)

var update = flag.Bool("update", false, "rewrite testdata")

// The test binary is its own contestants, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == endCommand {
		if err := runEnd(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(labtest.Main(m))
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct{ args, contestants, settings, err string }{
		{"", "icvpn-aes128cbc-sha256 icvpn-aes128gcm wireguard-go no-crypto edges no-tunnel", "on off off-udp", ""},
		{"-run no-tunnel,wireguard-go -settings off", "wireguard-go no-tunnel", "off", ""},
		{"-run all-suites -settings off-udp,on", "icvpn-aes128cbc-sha256 icvpn-aes256cbc-sha512 icvpn-aes128gcm icvpn-aes256gcm icvpn-chacha20poly1305", "on off-udp", ""},
		{"-versus /bin/false -run icvpn-aes128gcm,no-tunnel -settings on", "icvpn-aes128gcm versus-aes128gcm no-tunnel", "on", ""},
		{"-run openvpn", "", "", `no contestant "openvpn"`},
		{"-settings half", "", "", `no setting "half"`},
		{"-n 0", "", "", "use 1 to 100"},
		{"-pings 1", "", "", "use 10 to 10000"},
		{"-time 1h", "", "", "use 100ms to 1m"},
		{"-content -1", "", "", "use 0 to 10000"},
		{"-json /dev/shm/x.json", "", "", "choose another directory"},
		{"on", "", "", `unexpected argument "on"`},
	} {
		o, err := parse(strings.Fields(c.args), new(bytes.Buffer))
		var contestants, settings []string
		for _, v := range o.contestants {
			contestants = append(contestants, v.name)
		}
		for _, v := range o.settings {
			settings = append(settings, v.name)
		}
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: %v, want %s", c.args, err, c.err)
		case c.err == "" && (err != nil || strings.Join(contestants, " ") != c.contestants || strings.Join(settings, " ") != c.settings):
			t.Errorf("%q: %q, %q, %v", c.args, contestants, settings, err)
		}
	}
}

// sample is a report as a run makes it.
func sample() *report {
	r := &report{
		Version: reportVersion, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Revision: "0123456789ab+",
		Machine:  measure.Machine{OS: "linux", Arch: "amd64", Kernel: "6.1.0", CPU: "CPU", CPUs: 2, Go: "go1.26"},
		CPUFlags: []string{"aes"}, Load: load{Average: 0.1, OtherCPUs: []float64{0.01, 0.02}},
		Wireguard: "v0.0.0", Arguments: []string{"-n", "3"}, Generator: "own", TCP: "cubic", InnerMTU: innerMTU, Reference: reference,
		Notes: []string{"2 of 3 rounds"},
		Settings: []settingResult{
			{Name: "on", About: "offloads on", Contestants: []result{
				{Name: "icvpn-x", About: "ours", Content: &content{Bytes: 128e6, Sent: "ab", Received: "ab", Intact: true}, Trials: []figures{
					{Gbit: 4, CPU: 2, CPUSender: 1.25, CPUReceiver: 0.75, Busy: 2, RSSSender: 18, RSSReceiver: 20, IdleMedian: 0.2, IdleP99: 0.4, LoadMedian: 1, LoadP99: 2, LoadPings: 500},
					{Gbit: 6, CPU: 1.5, CPUSender: 1, CPUReceiver: 0.5, Busy: 2, RSSSender: 19, RSSReceiver: 20, IdleMedian: 0.25, IdleP99: 0.3, LoadMedian: 2, LoadP99: 4, LoadPings: 400, Lost: 1},
					{Gbit: 5, CPU: 1, CPUSender: 0.5, CPUReceiver: 0.5, Busy: 2, RSSSender: 20, RSSReceiver: 20, IdleMedian: 0.3, IdleP99: 0.5, LoadMedian: 3, LoadP99: 6, LoadPings: 300},
				}},
				{Name: reference, About: "theirs", Trials: []figures{
					{Gbit: 2, CPU: 6, CPUSender: 3, CPUReceiver: 3, Busy: 2, RSSSender: 400, RSSReceiver: 800, IdleMedian: 0.5, IdleP99: 1, LoadMedian: 4, LoadP99: 8, LoadPings: 250},
				}},
				{Name: "no-tunnel", About: "nothing", Trials: []figures{{Gbit: 40, Busy: 1.5, IdleMedian: 0.025, IdleP99: 0.05, LoadMedian: 0.03, LoadP99: 0.06, LoadPings: 500}}},
			}},
			{Name: "off", About: "offloads off", Contestants: []result{{Name: "icvpn-x", About: "ours", Trials: []figures{}, Error: "the content has changed on its way"}}},
			{Name: "never", About: "interrupted", Contestants: []result{{Name: "icvpn-x", About: "ours", Trials: []figures{}}}},
		},
	}
	r.finish()
	return r
}

// TestReportFormatIsStable: whoever compares runs reads it.
func TestReportFormatIsStable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	if err := measure.Save(path, sample()); err != nil {
		t.Fatal(err)
	}
	var table, markdown bytes.Buffer
	sample().write(&table, false)
	sample().write(&markdown, true)
	for golden, got := range map[string][]byte{"report.json": read(t, path), "table.txt": table.Bytes(), "table.md": markdown.Bytes()} {
		golden = filepath.Join("testdata", golden)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, read(t, golden)) {
			t.Errorf("the report is not that of %s; if its meaning changed, raise reportVersion; got\n%s", golden, got)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMediansAndRatiosAreOfEachFigure(t *testing.T) {
	r := sample().Settings[0].Contestants
	if m := r[0].Median; m.Gbit != 5 || m.CPU != 1.5 || m.LoadP99 != 4 || m.Lost != 0 {
		t.Errorf("%+v", m)
	}
	if q := r[0].Ratio; q.Gbit != 2.5 || q.CPU != 0.25 || q.IdleMedian != 0.5 || q.LoadPings != 0 {
		t.Errorf("%+v", q)
	}
	if q := r[2].Ratio; q.CPU != 0 || q.Gbit != 20 {
		t.Errorf("without processes: %+v", q)
	}
}

// TestEverySettingIsWhatItSays: the kernel is asked.
func TestEverySettingIsWhatItSays(t *testing.T) {
	labtest.Require(t)
	for _, s := range settings {
		k, err := newLink(s)
		if err != nil {
			t.Fatal(err)
		}
		defer k.close()
		for _, h := range k.hosts {
			err := h.Do(func() error {
				all, err := featureNames(linkInterface)
				if err != nil {
					return err
				}
				active, err := activeFeatures(linkInterface, all)
				if err != nil {
					return err
				}
				for _, name := range []string{"tx-tcp-segmentation", "tx-generic-segmentation", "tx-udp-segmentation"} {
					if on, off := slices.Contains(active, name), slices.Contains(s.off, name); on == off {
						t.Errorf("%s: %s is on: %v", s.name, name, on)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		if err := overLink(t, k); err != nil {
			t.Error(err)
		}
	}
}

// overLink sends something over the link.
func overLink(t *testing.T, k *link) error {
	t.Helper()
	for range 10 { // a link that has just been set up may lose its first packets
		if _, err := measure.Ping(t.Context(), k.hosts[0], linkAddrs[1].Addr(), 1, 0); err == nil {
			break
		}
	}
	h, err := measure.Transfer(measure.TCP{From: k.hosts[0], To: k.hosts[1], At: netip.AddrPortFrom(linkAddrs[1].Addr(), bulkPort)}, 1<<20)
	if err == nil && !h.Intact() {
		err = errContent
	}
	return err
}

// TestRunMeasuresEveryContestant is a whole run, as short as possible.
func TestRunMeasuresEveryContestant(t *testing.T) {
	if testing.Short() {
		t.Skip("builds icvpn and runs it")
	}
	labtest.RequireTUN(t)
	path := filepath.Join(t.TempDir(), "report.json")
	o, err := parse(strings.Fields("-settings on -n 1 -time 100ms -pings 10 -content 1 -json "+path), new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var r report
	if err := json.Unmarshal(read(t, path), &r); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Settings[0].Contestants {
		m := c.Median
		switch {
		case m == nil || m.Gbit <= 0 || m.IdleMedian <= 0 || m.LoadMedian <= 0:
			t.Errorf("%s: %+v", c.Name, m)
		case c.Name != "no-tunnel" && (m.RSSSender <= 0 || m.RSSReceiver <= 0):
			t.Errorf("%s: %+v", c.Name, m)
		case strings.HasPrefix(c.Name, "icvpn-") && (c.Content == nil || !c.Content.Intact || c.Content.Sent != c.Content.Received):
			t.Errorf("%s: content %+v", c.Name, c.Content)
		}
		if !strings.Contains(out.String(), c.Name) {
			t.Errorf("the table has no %s:\n%s", c.Name, out.String())
		}
	}
}

// TestFailedContestantIsAnError, and the others are measured all the same.
func TestFailedContestantIsAnError(t *testing.T) {
	labtest.RequireTUN(t)
	o, err := parse(strings.Fields("-settings on -run icvpn-aes128gcm,no-tunnel -n 1 -time 100ms -pings 10 -icvpn /bin/false"), new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = run(t.Context(), o, &out)
	if err == nil || !strings.Contains(err.Error(), "setting on: icvpn-aes128gcm: false in host a: ended by itself") {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "icvpn-aes128gcm FAILED") || !strings.Contains(out.String(), "    no-tunnel ") {
		t.Error(out.String())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("Ctrl-C")
	cancel(reason)
	if err := run(ctx, o, &out); !errors.Is(err, reason) {
		t.Error(err)
	}
}

func TestParseIPerf3(t *testing.T) {
	n, err := parseIPerf3(`{"start":{},"end":{"sum_sent":{"bytes":9},"sum_received":{"bytes":7,"seconds":2.5}}}`)
	if n != (carried{7, 2.5}) || err != nil {
		t.Error(n, err)
	}
	for _, bad := range []string{"", `{"error":"no route"}`} {
		if _, err := parseIPerf3(bad); err == nil || !strings.Contains(err.Error(), "iperf3: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
