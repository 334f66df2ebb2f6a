//go:build linux

package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// icvpn is a running `icvpn tunnel`.
type icvpn struct {
	cmd    *exec.Cmd
	stdout *log
	stderr *log
	done   chan struct{}
}

// log is a Writer that can be read while it is written.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startIcvpn runs the tunnel until the test is over.
func startIcvpn(t *testing.T, binary, config string) *icvpn {
	t.Helper()
	p := &icvpn{cmd: exec.Command(binary, "tunnel", "--config", config), stdout: &log{}, stderr: &log{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() { p.stop(t) })
	if !eventually(func() bool { return strings.Contains(p.stderr.String(), "tunnel ready") || p.ended() }) || p.ended() {
		t.Fatalf("icvpn tunnel does not start:\n%s", p.stderr)
	}
	return p
}

func (p *icvpn) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the process as an operator would, and shows what it said if something
// was wrong with it or with the test.
func (p *icvpn) stop(t *testing.T) {
	t.Helper()
	alive := !p.ended()
	_ = p.cmd.Process.Signal(os.Interrupt)
	if !eventually(p.ended) {
		t.Error("icvpn tunnel does not end")
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	if !alive {
		t.Error("icvpn tunnel ended by itself")
	}
	if t.Failed() {
		text := p.stdout.String() // its last counters are the whole sum
		t.Logf("icvpn tunnel:\n%s%s", p.stderr, text[max(0, strings.LastIndex(text, countersBegin)):])
	}
}

// countersBegin is the first word of each table of counters.
const countersBegin = "after "

// reason is how a line of the counters names one of esp.Drop.
var reason = regexp.MustCompile(`([a-z_]+) (\d+)`)

// drops returns icvpn's counters of packets from the peer that it refused.
func (p *icvpn) drops(t *testing.T) counters {
	t.Helper()
	seen := strings.Count(p.stdout.String(), countersBegin)
	if err := p.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if !eventually(func() bool { return strings.Count(p.stdout.String(), countersBegin) > seen }) {
		t.Fatal("icvpn tunnel does not print its counters")
	}
	text := p.stdout.String()
	c := counters{}
	for line := range strings.Lines(text[strings.LastIndex(text, countersBegin):]) {
		title, list, ok := strings.Cut(line, ": ")
		if title = strings.TrimSpace(title); !ok || title != "not received" && title != "no SA" {
			continue
		}
		for _, m := range reason.FindAllStringSubmatch(list, -1) {
			n, _ := strconv.Atoi(m[2])
			c[m[1]] += n
		}
	}
	return c
}

// counters are packets refused, by reason.
type counters map[string]int

// since returns what has been added.
func (c counters) since(earlier counters) counters {
	d := counters{}
	for k, n := range c {
		if n != earlier[k] {
			d[k] = n - earlier[k]
		}
	}
	return d
}

func (c counters) total() (n int) {
	for _, v := range c {
		n += v
	}
	return n
}

func (c counters) String() string { return strings.TrimPrefix(fmt.Sprint(map[string]int(c)), "map") }

// drops returns the kernel's counters of packets that it refused on their way in.
func (m *machine) drops(t *testing.T) counters {
	t.Helper()
	c := counters{}
	for line := range strings.Lines(m.must(t, "cat /proc/net/xfrm_stat")) {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], "XfrmIn") {
			c[f[0]], _ = strconv.Atoi(f[1])
		}
	}
	return c
}

// commands returns the shell commands that make the kernel the other end.
func commands(t *testing.T, binary, config string) string {
	t.Helper()
	return run(t, binary, "tunnel", "--config", config, "--print-iproute2")
}

// notOffered is a kernel that cannot do what it was asked for.
type notOffered struct{ why string }

func (e *notOffered) Error() string { return e.why }

// refusals are how the kernel says that it lacks an algorithm or a protocol.
var refusals = []string{"algorithm not found", "type not found", "not supported", "Protocol not available"}

// install makes the kernel the other end, in place of an earlier one. A cell
// without algorithms is told from one with a mistake in the commands.
func (m *machine) install(commands string) error {
	const flush = "ip xfrm state flush; ip xfrm policy flush\n" +
		"ip route flush 10.77.0.1 2>/dev/null; ip -6 route flush fd77::1 2>/dev/null\nset -e\n"
	out, err := m.sh(flush+commands, patience)
	var failed *scriptError
	if errors.As(err, &failed) {
		for _, r := range refusals {
			if strings.Contains(out, r) {
				return &notOffered{strings.TrimSpace(out)}
			}
		}
	}
	return err
}

// eventually waits for something to become true.
func eventually(cond func() bool) bool {
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		if cond() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
