//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

// Limits of waiting: generous, since a machine under load is no failure. What
// they bound takes a second or less.
const (
	startLimit = 60 * time.Second
	leaveLimit = 20 * time.Second
	pingLimit  = 40 * time.Second
	pollEvery  = 20 * time.Millisecond
)

// clouds is the network of most tests.
var clouds = []lab.Cloud{
	{Name: "east", Hosts: []string{"super-1", "web-1", "app-1", "db-1", "new-1"}},
	{Name: "west", Hosts: []string{"super-2", "web-2", "app-2", "db-2", "new-2"}},
}

// tiers are the roles and rules of the demo.
var tiers = []string{"--role", "web", "--role", "app", "--role", "db", "--allow", "web:app", "--allow", "app:db"}

// world is a network and one service on it.
type world struct {
	t        *testing.T
	ctx      context.Context
	lab      *lab.Lab
	dir      string
	machines []*machine
}

// besideOthers is for tests that wait more than they compute: they run together,
// each in its own network, after those that measure.
func besideOthers(t *testing.T) { t.Parallel() }

// newWorld makes the network of clouds. Files lie in a short path, as control
// sockets must.
func newWorld(t *testing.T, clouds []lab.Cloud) *world {
	t.Helper()
	labtest.RequireTUN(t)
	dir, err := os.MkdirTemp(lab.Scratch(), "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, ctx: t.Context(), dir: dir}
	program(t)
	w.lab = labtest.New(t, lab.Config{Clouds: clouds})
	t.Cleanup(w.showLogs)
	return w
}

// newService makes the network and a service with super peers on the hosts
// super-1 ... super-n, and starts those.
func newService(t *testing.T, n int, args ...string) *world {
	t.Helper()
	w := newWorld(t, clouds)
	var supers []string
	for i := range n {
		supers = append(supers, fmt.Sprintf("%s:4500", w.host(superName(i)).Addr4))
	}
	w.create("shop", supers, args...)
	for i := range n {
		w.startSuper(i)
	}
	return w
}

func superName(i int) string { return fmt.Sprintf("super-%d", i+1) }

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

func (w *world) host(name string) *lab.Host {
	w.t.Helper()
	h := w.lab.Host(name)
	if h == nil {
		w.t.Fatalf("no host %s", name)
	}
	return h
}

// create runs `icvpn service create`; the files go to the directory name.
func (w *world) create(name string, supers []string, args ...string) {
	w.t.Helper()
	all := append([]string{"service", "create", name, "--out", w.path(name)}, args...)
	for _, s := range supers {
		all = append(all, "--super", s)
	}
	if r := w.run(w.command(all...)); r.code != 0 {
		w.t.Fatalf("service create: %v", r)
	}
}

// startSuper starts the super peer of index i on its host and waits until it
// answers; it goes on making keys ahead while others join.
func (w *world) startSuper(i int, args ...string) *machine {
	w.t.Helper()
	name := superName(i)
	m := w.machine(name, append([]string{"super", "--config", w.path("shop", name+".yaml")}, args...)...)
	m.start()
	m.awaitAnswer()
	return m
}

// join starts a machine of a role and waits until it is up.
func (w *world) join(name, role string, args ...string) *machine {
	w.t.Helper()
	m := w.peer(name, role, args...)
	m.start()
	m.awaitUp()
	return m
}

// peer prepares a machine of a role without starting it.
func (w *world) peer(name, role string, args ...string) *machine {
	w.t.Helper()
	return w.machine(name, append([]string{"up", "--token-file", w.path("shop", role+".token"), "--name", name}, args...)...)
}

// result is how a command ended.
type result struct {
	args           []string
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("icvpn %s: exit code %d\n%s%s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// command is a command line of the program, with none of our environment's
// configuration.
func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program(w.t), args...)
	cmd.Dir = w.dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ICVPN_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	return cmd
}

// run runs a command to its end, outside every host.
func (w *world) run(cmd *exec.Cmd) result {
	w.t.Helper()
	return w.finish(cmd, cmd.Run)
}

// runIn does the same in a host.
func (w *world) runIn(h *lab.Host, cmd *exec.Cmd) result {
	w.t.Helper()
	return w.finish(cmd, func() error { return h.Run(cmd) })
}

// finish collects what run says and how it ends. A command that does not end is
// killed.
func (w *world) finish(cmd *exec.Cmd, run func() error) result {
	w.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	timer := time.AfterFunc(startLimit, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	})
	defer timer.Stop()
	err := run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("icvpn %s: %v", strings.Join(cmd.Args[1:], " "), err)
	}
	return result{cmd.Args[1:], cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// eventually polls until ok has no complaint, and fails with the last one.
func (w *world) eventually(what string, limit time.Duration, ok func() error) {
	w.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(pollEvery) {
		err := ok()
		if err == nil {
			return
		}
		if errors.Is(err, errEnded) || time.Now().After(end) {
			w.t.Fatalf("not so within %v: %s: %v", limit, what, err)
		}
	}
}

// showLogs prints the end of every log of a failed test.
func (w *world) showLogs() {
	if !w.t.Failed() {
		return
	}
	for _, m := range w.machines {
		lines := strings.Split(strings.TrimSpace(m.log()), "\n")
		w.t.Logf("%s:\n%s", m.name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}
