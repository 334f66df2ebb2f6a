//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"icvpn/bench/internal/measure"
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

// process is what /proc knows.
func (m machine) process() measure.Process { return measure.Process(m.Process.Pid()) }

// idle waits until the process uses no CPU time to speak of, and returns what
// it has used in all.
func (r *rig) idle(m machine) (time.Duration, error) {
	const window, least = 300 * time.Millisecond, 20 * time.Millisecond
	for {
		before, err := m.process().CPU()
		if err != nil {
			return 0, err
		}
		if err := m.Sleep(r.ctx, window); err != nil {
			return 0, err
		}
		after, err := m.process().CPU()
		if err != nil || after-before <= least {
			return after, err
		}
	}
}
