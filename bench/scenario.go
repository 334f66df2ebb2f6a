//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/bench/internal/measure"
	"icvpn/internal/node"
	"icvpn/internal/service"
)

// scenario is one thing to measure.
type scenario struct {
	name  string
	about string
	run   func(*bench, *recorder) error
}

// scenarios in the order in which they run.
var scenarios = []scenario{
	{"join", "from a cold token to a published contact record", join},
	{"firstping", "from a cold token to the first answer from a machine in the other cloud", firstPing},
	{"ping", "round trips through the tunnel and beside it", pingBoth},
	{"throughput", "one TCP stream through the tunnel and beside it", throughput},
	{"memory", "resident memory of idle processes", memory},
	{"admissions", "what an admission costs a super peer", admissions},
}

// Sizes: all scenarios together stay below 90 seconds.
const (
	joinSequential = 5
	joinParallel   = 8

	firstPings = 3

	rounds     = 3 // of what alternates
	roundPings = 500
	roundBulk  = 1500 * time.Millisecond

	// memorySettle is longer than a peer waits before it gives back what the join
	// needed.
	memorySettle = 8 * time.Second

	// A /24 may begin 64 admissions at once (docs/protocol/admission.md), so the
	// clients are spread over clouds.
	admissionClients = 4 // at once
	admissionCount   = 60
	admissionAlone   = 5
)

// join starts machines one after the other and then many at once.
func join(b *bench, rec *recorder) error {
	r, err := b.newRig(2, joinSequential+joinParallel)
	if err != nil {
		return err
	}
	defer r.close()
	var alone []float64
	var order []string
	steps := map[string][]float64{}
	for i := 1; i <= joinSequential; i++ {
		ms, err := r.peers(fmt.Sprintf("m%d-%d", i%2+1, i))
		if err != nil {
			return err
		}
		took, log, err := ms[0].Joined(r.ctx)
		if err != nil {
			return err
		}
		alone = append(alone, measure.Milliseconds(took))
		for _, s := range log {
			if len(steps[s.Name]) == 0 {
				order = append(order, s.Name)
			}
			steps[s.Name] = append(steps[s.Name], s.DurationMS)
		}
	}
	rec.median("one at a time, median", "ms", alone)
	for _, name := range order {
		rec.median("  step "+name, "ms", steps[name])
	}
	var names []string
	for i := 1; i <= joinParallel; i++ {
		names = append(names, fmt.Sprintf("m%d-%d", i%2+1, joinSequential+i))
	}
	ms, err := r.peers(names...)
	if err != nil {
		return err
	}
	var together []float64
	for _, m := range ms {
		took, _, err := m.Joined(r.ctx)
		if err != nil {
			return err
		}
		together = append(together, measure.Milliseconds(took))
	}
	rec.median(fmt.Sprintf("%d at once, median", joinParallel), "ms", together)
	rec.add(fmt.Sprintf("%d at once, slowest", joinParallel), "ms", measure.Quantile(together, 1))
	return nil
}

// firstPing starts a machine and pings another one until it answers.
func firstPing(b *bench, rec *recorder) error {
	r, err := b.newRig(2, firstPings)
	if err != nil {
		return err
	}
	defer r.close()
	if _, err := r.peers("m2-1"); err != nil {
		return err
	}
	var times []float64
	for i := 1; i <= firstPings; i++ {
		m, err := r.startPeer(fmt.Sprintf("m1-%d", i))
		if err != nil {
			return err
		}
		if err := m.AwaitPing(r.ctx, "m2-1", joinTimeout); err != nil {
			return err
		}
		times = append(times, measure.Milliseconds(time.Since(m.Started)))
	}
	rec.median("median", "ms", times)
	rec.add("slowest", "ms", measure.Quantile(times, 1))
	return nil
}

// pair is two machines in different clouds with a tunnel between them.
type pair struct {
	from, to       machine
	inside, beside netip.Addr // of to
}

func (r *rig) newPair() (pair, error) {
	ms, err := r.peers("m1-1", "m2-1")
	if err != nil {
		return pair{}, err
	}
	if err := ms[0].AwaitPing(r.ctx, "m2-1", joinTimeout); err != nil {
		return pair{}, err
	}
	s, err := ms[1].Control.Status(r.ctx)
	return pair{from: ms[0], to: ms[1], inside: s.Address4, beside: ms[1].Host.Addr4}, err
}

// pingBoth sends pings both ways in turns.
func pingBoth(b *bench, rec *recorder) error {
	r, err := b.newRig(2, 1)
	if err != nil {
		return err
	}
	defer r.close()
	p, err := r.newPair()
	if err != nil {
		return err
	}
	var inside, beside []float64
	for range rounds {
		in, err := measure.Ping(r.ctx, p.from.Host, p.inside, roundPings, 0)
		if err != nil {
			return err
		}
		out, err := measure.Ping(r.ctx, p.from.Host, p.beside, roundPings, 0)
		if err != nil {
			return err
		}
		inside, beside = append(inside, in...), append(beside, out...)
	}
	rec.median("through the tunnel, median", "ms", inside)
	rec.add("through the tunnel, p99", "ms", measure.Quantile(inside, 0.99))
	rec.median("beside it, median", "ms", beside)
	rec.add("beside it, p99", "ms", measure.Quantile(beside, 0.99))
	rec.add("added by the tunnel, median", "ms", measure.Quantile(inside, 0.5)-measure.Quantile(beside, 0.5))
	return nil
}

