//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/lab"
)

// machine is a host with its state directory: it may be started, killed and
// started again.
type machine struct {
	w       *world
	name    string
	host    *lab.Host
	dir     string
	args    []string
	control *control.Client
	process *lab.Process // of the last start
}

var errEnded = errors.New("the process has ended")

func (w *world) machine(name string, args ...string) *machine {
	w.t.Helper()
	m := &machine{w: w, name: name, host: w.host(name), dir: w.path(name), args: args}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	m.control = control.NewClient(filepath.Join(m.state(), "control.sock"))
	w.machines = append(w.machines, m)
	return m
}

func (m *machine) state() string { return filepath.Join(m.dir, "state") }

// start starts the process; its log is added to the machine's.
func (m *machine) start() {
	m.w.t.Helper()
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.w.t.Fatal(err)
	}
	defer log.Close()
	cmd := m.w.command(append(m.args[:len(m.args):len(m.args)], "--state-dir", m.state())...)
	cmd.Stdout, cmd.Stderr = log, log
	if m.process, err = m.host.Start(cmd); err != nil {
		m.w.t.Fatal(err)
	}
}

func (m *machine) log() string {
	b, err := os.ReadFile(filepath.Join(m.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// ended is errEnded with the last line of the log once the process is gone.
func (m *machine) ended() error {
	select {
	case <-m.process.Done():
		log := strings.TrimSpace(m.log())
		return fmt.Errorf("%w: %s", errEnded, log[strings.LastIndexByte(log, '\n')+1:])
	default:
		return nil
	}
}

// awaitUp waits until the machine has joined, or the super peer has made its
// keys.
func (m *machine) awaitUp() control.Status {
	m.w.t.Helper()
	var s control.Status
	m.w.eventually(m.name+" is up", startLimit, func() (err error) {
		s, err = m.control.Status(m.w.ctx)
		if err == nil && s.State != control.StateUp {
			err = fmt.Errorf("it is %s", s.State)
		}
		return errors.Join(err, m.ended())
	})
	return s
}

// awaitAnswer waits until the process answers on its control socket.
func (m *machine) awaitAnswer() {
	m.w.t.Helper()
	m.w.eventually(m.name+" answers", startLimit, func() error {
		_, err := m.control.Status(m.w.ctx)
		return errors.Join(err, m.ended())
	})
}

func (m *machine) status() control.Status {
	m.w.t.Helper()
	s, err := m.control.Status(m.w.ctx)
	if err != nil {
		m.w.t.Fatalf("%s: status: %v", m.name, err)
	}
	return s
}

// peers returns the peer table by name.
func (m *machine) peers() map[string]control.Peer {
	m.w.t.Helper()
	list, err := m.control.Peers(m.w.ctx)
	if err != nil {
		m.w.t.Fatalf("%s: peers: %v", m.name, err)
	}
	all := map[string]control.Peer{}
	for _, p := range list.Peers {
		all[p.Name] = p
	}
	return all
}

// pingOnce asks for one echo through the tunnel.
func (m *machine) pingOnce(ctx context.Context, target string) (reply control.PingReply, err error) {
	err = m.control.Ping(ctx, target, 1, func(r control.PingReply) error {
		reply = r
		return nil
	})
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	return reply, err
}

// awaitPing pings until it is answered.
func (m *machine) awaitPing(target string) control.PingReply {
	m.w.t.Helper()
	var r control.PingReply
	m.w.eventually(m.name+" reaches "+target, pingLimit, func() (err error) {
		r, err = m.pingOnce(m.w.ctx, target)
		return errors.Join(err, m.ended())
	})
	return r
}

// signal sends sig and waits for the end.
func (m *machine) signal(sig syscall.Signal) error {
	m.w.t.Helper()
	if err := m.process.Signal(sig); err != nil {
		m.w.t.Fatalf("%s: %v", m.name, err)
	}
	select {
	case <-m.process.Done():
	case <-time.After(leaveLimit):
		m.w.t.Fatalf("%s has not ended %v after %v", m.name, leaveLimit, sig)
	}
	return m.process.Wait()
}

// leave stops the process as an operator does.
func (m *machine) leave() {
	m.w.t.Helper()
	if err := m.signal(syscall.SIGTERM); err != nil {
		m.w.t.Fatalf("%s left badly: %v", m.name, err)
	}
}

// kill ends the process without its help.
func (m *machine) kill() {
	m.w.t.Helper()
	_ = m.signal(syscall.SIGKILL)
}

func (m *machine) addr4() netip.Addr { return m.status().Address4 }
