//go:build linux

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"icvpn/bench/internal/measure"
)

// The flow of this file: roundsLoop -> trial -> await, pings, bulk -> under load:
// pings; and once for each contestant that must show it, content.

const (
	bulkPort = 5001

	// warmUp is given to TCP before measuring.
	warmUp = 300 * time.Millisecond
	// pingGap lets a tunnel come to rest between two idle pings, as between those
	// of ping(8).
	pingGap = time.Millisecond
	// loadPingTime bounds the pings under load: with full queues they take long.
	loadPingTime = 2 * time.Second

	// loadSample is how long other load is looked for before a round.
	loadSample = 300 * time.Millisecond
	// loadNoticed is the number of processors that others may use before it is
	// said.
	loadNoticed = 0.1
)

// bench is one run.
type bench struct {
	options
	dir    string // scratch
	out    io.Writer
	links  []*link
	report *report
}

func (b *bench) makeLinks() error {
	for _, s := range b.settings {
		k, err := newLink(s)
		if err != nil {
			return err
		}
		b.links = append(b.links, k)
	}
	return nil
}

func (b *bench) close() {
	for _, k := range b.links {
		k.close()
	}
}

// roundsLoop has every contestant on every link once a round. One that fails
// takes no further part and does not keep the others from it.
func (b *bench) roundsLoop(ctx context.Context) error {
	var failed error
	began := time.Now()
	for round := range b.rounds {
		roundBegan := time.Now()
		if passed := time.Since(began); round > 0 && passed+passed/time.Duration(round) > b.budget {
			b.report.note(b.out, fmt.Sprintf("%d of %d rounds: another one would end after the budget of %v", round, b.rounds, b.budget))
			break
		}
		if err := b.noticeLoad(ctx); err != nil {
			return err
		}
		for i, k := range b.links {
			for j := range b.contestants {
				res := &b.report.Settings[i].Contestants[j]
				if res.Error != "" {
					continue
				}
				err := b.turn(ctx, k, &b.contestants[j], res)
				if ctx.Err() != nil { // it is no contestant's fault
					return errors.Join(failed, context.Cause(ctx))
				}
				if err != nil {
					res.Error = err.Error()
					failed = errors.Join(failed, fmt.Errorf("setting %s: %s: %w", k.name, res.Name, err))
				}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d: %.0f s\n", round+1, b.rounds, time.Since(roundBegan).Seconds())
	}
	return failed
}

// noticeLoad looks at what the machine does while this run does nothing.
func (b *bench) noticeLoad(ctx context.Context) error {
	before, err := measure.Busy()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := measure.Sleep(ctx, loadSample); err != nil {
		return err
	}
	after, err := measure.Busy()
	if err != nil {
		return err
	}
	busy := (after - before).Seconds() / time.Since(began).Seconds()
	b.report.Load.OtherCPUs = append(b.report.Load.OtherCPUs, busy)
	if busy > loadNoticed && len(b.report.Notes) == 0 {
		b.report.note(b.out, fmt.Sprintf("other processes use %.1f of %d processors (load average %.1f): all figures suffer, and not alike; run it again when the machine is idle",
			busy, b.report.Machine.CPUs, b.report.Load.Average))
	}
	return nil
}

// turn is one contestant's in a round.
func (b *bench) turn(ctx context.Context, k *link, c *contestant, res *result) (err error) {
	var ends []*end
	if c.start != nil {
		if ends, err = c.start(b, ctx, k); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop(ends)) }()
	}
	t := &trial{k: k, to: c.target(), congestion: b.congestion, ends: ends}
	if err := t.run(ctx, &b.options); err != nil {
		return err
	}
	res.Trials = append(res.Trials, t.figures)
	fmt.Fprintf(os.Stderr, "%-7s %-28s %s Gbit/s\n", k.name, c.name, measure.Number(t.Gbit))
	if c.hasSuite && b.content > 0 && res.Content == nil {
		return b.checkContent(t, res)
	}
	return nil
}

// errContent is the one result that no machine is too slow for.
var errContent = errors.New("the content has changed on its way")

func (b *bench) checkContent(t *trial, res *result) error {
	h, err := measure.Transfer(t.tcp(), b.content)
	if err != nil {
		return err
	}
	res.Content = &content{Bytes: h.Bytes, Sent: hex.EncodeToString(h.Sent[:]), Received: hex.EncodeToString(h.Received[:]), Intact: h.Intact()}
	if !h.Intact() {
		return errContent
	}
	return nil
}

// trial measures one way from the first host of a link to the second.
type trial struct {
	k          *link
	to         netip.Addr
	congestion string
	ends       []*end // none: no processes to look at
	figures
}

// tcp is what bulk streams are: who sends, and how fast, is the same on every machine.
func (t *trial) tcp() measure.TCP {
	return measure.TCP{From: t.k.hosts[0], To: t.k.hosts[1], At: netip.AddrPortFrom(t.to, bulkPort), Congestion: t.congestion}
}

