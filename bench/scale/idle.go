//go:build linux

package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"icvpn/internal/lab"
)

// idle is one process of a peer in a service of many, and its super peers.
func idle(b *bench, rec *recorder) error {
	if err := lab.CheckTUN(); err != nil {
		return err
	}
	s, err := b.newSite(rec, b.supers)
	if err != nil {
		return err
	}
	defer s.close(rec)
	made, err := s.makePeers(b.peers)
	if err != nil {
		return err
	}
	if err := b.fill(s.world, rec); err != nil {
		return err
	}
	var j joins
	if _, err := b.stage(rec, "peers joined", per(joinLimit, joinEach, len(made)), len(made), func(st *stage) {
		j = s.startPeers(st, b.joiners, made)
	}); err != nil {
		return err
	}
	rec.add(float64(len(j.up)), "", "peers that run, on sockets of this machine")
	recordReasons(rec, "not joined", j.why)
	one, err := s.startOne()
	if err != nil {
		return err
	}
	if err := one.await(b.ctx); err != nil {
		return err
	}
	known := func() int {
		st, err := one.control.Status(b.ctx)
		if err != nil {
			return 0
		}
		return st.PeersKnown
	}
	if _, err := b.stage(rec, "members that the process knows", max(b.settle, time.Minute), len(j.up)+b.members, func(st *stage) { st.until(known) }); err != nil {
		return err
	}
	if err := b.pause(settleMemory); err != nil {
		return err
	}
	if err := b.watch(rec, one, "peer"); err != nil {
		return err
	}
	return b.watch(rec, s.procs[0], "super peer")
}

// settleMemory is longer than a peer waits before it gives back what the join
// needed.
const settleMemory = 8 * time.Second

// startOne starts icvpn up with a token.
func (s *site) startOne() (*proc, error) {
	file := filepath.Join(s.dir, "token")
	if err := os.WriteFile(file, []byte(s.token("app").Text()+"\n"), 0o600); err != nil {
		return nil, err
	}
	return s.start("one", netip.AddrFrom4([4]byte{172, 20, 1, 1}), "up", "--token-file", file, "--name", "one")
}

// watch prints what a process uses while nothing is asked of it.
func (b *bench) watch(rec *recorder, p *proc, name string) error {
	const wire = "icvpn_underlay_"
	before, err := p.scrape(b.ctx, wire)
	if err != nil {
		return err
	}
	cpu, err := p.CPU()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.pause(max(b.idle, time.Second)); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	used, err := p.CPU()
	if err != nil {
		return err
	}
	after, err := p.scrape(b.ctx, wire)
	if err != nil {
		return err
	}
	mem, err := p.Memory()
	if err != nil {
		return err
	}
	grown := func(what string) float64 {
		return sum(after, wire+"received_"+what+"_total") + sum(after, wire+"sent_"+what+"_total") -
			sum(before, wire+"received_"+what+"_total") - sum(before, wire+"sent_"+what+"_total")
	}
	rec.add(mem.Resident, "MiB", "%s: resident", name)
	rec.add(mem.Own, "MiB", "%s:   without the binary's pages", name)
	rec.add(100*(used-cpu).Seconds()/seconds, "%", "%s: of a core", name)
	rec.add((grown("bytes")+headers*grown("datagrams"))/seconds, "B/s", "%s: sends and receives", name)
	rec.add(grown("datagrams")/seconds, "1/s", "%s:   datagrams", name)
	return nil
}
