package metrics

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"icvpn/esp"
	"icvpn/internal/control"
	"icvpn/internal/filter"
	"icvpn/internal/port"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
	"icvpn/keyex"
	"icvpn/overlay"
	"icvpn/tun"
)

var update = flag.Bool("update", false, "rewrite testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Source that says what it is told to.
type fake struct {
	status   control.Status
	snapshot Snapshot
	err      error
}

func (f *fake) Status(context.Context) (control.Status, error) { return f.status, f.err }
func (f *fake) Metrics(context.Context) (Snapshot, error)      { return f.snapshot, f.err }
func newOverlay(name string) Overlay                           { return Overlay{Name: name, Stats: new(overlay.Stats)} }
func status(role control.Role, s control.State) (st control.Status) {
	return control.Status{Role: role, State: s, CredentialExpires: time.Unix(1800000000, 0), Epoch: 3, PeersKnown: 5}
}

func newPeer() *fake {
	return &fake{status: status(control.RolePeer, control.StateUp), snapshot: Snapshot{
		Underlay: new(underlay.Stats), Port: new(port.Stats), Control: []*seal.Stats{new(seal.Stats), new(seal.Stats)},
		Overlays: []Overlay{newOverlay("service")}, Relay: new(relay.Stats),
		Peer: &Peer{
			ESP: []*esp.Stats{new(esp.Stats), new(esp.Stats)}, TUN: new(tun.Stats), Keyex: new(keyex.Stats),
			Filters: []*filter.Stats{new(filter.Stats)}, Tunnels: []Count{{"up", 4}}, Drops: []Count{{"queue_full", 1}}, Reflections: []Count{{"answered", 1}},
			Relayed: new(relay.ConnStats),
		},
	}}
}

func superOf(service string) Service {
	return Service{
		Name: service, Overlays: []Overlay{newOverlay("service"), newOverlay("universal")},
		Super: &Super{Admissions: []Count{{"granted", 7}}, KeysGiven: []Count{{"own", 5}, {"cohort", 2}}, KeysAhead: 1500 * time.Millisecond, MaxLeases: 254,
			HelperProbes: []Count{{"answered", 1}}, HelperChanges: []Count{{"promoted", 1}}},
	}
}

func newSuper() *fake {
	st := status(control.RoleSuper, control.StateUp)
	for _, name := range []string{"shop", "wiki"} {
		st.Services = append(st.Services, control.ServiceStatus{Name: name, CredentialExpires: st.CredentialExpires, Epoch: 3, PeersKnown: 5})
	}
	return &fake{status: st, snapshot: Snapshot{
		Underlay: new(underlay.Stats), Port: new(port.Stats), Control: []*seal.Stats{new(seal.Stats)}, Relay: new(relay.Stats),
		Services: []Service{superOf("shop"), superOf("wiki")},
	}}
}

// gather returns what a scrape of src brings of ours.
func gather(t *testing.T, src Source) (ours []*dto.MetricFamily) {
	t.Helper()
	all, err := NewRegistry(src).Gather()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "icvpn_") })
}

// interfaceOf is what an operator's rules and graphs depend on: the name, the
// type and the labels of each metric.
func interfaceOf(all []*dto.MetricFamily) string {
	var b strings.Builder
	for _, f := range all {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		fmt.Fprintf(&b, "%s %s {%s}\n", strings.ToLower(f.GetType().String()), f.GetName(), strings.Join(labels, ","))
	}
	return b.String()
}

func TestNamesAreStable(t *testing.T) {
	for name, src := range map[string]Source{"peer": newPeer(), "super": newSuper()} {
		golden := filepath.Join("testdata", name+".txt")
		got := interfaceOf(gather(t, src))
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("the metrics of a %s are not those of %s; got\n%s", name, golden, got)
		}
	}
}

func TestEveryNameIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range []Source{newPeer(), newSuper()} {
		for _, f := range gather(t, src) {
			if !bytes.Contains(doc, []byte("`"+f.GetName()+"`")) {
				t.Errorf("docs/metrics.md does not name %s", f.GetName())
			}
		}
	}
}