func (t *trial) run(ctx context.Context, o *options) error {
	p, err := measure.NewPinger(t.k.hosts[0])
	if err != nil {
		return err
	}
	defer p.Close()
	if err := t.await(ctx, p); err != nil {
		return err
	}
	idle, err := t.pings(ctx, p, o.pings, time.Hour)
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	t.IdleMedian, t.IdleP99 = measure.Quantile(idle, 0.5), measure.Quantile(idle, 0.99)
	load := t.ownLoad
	if o.iperf3 {
		load = t.iperf3Load
	}
	err = load(ctx, o.bulk, func() error {
		busy, err := t.pings(ctx, p, o.pings, loadPingTime)
		t.LoadMedian, t.LoadP99, t.LoadPings = measure.Quantile(busy, 0.5), measure.Quantile(busy, 0.99), float64(len(busy))
		return err
	})
	if err != nil {
		return fmt.Errorf("under load: %w", err)
	}
	return t.memory()
}

// await waits for the first answer: interfaces come up, wireguard-go shakes hands.
func (t *trial) await(ctx context.Context, p *measure.Pinger) error {
	for deadline := time.Now().Add(startTimeout); ; {
		_, err := p.Echo(t.to)
		if err == nil || !errors.Is(err, measure.ErrNoAnswer) || time.Now().After(deadline) {
			return err
		}
		for _, e := range t.ends {
			if err := e.alive(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// pings sends n echo requests, or as many as the time allows. Those that got lost
// are counted, for with full queues some do.
func (t *trial) pings(ctx context.Context, p *measure.Pinger, n int, limit time.Duration) (rtts []float64, err error) {
	var lost error
	for began := time.Now(); n > 0 && time.Since(began) < limit; n-- {
		rtt, err := p.Echo(t.to)
		switch {
		case err == nil:
			rtts = append(rtts, measure.Milliseconds(rtt))
		case errors.Is(err, measure.ErrNoAnswer):
			t.Lost++
			lost = err
		default:
			return nil, err
		}
		if err := measure.Sleep(ctx, pingGap); err != nil {
			return nil, err
		}
	}
	if len(rtts) == 0 {
		return nil, lost
	}
	return rtts, nil
}

// ownLoad measures one TCP stream for d, and calls underLoad while it goes on.
func (t *trial) ownLoad(ctx context.Context, d time.Duration, underLoad func() error) error {
	s, err := measure.StartStream(t.tcp())
	if err != nil {
		return err
	}
	err = measure.Sleep(ctx, warmUp)
	if err == nil {
		err = t.window(func() (carried, error) {
			before, began := s.Received(), time.Now()
			err := measure.Sleep(ctx, d)
			return carried{s.Received() - before, time.Since(began).Seconds()}, err
		})
	}
	if err == nil {
		err = underLoad()
	}
	if err != nil {
		s.Abort()
		return err
	}
	return s.Stop()
}

// carried is what arrived, and in what time.
type carried struct {
	bytes   int64
	seconds float64
}

// window fills in what was carried and what it cost.
func (t *trial) window(carry func() (carried, error)) error {
	before, err := t.clocks()
	if err != nil {
		return err
	}
	c, err := carry()
	if err != nil {
		return err
	}
	after, err := t.clocks()
	if err != nil {
		return err
	}
	if c.bytes == 0 {
		return errors.New("nothing arrived")
	}
	t.Gbit = float64(c.bytes) * 8 / 1e9 / c.seconds
	t.Busy = (after.busy - before.busy).Seconds() / after.at.Sub(before.at).Seconds()
	if len(t.ends) == 2 {
		gb := float64(c.bytes) / 1e9
		t.CPUSender = (after.cpu[0] - before.cpu[0]).Seconds() / gb
		t.CPUReceiver = (after.cpu[1] - before.cpu[1]).Seconds() / gb
		t.CPU = t.CPUSender + t.CPUReceiver
	}
	return nil
}

// clocks are all clocks at one time.
type clocks struct {
	at   time.Time
	busy time.Duration    // all processors
	cpu  [2]time.Duration // of the ends
}

func (t *trial) clocks() (c clocks, err error) {
	c.at = time.Now()
	if c.busy, err = measure.Busy(); err != nil {
		return c, err
	}
	for i, e := range t.ends {
		if c.cpu[i], err = e.stat.CPU(); err != nil {
			return c, fmt.Errorf("%w: %s", err, e.log)
		}
	}
	return c, nil
}

// memory fills in how much the ends have held.
func (t *trial) memory() error {
	for i, e := range t.ends {
		m, err := e.stat.Memory()
		if err != nil {
			return fmt.Errorf("%w: %s", err, e.log)
		}
		*[]*float64{&t.RSSSender, &t.RSSReceiver}[i] = m.Peak
	}
	return nil
}
