//go:build linux

package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/internal/service"
	"icvpn/internal/underlay"
)

var update = flag.Bool("update", false, "rewrite testdata")

// TestSmallFleet runs the scenario that everything else stands on, in real time:
// in a bubble, super peers would make all the keys that they want to have ahead
// before the clock moves.
func TestSmallFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds of cryptography")
	}
	b := &bench{ctx: t.Context(), out: slog.New(slog.DiscardHandler), began: time.Now(), progress: t.Output()}
	b.sizes = sizes{peers: 20, members: 10, supers: 2, probes: 2, sample: 8, joiners: 8, settle: 0, idle: 100 * time.Millisecond, clients: 4}
	res := b.runScenario(scenario{name: "fleet", run: fleet})
	var table bytes.Buffer
	res.Write(&table)
	t.Log(table.String())
	for _, why := range res.Failures() {
		t.Error(why)
	}
	if len(res.Checks) < 4 || len(res.Metrics) == 0 {
		t.Errorf("%d checks, %d figures", len(res.Checks), len(res.Metrics))
	}
}

func TestBookFindsAddressesGivenTwice(t *testing.T) {
	lease := func(machine, host byte, from, until int64) *service.Credential {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{machine}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
		return &service.Credential{Key: key, Address4: []byte{10, 64, 0, host}, NotBefore: from, NotAfter: until}
	}
	for _, tt := range []struct {
		name string
		all  []*service.Credential
		want int
	}{
		{"one after the other", []*service.Credential{lease(1, 1, 0, 10), lease(2, 1, 10, 20)}, 0},
		{"at one time", []*service.Credential{lease(1, 1, 0, 10), lease(2, 1, 9, 20)}, 1},
		{"renewed", []*service.Credential{lease(1, 1, 0, 10), lease(1, 1, 5, 20)}, 0},
		{"two addresses", []*service.Credential{lease(1, 1, 0, 10), lease(2, 2, 0, 10)}, 0},
		{"within a longer one", []*service.Credential{lease(1, 1, 0, 100), lease(1, 1, 10, 20), lease(2, 1, 50, 60)}, 1},
	} {
		var b book
		for _, c := range tt.all {
			b.enter(c)
		}
		if got := b.twice(); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestEchoAnswerHasACorrectChecksum(t *testing.T) {
	ping := make([]byte, 28+7)
	ping[0], ping[9], ping[20] = 0x45, 1, 8
	copy(ping[12:], []byte{10, 64, 0, 1, 10, 64, 0, 2})
	copy(ping[24:], "identifier")
	sum := func(b []byte) uint16 { return headerChecksum(append(bytes.Clone(b), make([]byte, len(b)%2)...)) }
	binary.BigEndian.PutUint16(ping[22:], sum(ping[20:]))
	got := echoAnswer(ping)
	if got == nil || got[20] != 0 || sum(got[20:]) != 0 || !bytes.Equal(got[12:20], []byte{10, 64, 0, 2, 10, 64, 0, 1}) {
		t.Errorf("answer %x", got)
	}
	if echoAnswer(got) != nil || echoAnswer(ping[:27]) != nil {
		t.Error("an answer was answered, or half a packet")
	}
}

func TestPartitionAndEndSeparateHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		go n.deliverLoop(t.Context())
		at := func(i byte) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 20, 0, i}), portNumber)
		}
		a, z := n.attach(at(1), 4), n.attach(at(2), 4)
		send := func(text string) {
			m := []underlay.Message{{Buf: []byte(text), N: len(text), Addr: z.addr}}
			if _, err := a.WriteBatch(m); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * latency)
		}
		send("first")
		n.part(1, z.addr.Addr())
		send("parted")
		n.heal()
		send("healed")
		z.Close()
		send("gone")
		z = n.attach(at(2), 4)
		send("back")
		got := []string{}
		for _, h := range []*host{n.hosts[z.addr.Addr()]} {
			ms := underlay.NewBatch(4, 100)
			k, err := h.ReadBatch(ms)
			for _, m := range ms[:k] {
				got = append(got, string(m.Buf[:m.N]))
			}
			if err != nil {
				t.Error(err)
			}
		}
		if strings.Join(got, " ") != "back" || a.sent.Load() != 5 {
			t.Errorf("received %q", got)
		}
	})
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct{ args, want, err string }{
		{"", "fleet churn deadsuper half storm idle", ""},
		{"-run storm,fleet", "fleet storm", ""},
		{"-run storm,rain", "", `no scenario "rain"`},
		{"-peers 1", "", "two peers"},
		{"-spread 1,x", "", "no number"},
		{"fleet", "", "unexpected argument"},
	} {
		o, err := parse(strings.Fields(c.args), new(bytes.Buffer))
		var names []string
		for _, s := range o.run {
			names = append(names, s.name)
		}
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: %v, want %s", c.args, err, c.err)
		case c.err == "" && (err != nil || strings.Join(names, " ") != c.want):
			t.Errorf("%q: %q, %v", c.args, names, err)
		}
	}
	if o, err := parse([]string{"-spread", "3,5"}, new(bytes.Buffer)); err != nil || len(o.spread) != 2 || o.spread[1] != 5 {
		t.Errorf("spread %v, %v", o.spread, err)
	}
}

// sample is a report as a run makes it.
func sample() *measure.Report {
	rec := &recorder{}
	rec.add(200, "", "peers that run")
	rec.times([]float64{1, 2, 3}, "  a join")
	recordReasons(rec, "not found", map[string]int{"overlay: not found": 2})
	rec.must(0, 0, "addresses given twice")
	rec.must(2, 0, "contact records not found")
	return &measure.Report{
		Version: measure.ReportVersion, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Revision: "0123456789ab+",
		Machine:   measure.Machine{OS: "linux", Arch: "amd64", Kernel: "6.1.0", CPU: "CPU", CPUs: 2, Go: "go1.26"},
		Scenarios: []measure.Result{{Name: "fleet", About: "everybody finds everybody", Seconds: 1.5, Metrics: rec.metrics, Checks: rec.checks, Error: "web-1: gone"}},
	}
}

// TestReportFormatIsStable: whoever compares runs reads it.
func TestReportFormatIsStable(t *testing.T) {
	got, err := json.MarshalIndent(sample(), "", "  ")
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
}

func TestTableNamesWhatFailed(t *testing.T) {
	var b bytes.Buffer
	s := sample().Scenarios[0]
	s.Write(&b)
	const want = `
fleet: everybody finds everybody (1.5 s)
    peers that run                          200  
      a join, median                       2.00  ms
      a join, p99                          3.00  ms
      not found: overlay: not found        2.00  
    addresses given twice                     0  ok
    contact records not found                 2  FAILED, must be 0
    failed: web-1: gone
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
	if f := s.Failures(); len(f) != 2 || f[0] != "contact records not found: 2, must be 0" || f[1] != "web-1: gone" {
		t.Errorf("failures %q", f)
	}
}