func TestNamesFollowTheConventions(t *testing.T) {
	for _, src := range []Source{newPeer(), newSuper()} {
		problems, err := promlint.NewWithMetricFamilies(gather(t, src)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// fill gives every exported counter of a Stats a number of its own.
func fill(stats any, next *uint64) (set []uint64) {
	v := reflect.ValueOf(stats).Elem()
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		if c, ok := v.Field(i).Addr().Interface().(*atomic.Uint64); ok {
			*next++
			c.Store(*next)
			set = append(set, *next)
		}
	}
	return set
}

func TestEveryCounterIsRendered(t *testing.T) {
	src := newPeer()
	s, next := src.snapshot, uint64(1000)
	var want []uint64
	for _, stats := range []any{s.Underlay, s.Port, s.Control[0], s.Overlays[0].Stats, s.Peer.ESP[0], s.Peer.TUN, s.Peer.Keyex, s.Relay, s.Peer.Relayed} {
		set := fill(stats, &next)
		if len(set) == 0 {
			t.Errorf("%T has no counter", stats)
		}
		want = append(want, set...)
	}
	got := values(gather(t, src))
	for _, n := range want {
		if !got[float64(n)] {
			t.Errorf("counter %d of %d is not rendered", n-1000, len(want))
		}
	}
}

func values(all []*dto.MetricFamily) map[float64]bool {
	out := map[float64]bool{}
	for _, f := range all {
		for _, m := range f.Metric {
			out[m.GetCounter().GetValue()+m.GetGauge().GetValue()] = true
		}
	}
	return out
}

// reasons returns the values of label reason in a family.
func reasons(all []*dto.MetricFamily, name string) (out []string) {
	for _, f := range all {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if f.GetName() == name && l.GetName() == "reason" {
					out = append(out, l.GetValue())
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func words[D fmt.Stringer](all []D) (out []string) {
	for _, d := range all {
		out = append(out, strings.ReplaceAll(d.String(), " ", "_"))
	}
	slices.Sort(out)
	return out
}

func TestEveryDropReasonIsRendered(t *testing.T) {
	all := gather(t, newPeer())
	for name, want := range map[string][]string{
		"icvpn_esp_drops_total": words(esp.Drops()), "icvpn_control_drops_total": words(seal.Drops()),
		"icvpn_overlay_drops_total": words(overlay.Drops()), "icvpn_keyex_drops_total": words(keyex.DropReasons()),
		"icvpn_filter_drops_total": words(filter.Verdicts()),
	} {
		if got := reasons(all, name); len(got) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s: reasons %q, want %q", name, got, want)
		}
	}
}

// value returns the one value with all the given label values.
func value(t *testing.T, src Source, name string, labels ...string) float64 {
	t.Helper()
	return valueIn(t, gather(t, src), name, labels...)
}

func valueIn(t *testing.T, all []*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	for _, f := range all {
		for _, m := range f.Metric {
			has := func(v string) bool {
				return slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetValue() == v })
			}
			if f.GetName() == name && !slices.ContainsFunc(labels, func(v string) bool { return !has(v) }) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no %s %q", name, labels)
	return 0
}

func TestSeveralStatsAreSummed(t *testing.T) {
	src := newPeer()
	for _, s := range src.snapshot.Peer.ESP {
		s.OpenedBytes.Add(1400)
		s.CountDrop(esp.DropReplay)
	}
	if got := value(t, src, "icvpn_inbound_bytes_total"); got != 2800 {
		t.Errorf("inbound bytes = %v", got)
	}
	if got := value(t, src, "icvpn_esp_drops_total", "replay"); got != 2 {
		t.Errorf("replay drops = %v", got)
	}
}

// pair returns a filter without rules after it refused n packets.
func pair(n int) *filter.Pair {
	p := filter.Compile(nil, nil, nil)
	for range n {
		p.Outbound(nil, time.Unix(0, 0))
	}
	return p
}

func TestFilterCountersNeverFall(t *testing.T) {
	src := newPeer()
	refused := func(r interface {
		Gather() ([]*dto.MetricFamily, error)
	}) float64 {
		all, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		return valueIn(t, all, "icvpn_filter_drops_total", "outbound", "malformed")
	}
	first, second := pair(3), pair(5)
	src.snapshot.Peer.Filters = []*filter.Stats{first.Stats()}
	r := NewRegistry(src)
	if got := refused(r); got != 3 {
		t.Errorf("one filter: %v", got)
	}
	first.Outbound(nil, time.Unix(0, 0)) // counted after the last scrape, before it is replaced
	src.snapshot.Peer.Filters = []*filter.Stats{second.Stats()}
	for range 2 {
		if got := refused(r); got != 9 {
			t.Errorf("replaced: %v", got)
		}
	}
	src.snapshot.Peer.Filters = nil
	if got := refused(r); got != 9 {
		t.Errorf("gone: %v", got)
	}
}

func TestAProcessThatJoinsIsNotUp(t *testing.T) {
	src := &fake{status: control.Status{State: control.StateJoining}}
	if got := interfaceOf(gather(t, src)); got != "gauge icvpn_up {}\n" {
		t.Errorf("got\n%s", got)
	}
	if got := value(t, src, "icvpn_up"); got != 0 {
		t.Errorf("up = %v", got)
	}
}

func TestAProcessThatDoesNotAnswerIsNotUp(t *testing.T) {
	src := newPeer()
	src.err = errors.New("the control loop has ended")
	all := gather(t, src)
	if got := valueIn(t, all, "icvpn_up"); got != 0 {
		t.Errorf("up = %v", got)
	}
	if strings.Contains(interfaceOf(all), "esp") {
		t.Error("counters of a process that did not answer")
	}
}
