package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/lab"
	"icvpn/internal/lab/fleet"
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
	fleet  *fleet.Fleet
	supers []*fleet.Machine
	vms    []*fleet.Machine
}

// files is the directory of the service that the owner makes.
const files = "shop"

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
	self, err := os.Executable()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	d.lab, d.fleet = l, &fleet.Fleet{Lab: l, Binary: self, Dir: d.dir, Poll: pollEvery}
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
	args := []string{"--role", "web", "--role", "app", "--role", "db", "--allow", "web:app", "--allow", "app:db"}
	d.show.title("The owner makes a service: web may reach app, app may reach db")
	shown := append([]string{"service", "create", "shop"}, args...)
	supers := []string{clouds[0].Hosts[0], clouds[1].Hosts[0]}
	for _, name := range supers {
		shown = append(shown, "--super", fmt.Sprintf("%s:4500", d.lab.Host(name).Addr4))
	}
	d.show.command(shown)
	out, err := d.fleet.CreateService(d.ctx, "shop", files, supers, args...)
	if err != nil {
		return err
	}
	d.show.line("%s", firstLine(out))
	return nil
}

// startSupers starts a super peer in each cloud and waits for their keys.
func (d *demo) startSupers() error {
	d.show.title("A super peer in each cloud")
	began := time.Now()
	for i, c := range clouds {
		m, err := d.fleet.StartSuper(c.Hosts[0], files, i)
		if err != nil {
			return err
		}
		d.supers = append(d.supers, m)
	}
	for _, m := range d.supers {
		s, err := m.Await(d.ctx, superTimeout, fleet.Ready)
		if err != nil {
			return err
		}
		d.show.line("%s %s up, %s", m.Name, s.PID[:8], strings.Join(s.Endpoints, " "))
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
			_, err := m.Await(d.ctx, joinTimeout, fleet.Ready)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, m := range d.vms {
		s, err := m.Control.Status(d.ctx)
		if err != nil {
			return err
		}
		took, _, err := m.Joined(d.ctx)
		if err != nil {
			return err
		}
		d.show.line("%-6s joined in %-8s %-11s %s", m.Name, short(took), s.Address4, s.Address6)
	}
	return nil
}

func (d *demo) startVM(name string) (*fleet.Machine, error) {
	role, _, _ := strings.Cut(name, "-")
	m, err := d.fleet.StartPeer(name, files, role)
	if err == nil {
		d.vms = append(d.vms, m)
	}
	return m, err
}

// ask runs a command of this binary that asks a machine.
func (d *demo) ask(m *fleet.Machine, args ...string) (string, error) {
	return d.fleet.Exec(d.ctx, append(args, "--state-dir", m.StateDir())...)
}

func (d *demo) vm(name string) *fleet.Machine {
	for _, m := range d.vms {
		if m.Name == name {
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
	for _, group := range [][]*fleet.Machine{d.vms, d.supers} {
		var g errgroup.Group
		for _, m := range group {
			g.Go(func() error { return m.Stop(leaveTimeout) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	d.show.line("%d machines and %d super peers left in %s", len(d.vms), len(d.supers), short(time.Since(began)))
	d.show.ok(time.Since(d.began))
	return nil
}

// showLogs prints the end of every machine's log after a failure.
func (d *demo) showLogs() {
	for _, m := range append(d.supers, d.vms...) {
		lines := m.Log()
		for _, l := range lines[max(0, len(lines)-8):] {
			d.show.line("%s | %s", m.Name, l)
		}
	}
}

func firstLine(s string) string {
	l, _, _ := strings.Cut(s, "\n")
	return l
}

func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
