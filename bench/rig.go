//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/lab"
)

// Limits of waiting: beyond them something is broken.
const (
	superTimeout = 60 * time.Second
	joinTimeout  = 30 * time.Second
	pollEvery    = 5 * time.Millisecond
)

// rig is a fresh service, "bench": clouds with a super peer in the first supers
// of them, and machines that scenarios start. Any machine may reach any other.
//
//	cloud-1: super-1 m1-1 m1-2 ...   cloud-2: super-2 m2-1 m2-2 ...   ...
type rig struct {
	*bench
	lab    *lab.Lab
	dir    string
	supers []*machine
}

// machine is one icvpn process in a host.
type machine struct {
	name    string
	host    *lab.Host
	dir     string
	process *lab.Process
	control *control.Client
	started time.Time
}

// newRig makes a service and waits until its super peers are ready.
func (b *bench) newRig(clouds, supers, machines int) (*rig, error) {
	b.rigs++
	r := &rig{bench: b, dir: filepath.Join(b.dir, fmt.Sprintf("rig-%d", b.rigs))}
	if err := r.build(clouds, supers, machines); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) build(clouds, supers, machines int) (err error) {
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return err
	}
	var cfg lab.Config
	for c := 1; c <= clouds; c++ {
		cloud := lab.Cloud{Name: fmt.Sprintf("cloud-%d", c), Hosts: []string{fmt.Sprintf("super-%d", c)}}
		for m := 1; m <= machines; m++ {
			cloud.Hosts = append(cloud.Hosts, fmt.Sprintf("m%d-%d", c, m))
		}
		cfg.Clouds = append(cfg.Clouds, cloud)
	}
	if r.lab, err = lab.New(cfg); err != nil {
		return err
	}
	args := []string{"service", "create", "bench", "--role", "peer", "--out", r.path("service")}
	for s := 1; s <= supers; s++ {
		args = append(args, "--super", fmt.Sprintf("%s:4500", r.lab.Host(fmt.Sprintf("super-%d", s)).Addr4))
	}
	if out, err := exec.CommandContext(r.ctx, r.icvpn, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("service create: %w: %s", err, out)
	}
	for s := 1; s <= supers; s++ {
		m, err := r.start(fmt.Sprintf("super-%d", s), "super", "--config", r.path("service", fmt.Sprintf("super-%d.yaml", s)))
		if err != nil {
			return err
		}
		r.supers = append(r.supers, m)
	}
	for _, m := range r.supers {
		if _, err := r.await(m, superTimeout); err != nil {
			return err
		}
	}
	return nil
}

// close kills every process and removes every file.
func (r *rig) close() {
	if r.lab != nil {
		_ = r.lab.Close()
	}
	_ = os.RemoveAll(r.dir)
}

func (r *rig) path(parts ...string) string {
	return filepath.Join(append([]string{r.dir}, parts...)...)
}

// startPeer starts a machine with nothing but its token.
func (r *rig) startPeer(name string) (*machine, error) {
	return r.start(name, "up", "--token-file", r.path("service", "peer.token"), "--name", name)
}

// peers starts machines and waits until all are ready.
func (r *rig) peers(names ...string) (all []*machine, err error) {
	for _, name := range names {
		m, err := r.startPeer(name)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	for _, m := range all {
		if _, err := r.await(m, joinTimeout); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (r *rig) start(name string, args ...string) (*machine, error) {
	m := &machine{name: name, host: r.lab.Host(name), dir: r.path(name)}
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(m.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(r.icvpn, append(args, "--state-dir", filepath.Join(m.dir, "state"))...)
	cmd.Stdout, cmd.Stderr = log, log
	m.started = time.Now()
	if m.process, err = m.host.Start(cmd); err != nil {
		return nil, err
	}
	m.control = control.NewClient(filepath.Join(m.dir, "state", "control.sock"))
	return m, nil
}

// await polls a machine's status until it is up.
func (r *rig) await(m *machine, limit time.Duration) (control.Status, error) {
	for end := time.Now().Add(limit); ; {
		s, err := m.control.Status(r.ctx)
		if err == nil && s.State == control.StateUp {
			return s, nil
		}
		if err := r.sleep(m, pollEvery); err != nil {
			return s, err
		}
		if time.Now().After(end) {
			return s, fmt.Errorf("%s is not ready after %s: %s", m.name, limit, m.lastLine())
		}
	}
}

// sleep waits, unless the machine or the whole run ends.
func (r *rig) sleep(m *machine, d time.Duration) error {
	select {
	case <-m.process.Done():
		return fmt.Errorf("%s ended: %s", m.name, m.lastLine())
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	case <-time.After(d):
		return nil
	}
}

// lastLine of its log says why a machine ended.
func (m *machine) lastLine() string {
	b, err := os.ReadFile(filepath.Join(m.dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// memory returns all resident memory of the process, and the part that is its
// own: heap and stacks, without the pages of the binary.
func (m *machine) memory() (resident, own float64, err error) {
	b, err := os.ReadFile(m.proc("status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			resident = kib / 1024
		case "RssAnon:":
			own = kib / 1024
		}
	}
	if resident == 0 {
		return 0, 0, fmt.Errorf("no VmRSS in %s", m.proc("status"))
	}
	return resident, own, nil
}

// cpuTick is the unit of times in /proc: USER_HZ is 100 on every architecture
// that Go runs on.
const cpuTick = 10 * time.Millisecond

// cpu returns the CPU time that the process has used.
func (m *machine) cpu() (time.Duration, error) {
	b, err := os.ReadFile(m.proc("stat"))
	if err != nil {
		return 0, err
	}
	// The second field, the name, may hold spaces, but ends with the last ')'.
	f := strings.Fields(string(b[slices.Index(b, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("%s is not as proc(5) says", m.proc("stat"))
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * cpuTick, nil
}

func (m *machine) proc(file string) string {
	return filepath.Join("/proc", strconv.Itoa(m.process.Pid()), file)
}

// idle waits until the process uses no CPU time to speak of, and returns what
// it has used in all.
func (r *rig) idle(m *machine) (time.Duration, error) {
	const window, least = 300 * time.Millisecond, 2 * cpuTick
	for {
		before, err := m.cpu()
		if err != nil {
			return 0, err
		}
		if err := r.sleep(m, window); err != nil {
			return 0, err
		}
		after, err := m.cpu()
		if err != nil || after-before <= least {
			return after, err
		}
	}
}