// throughput sends bulk data both ways in turns.
func throughput(b *bench, rec *recorder) error {
	r, err := b.newRig(2, 1)
	if err != nil {
		return err
	}
	defer r.close()
	p, err := r.newPair()
	if err != nil {
		return err
	}
	var inside, beside, ratio, cost []float64
	for range rounds {
		before, err := p.cpu()
		if err != nil {
			return err
		}
		in, err := bulk(r.ctx, p.from.Host, p.to.Host, p.inside, roundBulk)
		if err != nil {
			return err
		}
		after, err := p.cpu()
		if err != nil {
			return err
		}
		out, err := bulk(r.ctx, p.from.Host, p.to.Host, p.beside, roundBulk)
		if err != nil {
			return err
		}
		inside, beside = append(inside, in.megabits()), append(beside, out.megabits())
		ratio = append(ratio, 100*in.megabits()/out.megabits())
		cost = append(cost, (after-before).Seconds()/(float64(in.bytes)/1e9))
	}
	rec.median("through the tunnel, median", "Mbit/s", inside)
	rec.median("beside it, median", "Mbit/s", beside)
	rec.median("through, of beside", "%", ratio)
	rec.median("CPU time of both ends", "s/GB", cost)
	return nil
}

// cpu is what both ends have used.
func (p *pair) cpu() (time.Duration, error) {
	a, err := p.from.process().CPU()
	b, err2 := p.to.process().CPU()
	return a + b, errors.Join(err, err2)
}

// memory looks at processes that have nothing to do.
func memory(b *bench, rec *recorder) error {
	r, err := b.newRig(2, 1)
	if err != nil {
		return err
	}
	defer r.close()
	ms, err := r.peers("m1-1", "m2-1")
	if err != nil {
		return err
	}
	if err := ms[0].Sleep(r.ctx, memorySettle); err != nil {
		return err
	}
	for _, m := range []struct {
		name string
		machine
	}{{"peer", ms[0]}, {"super peer", r.supers[0]}} {
		mem, err := m.process().Memory()
		if err != nil {
			return err
		}
		rec.add(m.name+", resident", "MiB", mem.Resident)
		rec.add(m.name+", without the binary's pages", "MiB", mem.Own)
	}
	return nil
}

// admissions has clients in this process join, so that the super peer's CPU time
// is that of admissions alone: making the attribute keys ahead is part of it.
func admissions(b *bench, rec *recorder) error {
	r, err := b.newRig(1, 1)
	if err != nil {
		return err
	}
	defer r.close()
	text, err := os.ReadFile(r.fleet.Path(files, "peer.token"))
	if err != nil {
		return err
	}
	token, err := service.ParseToken(text)
	if err != nil {
		return err
	}
	alone, err := r.admitAlone(token)
	if err != nil {
		return err
	}
	rec.median("wait of a lone client, median", "ms", alone)
	before, err := r.idle(r.supers[0])
	if err != nil {
		return err
	}
	began := time.Now()
	waits, err := r.admitAll(token)
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := r.idle(r.supers[0]) // the keys it had made ahead are there again
	if err != nil {
		return err
	}
	cpu := after - before
	rec.median(fmt.Sprintf("wait of one of %d at once, median", admissionClients), "ms", waits)
	rec.add(fmt.Sprintf("wait of one of %d at once, p99", admissionClients), "ms", measure.Quantile(waits, 0.99))
	rec.add("CPU time of the super peer, of an admission and its key", "ms", measure.Milliseconds(cpu)/admissionCount)
	rec.add("admissions a second and core", "1/s", admissionCount/cpu.Seconds())
	rec.add("admissions a second, clients on the same machine", "1/s", admissionCount/took.Seconds())
	return nil
}

// admitAlone admits machines one by one, each when there is a key for it, and
// returns how long each took.
func (r *rig) admitAlone(token service.Token) (waits []float64, err error) {
	for i := range admissionAlone {
		if _, err := r.idle(r.supers[0]); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := r.admit(r.ctx, token, admissionCount+i); err != nil {
			return nil, err
		}
		waits = append(waits, measure.Milliseconds(time.Since(began)))
	}
	return waits, nil
}

// admitAll admits new machines, some at once, and returns how long each took.
func (r *rig) admitAll(token service.Token) (waits []float64, err error) {
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(admissionClients)
	var mu sync.Mutex
	for i := range admissionCount {
		g.Go(func() error {
			began := time.Now()
			if err := r.admit(ctx, token, i); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			waits = append(waits, measure.Milliseconds(time.Since(began)))
			return nil
		})
	}
	return waits, g.Wait()
}

// admit joins with a fresh identity from one of the clouds.
func (r *rig) admit(ctx context.Context, token service.Token, i int) error {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	host := r.fleet.Lab.Host(fmt.Sprintf("m%d-1", i%rigClouds+1))
	_, err = node.Join(ctx, node.JoinConfig{
		Token: token, Identity: key, Name: fmt.Sprintf("client-%d", i), VM: fmt.Sprintf("vm-%d", i), Binary: "bench",
		Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, endpoint string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(endpoint)
			if err != nil {
				return nil, err
			}
			return host.DialTCP(ctx, to)
		},
	})
	return err
}
