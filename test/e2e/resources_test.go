//go:build linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/lab"
)

// idleTime is how long a machine is left alone before its memory is read: longer
// than it keeps what only its join needed.
const idleTime = 8 * time.Second

// TestIdlePeerRSS prints what an idle machine costs; the figure is for people.
func TestIdlePeerRSS(t *testing.T) {
	w := newService(t, 1)
	idle, busy := w.join("web-1", "member"), w.join("app-2", "member")
	busy.awaitPing("web-1")
	joined := idle.rss()
	time.Sleep(idleTime)
	t.Logf("idle peer: VmRSS %.1f MiB, after its join %.1f MiB; super peer: %.1f MiB", mib(idle.rss()), mib(joined), mib(w.machines[0].rss()))
}

func mib(kib int) float64 { return float64(kib) / 1024 }

// rss is the resident memory in KiB.
func (m *machine) rss() int {
	m.w.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.process.Pid()))
	if err != nil {
		m.w.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				m.w.t.Fatal(err)
			}
			return n
		}
	}
	m.w.t.Fatalf("%s: no VmRSS in its status", m.name)
	return 0
}

const (
	comingAndGoing = 6 // machines at once
	rounds         = 5
)

// TestNoLeaks lets machines come and go, talking to one that stays. Neither that
// one nor the super peer may keep a descriptor or a goroutine for any of them.
func TestNoLeaks(t *testing.T) {
	crowd := lab.Cloud{Name: "west"}
	for i := range comingAndGoing {
		crowd.Hosts = append(crowd.Hosts, fmt.Sprintf("guest-%d", i))
	}
	w := newWorld(t, []lab.Cloud{{Name: "east", Hosts: []string{"super-1", "stays"}}, crowd})
	w.create("shop", []string{w.host("super-1").Addr4.String() + ":4500"})
	watched := []*machine{
		w.startSuper(0, "--metrics-listen", metricsAddr.String()),
		w.join("stays", "member", "--metrics-listen", metricsAddr.String()),
	}
	var guests []*machine
	for _, name := range crowd.Hosts {
		guests = append(guests, w.peer(name, "member"))
	}
	visit := func() {
		for _, g := range guests {
			g.start()
		}
		for _, g := range guests {
			g.awaitUp()
			g.awaitPing("stays")
		}
		w.stopAll(guests)
	}
	visit() // what is made once and kept is there after the first round
	watched[0].awaitUp()
	before := map[*machine]usage{}
	for _, m := range watched {
		before[m] = m.usage()
	}
	for range rounds - 1 {
		visit()
	}
	for _, m := range watched {
		var now usage
		w.eventually(m.name+" gives everything back", startLimit, func() error {
			if now = m.usage(); now.descriptors > before[m].descriptors || now.goroutines > before[m].goroutines {
				return fmt.Errorf("%+v, was %+v", now, before[m])
			}
			return nil
		})
		t.Logf("%s after %d joins and leaves: %+v, after %d: %+v", m.name, rounds*comingAndGoing, now, comingAndGoing, before[m])
	}
}

// metricsAddr is where the watched processes serve their metrics.
var metricsAddr = netip.MustParseAddrPort("127.0.0.1:9464")

// usage is what a process holds.
type usage struct{ descriptors, goroutines int }

func (m *machine) usage() (u usage) {
	m.w.t.Helper()
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return m.host.DialTCP(ctx, metricsAddr) },
	}}
	r, err := c.Get("http://" + metricsAddr.String() + "/metrics")
	if err != nil {
		m.w.t.Fatalf("%s: %v", m.name, err)
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			if u.goroutines, err = strconv.Atoi(n); err != nil {
				m.w.t.Fatal(err)
			}
		}
	}
	if u.goroutines == 0 {
		m.w.t.Fatalf("%s: its metrics name no goroutines", m.name)
	}
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.process.Pid()))
	if err != nil {
		m.w.t.Fatal(err)
	}
	u.descriptors = len(all)
	return u
}

// stopAll leaves with all of them at once.
func (w *world) stopAll(machines []*machine) {
	w.t.Helper()
	var g errgroup.Group
	for _, m := range machines {
		if err := m.process.Signal(syscall.SIGTERM); err != nil {
			w.t.Fatal(err)
		}
		g.Go(m.process.Wait)
	}
	if err := g.Wait(); err != nil {
		w.t.Fatal(err)
	}
}
