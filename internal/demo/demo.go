package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/control"
	"icvpn/internal/lab"
)

// Limits of waiting; the demo as a whole takes far less.
const (
	wholeTimeout = 3 * time.Minute
	superTimeout = 60 * time.Second
	joinTimeout  = 30 * time.Second
	leaveTimeout = 10 * time.Second
	pollEvery    = 20 * time.Millisecond
)

// FailedError says that the inner run failed and has said why.
type FailedError struct{ Code int }

func (e *FailedError) Error() string {
	return fmt.Sprintf("the demo failed with code %d; the lines above say where", e.Code)
}

// Run shows the demo. It starts the program again inside fresh namespaces, so
// it must be called with the program's own arguments untouched.
func Run(ctx context.Context, out io.Writer) error {
	code, err := lab.Main(func() int { return inside(ctx, out) })
	switch {
	case err != nil:
		return fmt.Errorf("the demo needs network namespaces and a TUN device: %w", err)
	case lab.Inside():
		os.Exit(code) // pid 1 of the namespaces: everything in them ends with it
	case code != 0:
		return &FailedError{code}
	}
	return nil
}

// inside is the demo in its namespaces.
func inside(ctx context.Context, out io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	d := &demo{ctx: ctx, show: newScreen(out), dir: lab.Scratch(), began: time.Now()}
	err := d.run()
	if d.lab != nil {
		err = errors.Join(err, d.lab.Close())
	}
	if ctx.Err() == nil && err == nil {
		return 0
	}
	if errors.Is(context.Cause(ctx), context.Canceled) {
		d.show.line("interrupted; nothing is left behind")
		return 130
	}
	d.show.line("failed: %v", err)
	d.showLogs()
	return 1
}

// demo is one run.
type demo struct {
	ctx   context.Context
	show  *screen
	dir   string
	began time.Time

	lab    *lab.Lab
	supers []*machine
	vms    []*machine
}

// machine is one process of this binary in a host.
type machine struct {
	name    string
	host    *lab.Host
	dir     string
	process *lab.Process
	control *control.Client
	started time.Time
}

var clouds = []lab.Cloud{
	{Name: "east", Hosts: []string{"super-1", "web-1", "app-1", "db-1"}},
	{Name: "west", Hosts: []string{"super-2", "web-2", "app-2", "db-2"}},
}

