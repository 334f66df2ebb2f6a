//go:build linux

package fleet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/lab"
)

// Fleet says where machines run, with which binary, and where their files lie.
type Fleet struct {
	Lab *lab.Lab
	// Binary is the path of the program.
	Binary string
	// Dir is an existing directory; control sockets want its path short.
	Dir string
	// Poll is the wait between two questions to a machine.
	Poll time.Duration
}

// Path returns a path in the fleet's directory.
func (f *Fleet) Path(parts ...string) string {
	return filepath.Join(append([]string{f.Dir}, parts...)...)
}

// Exec runs the binary to its end, outside every host, and returns what it said.
func (f *Fleet) Exec(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, f.Binary, args...).CombinedOutput()
	return string(out), err
}

// CreateService runs icvpn service create: a super peer for each named host, the
// files in the directory dir of the fleet's.
func (f *Fleet) CreateService(ctx context.Context, name, dir string, supers []string, args ...string) (string, error) {
	all := append([]string{"service", "create", name, "--out", f.Path(dir)}, args...)
	for _, host := range supers {
		all = append(all, "--super", fmt.Sprintf("%s:4500", f.Lab.Host(host).Addr4))
	}
	out, err := f.Exec(ctx, all...)
	if err != nil {
		return out, fmt.Errorf("service create: %w: %s", err, out)
	}
	return out, nil
}

// Start runs a subcommand of the binary in the host of that name.
func (f *Fleet) Start(name string, args ...string) (*Machine, error) {
	m := &Machine{Name: name, Host: f.Lab.Host(name), fleet: f}
	if err := os.Mkdir(f.Path(name), 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(f.Path(name, "log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(f.Binary, append(args, "--state-dir", m.StateDir())...)
	cmd.Stdout, cmd.Stderr = log, log
	m.Started = time.Now()
	if m.Process, err = m.Host.Start(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	m.Control = control.NewClient(filepath.Join(m.StateDir(), "control.sock"))
	return m, nil
}

// StartSuper starts super peer i, counted from 0, of the service in dir.
func (f *Fleet) StartSuper(host, dir string, i int) (*Machine, error) {
	return f.Start(host, "super", "--config", f.Path(dir, fmt.Sprintf("super-%d.yaml", i+1)))
}

// StartPeer starts a machine with nothing but the token of its role.
func (f *Fleet) StartPeer(host, dir, role string) (*Machine, error) {
	return f.Start(host, "up", "--token-file", f.Path(dir, role+".token"), "--name", host)
}

// Machine is one process in a host.
type Machine struct {
	Name    string
	Host    *lab.Host
	Process *lab.Process
	Control *control.Client
	Started time.Time

	fleet *Fleet
}

// StateDir is the machine's state directory.
func (m *Machine) StateDir() string { return m.fleet.Path(m.Name, "state") }

// Ready says that a process serves: of a peer, its contact record is published.
func Ready(s control.Status) bool { return s.State == control.StateUp }

// Await polls the machine's status until it is as wanted.
func (m *Machine) Await(ctx context.Context, limit time.Duration, ok func(control.Status) bool) (control.Status, error) {
	for end := time.Now().Add(limit); ; {
		s, err := m.Control.Status(ctx)
		if err == nil && ok(s) {
			return s, nil
		}
		if err := m.Pause(ctx); err != nil {
			return s, err
		}
		if time.Now().After(end) {
			return s, fmt.Errorf("%s is not ready after %s: %s", m.Name, limit, m.LastLine())
		}
	}
}

// Pause waits until it is time to ask again.
func (m *Machine) Pause(ctx context.Context) error { return m.Sleep(ctx, m.fleet.Poll) }

// Sleep waits, unless the machine or ctx ends.
func (m *Machine) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-m.Process.Done():
		return fmt.Errorf("%s ended: %s", m.Name, m.LastLine())
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// AwaitPing has the machine ping another by name until it gets an answer.
func (m *Machine) AwaitPing(ctx context.Context, target string, limit time.Duration) error {
	for end := time.Now().Add(limit); ; {
		var reply control.PingReply
		err := m.Control.Ping(ctx, target, 1, func(r control.PingReply) error { reply = r; return nil })
		if err == nil && reply.Error == "" {
			return nil
		}
		if err := m.Pause(ctx); err != nil {
			return err
		}
		if time.Now().After(end) {
			if err == nil {
				return fmt.Errorf("%s does not reach %s: %s", m.Name, target, reply.Error)
			}
			return fmt.Errorf("%s does not reach %s: %w", m.Name, target, err)
		}
	}
}

// Joined returns the steps of the machine's join, and the time from its start to
// the end of the last one.
func (m *Machine) Joined(ctx context.Context) (time.Duration, []control.JoinStep, error) {
	log, err := m.Control.JoinSteps(ctx)
	if err != nil {
		return 0, nil, err
	}
	if len(log.Steps) == 0 {
		return 0, nil, fmt.Errorf("%s has no join steps", m.Name)
	}
	last := log.Steps[len(log.Steps)-1]
	return last.Started.Sub(m.Started) + time.Duration(last.DurationMS*float64(time.Millisecond)), log.Steps, nil
}

// Stop ends the machine as an operator would, and checks that it ended well.
func (m *Machine) Stop(limit time.Duration) error {
	if err := m.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	select {
	case <-m.Process.Done():
	case <-time.After(limit):
		return fmt.Errorf("%s has not left after %s: %s", m.Name, limit, m.LastLine())
	}
	if err := m.Process.Wait(); err != nil {
		return fmt.Errorf("%s left badly: %w: %s", m.Name, err, m.LastLine())
	}
	return nil
}

// Log returns the lines that the machine has written.
func (m *Machine) Log() []string {
	b, err := os.ReadFile(m.fleet.Path(m.Name, "log"))
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// LastLine of its log says why a machine ended.
func (m *Machine) LastLine() string {
	lines := m.Log()
	return lines[len(lines)-1]
}
