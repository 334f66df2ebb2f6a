//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"icvpn/internal/lab"
	"icvpn/internal/lab/fleet"
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
//	cloud-1: super-1 m1-1 m1-2 ...   cloud-2: super-2 m2-1 m2-2 ...
type rig struct {
	*bench
	fleet  fleet.Fleet
	supers []machine
}

// machine is one icvpn process in a host, with what only measurements ask.
type machine struct{ *fleet.Machine }

// The clouds of every rig, and the directory of its service.
const (
	rigClouds = 2
	files     = "service"
)

// newRig makes a service and waits until its super peers are ready.
func (b *bench) newRig(supers, machines int) (*rig, error) {
	b.rigs++
	r := &rig{bench: b, fleet: fleet.Fleet{Binary: b.icvpn, Dir: filepath.Join(b.dir, fmt.Sprintf("rig-%d", b.rigs)), Poll: pollEvery}}
	if err := r.build(supers, machines); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) build(supers, machines int) (err error) {
	if err := os.Mkdir(r.fleet.Dir, 0o700); err != nil {
		return err
	}
	var cfg lab.Config
	for c := 1; c <= rigClouds; c++ {
		cloud := lab.Cloud{Name: fmt.Sprintf("cloud-%d", c), Hosts: []string{superName(c)}}
		for m := 1; m <= machines; m++ {
			cloud.Hosts = append(cloud.Hosts, fmt.Sprintf("m%d-%d", c, m))
		}
		cfg.Clouds = append(cfg.Clouds, cloud)
	}
	if r.fleet.Lab, err = lab.New(cfg); err != nil {
		return err
	}
	var hosts []string
	for s := 1; s <= supers; s++ {
		hosts = append(hosts, superName(s))
	}
	if _, err := r.fleet.CreateService(r.ctx, "bench", files, hosts, "--role", "peer"); err != nil {
		return err
	}
	for i, host := range hosts {
		m, err := r.fleet.StartSuper(host, files, i)
		if err != nil {
			return err
		}
		r.supers = append(r.supers, machine{m})
	}
	return r.await(r.supers, superTimeout)
}

func superName(i int) string { return fmt.Sprintf("super-%d", i) }

// close kills every process and removes every file.
func (r *rig) close() {
	if r.fleet.Lab != nil {
		_ = r.fleet.Lab.Close()
	}
	_ = os.RemoveAll(r.fleet.Dir)
}

// startPeer starts a machine with nothing but its token.
func (r *rig) startPeer(name string) (machine, error) {
	m, err := r.fleet.StartPeer(name, files, "peer")
	return machine{m}, err
}

// peers starts machines and waits until all are ready.
func (r *rig) peers(names ...string) (all []machine, err error) {
	for _, name := range names {
		m, err := r.startPeer(name)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, r.await(all, joinTimeout)
}

// await waits until all machines are up.
func (r *rig) await(all []machine, limit time.Duration) error {
	for _, m := range all {
		if _, err := m.Await(r.ctx, limit, fleet.Ready); err != nil {
			return err
		}
	}
	return nil
}

// memory returns all resident memory of the process, and the part that is its
// own: heap and stacks, without the pages of the binary.
func (m machine) memory() (resident, own float64, err error) {
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
func (m machine) cpu() (time.Duration, error) {
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

func (m machine) proc(file string) string {
	return filepath.Join("/proc", strconv.Itoa(m.Process.Pid()), file)
}

// idle waits until the process uses no CPU time to speak of, and returns what
// it has used in all.
func (r *rig) idle(m machine) (time.Duration, error) {
	const window, least = 300 * time.Millisecond, 2 * cpuTick
	for {
		before, err := m.cpu()
		if err != nil {
			return 0, err
		}
		if err := m.Sleep(r.ctx, window); err != nil {
			return 0, err
		}
		after, err := m.cpu()
		if err != nil || after-before <= least {
			return after, err
		}
	}
}