// run is the script.
func (d *demo) run() error {
	for _, step := range []func() error{
		d.build, d.create, d.startSupers, d.startMachines, d.firstPing, d.showJoin, d.showPeers,
		d.captured, d.refused, d.throughput, d.leave,
	} {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// build makes the two clouds.
func (d *demo) build() error {
	if err := lab.CheckTUN(); err != nil {
		return err
	}
	d.show.title("Two clouds and a router between them, as network namespaces")
	l, err := lab.New(lab.Config{Clouds: clouds})
	if err != nil {
		return err
	}
	d.lab = l
	for _, c := range clouds {
		var all []string
		for _, name := range c.Hosts {
			all = append(all, fmt.Sprintf("%s %s", name, l.Host(name).Addr4))
		}
		d.show.line("cloud %-5s %s", c.Name, strings.Join(all, ", "))
	}
	return nil
}

// create makes the service with the command line.
func (d *demo) create() error {
	args := []string{"service", "create", "shop", "--role", "web", "--role", "app", "--role", "db", "--allow", "web:app", "--allow", "app:db", "--out", d.path("shop")}
	for _, name := range []string{"super-1", "super-2"} {
		args = append(args, "--super", fmt.Sprintf("%s:4500", d.lab.Host(name).Addr4))
	}
	d.show.title("The owner makes a service: web may reach app, app may reach db")
	d.show.command(args)
	out, err := d.exec(args...)
	if err != nil {
		return fmt.Errorf("service create: %w: %s", err, out)
	}
	d.show.line("%s", firstLine(out))
	return nil
}

func (d *demo) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

// startSupers starts a super peer in each cloud and waits for their keys.
func (d *demo) startSupers() error {
	d.show.title("A super peer in each cloud")
	began := time.Now()
	for i, c := range clouds {
		m, err := d.start(c.Hosts[0], "super", "--config", d.path("shop", fmt.Sprintf("super-%d.yaml", i+1)))
		if err != nil {
			return err
		}
		d.supers = append(d.supers, m)
	}
	for _, m := range d.supers {
		s, err := d.await(m, superTimeout, ready)
		if err != nil {
			return err
		}
		d.show.line("%s %s up, %s", m.name, s.PID[:8], strings.Join(s.Endpoints, " "))
	}
	d.show.line("attribute keys for every role made ahead in %s", short(time.Since(began)))
	return nil
}

// startMachines starts all VMs but web-1, each with nothing but its token.
func (d *demo) startMachines() error {
	d.show.title("Machines with nothing but this binary and a token")
	var g errgroup.Group
	for _, name := range []string{"app-1", "db-1", "web-2", "app-2", "db-2"} {
		m, err := d.startVM(name)
		if err != nil {
			return err
		}
		g.Go(func() error {
			_, err := d.await(m, joinTimeout, ready)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, m := range d.vms {
		s, err := m.control.Status(d.ctx)
		if err != nil {
			return err
		}
		d.show.line("%-6s joined in %-8s %-11s %s", m.name, short(d.joined(m)), s.Address4, s.Address6)
	}
	return nil
}

// joined is how long a machine took from its start to its contact record.
func (d *demo) joined(m *machine) time.Duration {
	log, err := m.control.JoinSteps(d.ctx)
	if err != nil || len(log.Steps) == 0 {
		return 0
	}
	last := log.Steps[len(log.Steps)-1]
	return last.Started.Add(time.Duration(last.DurationMS * float64(time.Millisecond))).Sub(m.started)
}

// ready says that a machine has joined: its contact record is published.
func ready(s control.Status) bool { return s.State == control.StateUp }

func (d *demo) startVM(name string) (*machine, error) {
	role, _, _ := strings.Cut(name, "-")
	m, err := d.start(name, "up", "--token-file", d.path("shop", role+".token"), "--name", name)
	if err == nil {
		d.vms = append(d.vms, m)
	}
	return m, err
}

// start runs a subcommand of this binary in a host, with a state directory of
// its own and its log in a file.
func (d *demo) start(name string, args ...string) (*machine, error) {
	m := &machine{name: name, host: d.lab.Host(name), dir: d.path(name)}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append(args, "--state-dir", filepath.Join(m.dir, "state"))...)
	cmd.Stdout, cmd.Stderr = log, log
	m.started = time.Now()
	if m.process, err = m.host.Start(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	m.control = control.NewClient(filepath.Join(m.dir, "state", "control.sock"))
	return m, nil
}

// await polls a machine's status until it is as wanted.
func (d *demo) await(m *machine, limit time.Duration, ok func(control.Status) bool) (control.Status, error) {
	for end := time.Now().Add(limit); ; {
		s, err := m.control.Status(d.ctx)
		if err == nil && ok(s) {
			return s, nil
		}
		select {
		case <-m.process.Done():
			return s, fmt.Errorf("%s ended: %s", m.name, lastLine(m.log()))
		case <-d.ctx.Done():
			return s, d.ctx.Err()
		case <-time.After(pollEvery):
		}
		if time.Now().After(end) {
			return s, fmt.Errorf("%s is not ready after %s: %s", m.name, limit, lastLine(m.log()))
		}
	}
}

func (m *machine) log() string {
	b, err := os.ReadFile(filepath.Join(m.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// exec runs this binary to its end, outside every host.
func (d *demo) exec(args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(d.ctx, self, args...).CombinedOutput()
	return string(out), err
}

// ask runs a command of this binary that asks a machine.
func (d *demo) ask(m *machine, args ...string) (string, error) {
	return d.exec(append(args, "--state-dir", filepath.Join(m.dir, "state"))...)
}

func (d *demo) vm(name string) *machine {
	for _, m := range d.vms {
		if m.name == name {
			return m
		}
	}
	return nil
}

// leave stops every machine as an operator would, and checks that each ended
// well.
func (d *demo) leave() error {
	d.show.title("Everybody leaves: contacts withdrawn, keys erased, interfaces gone")
	began := time.Now()
	for _, group := range [][]*machine{d.vms, d.supers} {
		var g errgroup.Group
		for _, m := range group {
			g.Go(func() error { return d.stop(m) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	d.show.line("%d machines and %d super peers left in %s", len(d.vms), len(d.supers), short(time.Since(began)))
	d.show.ok(time.Since(d.began))
	return nil
}

func (d *demo) stop(m *machine) error {
	if err := m.process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	select {
	case <-m.process.Done():
	case <-time.After(leaveTimeout):
		return fmt.Errorf("%s has not left after %s: %s", m.name, leaveTimeout, lastLine(m.log()))
	}
	if err := m.process.Wait(); err != nil {
		return fmt.Errorf("%s left badly: %w: %s", m.name, err, lastLine(m.log()))
	}
	return nil
}

// showLogs prints the end of every machine's log after a failure.
func (d *demo) showLogs() {
	for _, m := range append(d.supers, d.vms...) {
		lines := strings.Split(strings.TrimSpace(m.log()), "\n")
		for _, l := range lines[max(0, len(lines)-8):] {
			d.show.line("%s | %s", m.name, l)
		}
	}
}

func firstLine(s string) string {
	l, _, _ := strings.Cut(s, "\n")
	return l
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
