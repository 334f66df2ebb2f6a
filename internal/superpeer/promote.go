package superpeer

import (
	"context"
	"crypto/rand"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/metrics"
	"icvpn/internal/port"
	"icvpn/internal/promote"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// We chose:
const (
	// promoteTick is how often it is seen to who is to be asked.
	promoteTick = time.Second
	// helperRoles are what a fit member is promoted to.
	helperRoles = directory.HelperStore | directory.HelperReflect | directory.HelperRelay
	// maxQuestions are under way at once: each of those who are asked, and trials.
	maxQuestions = 256
)

// promotion makes helpers of members that are fast and steady, and members of
// helpers that are not any more (paper, 3.1).
//
//	lookLoop: a random member ─> its contact record ─> a trial: where does it answer?
//	                                                    │ Observe
//	promoteLoop, each second: Due ─> reflection queries ─> Probed ─> Decide ─> list ─> root
//
// What a member is measured by is the reflection query: it answers if it may help,
// from where others will ask it.
type promotion struct {
	// set at start
	s     *SuperPeer
	stats promotionStats

	mu        sync.Mutex
	machine   *promote.Machine
	questions map[[8]byte]question
	trials    map[id.ID]*trial
	elsewhere map[id.ID][]directory.Helper // as other super peers list them
	queue     []service.Member             // to be looked up
	list      []directory.Helper           // as published
	off       bool
}

// question is a reflection query under way.
type question struct {
	pid  id.ID
	addr netip.AddrPort
	sent time.Time
}

// promotionStats are counted from the start of the process.
type promotionStats struct {
	answered, silent atomic.Uint64 // probes
	promoted         atomic.Uint64
	demoted          [promote.NumReasons]atomic.Uint64
	helpers          atomic.Uint64 // now
}

func newPromotion(s *SuperPeer) *promotion {
	return &promotion{
		s: s, machine: promote.New(promote.Config{}), questions: map[[8]byte]question{}, trials: map[id.ID]*trial{},
		elsewhere: map[id.ID][]directory.Helper{},
	}
}

// metrics adds what is counted here.
func (p *promotion) metrics(to *metrics.Super) {
	to.Helpers = int(p.stats.helpers.Load()) //nolint:gosec // MaxHelpers at most
	to.HelperProbes = []metrics.Count{{Name: "answered", N: p.stats.answered.Load()}, {Name: "silent", N: p.stats.silent.Load()}}
	to.HelperChanges = []metrics.Count{{Name: "promoted", N: p.stats.promoted.Load()}}
	for _, r := range promote.DemotionReasons() {
		to.HelperChanges = append(to.HelperChanges, metrics.Count{Name: r.String(), N: p.stats.demoted[r].Load()})
	}
}

// run measures and decides until ctx ends.
func (p *promotion) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.promoteLoop(ctx) })
	g.Go(func() error { return p.lookLoop(ctx) })
	return g.Wait()
}

func (p *promotion) promoteLoop(ctx context.Context) error {
	tick := time.NewTicker(promoteTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			p.tick(time.Now())
		}
	}
}

// tick asks who is due and puts in force what is decided.
func (p *promotion) tick(now time.Time) {
	p.mu.Lock()
	p.configureLocked()
	p.timeoutsLocked(now)
	var ask []question
	if !p.off {
		for _, who := range p.machine.Due(now) {
			ask = append(ask, question{pid: who.PID, addr: who.Addr})
		}
	}
	changed := p.decideLocked(now)
	p.mu.Unlock()
	for _, q := range ask {
		p.ask(q)
	}
	if changed {
		p.s.authority.touch()
	}
}

// configureLocked follows the owners' policy.
func (p *promotion) configureLocked() {
	c := p.s.authority.trust().Policy.Helpers
	p.machine.Configure(promote.Config{Min: c.Min, Max: c.Max})
	if p.off = c.Off; p.off && len(p.machine.Asked()) > 0 {
		p.machine = promote.New(promote.Config{})
	}
}

// decideLocked has the machine decide, and says whether the list is another.
func (p *promotion) decideLocked(now time.Time) (changed bool) {
	var all []promote.Decision
	for _, who := range p.machine.Asked() {
		if !p.s.authority.isMember(who.PID) {
			all = append(all, p.machine.Gone(who.PID)...)
		} else {
			p.machine.Named(who.PID, p.namedLocked(who.PID, now))
		}
	}
	for _, d := range append(all, p.machine.Decide(now)...) {
		switch d.Act {
		case promote.Promote:
			p.stats.promoted.Add(1)
			p.s.log.Info("member promoted", "pid", d.PID.Short(), "addr", d.Addr, "cloud", d.Cloud, "reason", d.Reason)
		case promote.Demote:
			p.stats.demoted[d.Reason].Add(1)
			p.s.log.Info("member demoted", "pid", d.PID.Short(), "addr", d.Addr, "cloud", d.Cloud, "reason", d.Reason)
		}
	}
	return p.listLocked(now)
}

// listLocked makes the list to publish, anew if it changed or has become old.
func (p *promotion) listLocked(now time.Time) (changed bool) {
	helpers := p.machine.Helpers()
	p.stats.helpers.Store(uint64(len(helpers)))
	list := make([]directory.Helper, 0, len(helpers))
	for _, h := range helpers {
		list = append(list, directory.Helper{PID: h.PID, Addr: h.Addr, Roles: helperRoles, Since: h.Since.Unix()})
	}
	same := slices.EqualFunc(list, p.list, func(a, b directory.Helper) bool {
		return a.PID == b.PID && a.Addr == b.Addr && a.Since == b.Since && now.Add(directory.HelperLife-directory.HelperRenew).Unix() < b.Until
	})
	if same {
		return false
	}
	for i := range list {
		list[i].Until = now.Add(directory.HelperLife).Unix()
	}
	p.list = list
	return true
}

// helpers is the list to publish.
func (p *promotion) helpers() []directory.Helper {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list
}

// ask sends a reflection query.
func (p *promotion) ask(q question) {
	var tx [8]byte
	rand.Read(tx[:])
	q.sent = time.Now()
	p.mu.Lock()
	full := len(p.questions) >= maxQuestions
	if !full {
		p.questions[tx] = q
	}
	p.mu.Unlock()
	if full {
		return
	}
	if err := p.s.port.SendControl(p.s.service.ring, seal.TypeReflect, seal.Newest, port.ReflectQuery(tx), seal.PadQuery, q.addr); err != nil {
		p.s.log.Debug("helper not asked", "addr", q.addr, "err", err)
	}
}

// onAnswer takes an answer to a query of ours. Called by the port's readers.
func (p *promotion) onAnswer(tx [8]byte, from netip.AddrPort) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	q, ok := p.questions[tx]
	if !ok || q.addr != netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) {
		return
	}
	delete(p.questions, tx)
	if t := p.trials[q.pid]; t != nil {
		t.answered = append(t.answered, q.addr)
		return
	}
	p.stats.answered.Add(1)
	p.machine.Probed(now, q.pid, now.Sub(q.sent), true)
}

// timeoutsLocked counts who has not answered, and ends trials.
func (p *promotion) timeoutsLocked(now time.Time) {
	maps.DeleteFunc(p.questions, func(_ [8]byte, q question) bool {
		late := now.Sub(q.sent) >= promote.ProbeTimeout
		if late && p.trials[q.pid] == nil {
			p.stats.silent.Add(1)
			p.machine.Probed(now, q.pid, 0, false)
		}
		return late
	})
	for pid, t := range p.trials {
		if now.Sub(t.began) >= promote.ProbeTimeout {
			delete(p.trials, pid)
			p.judgeLocked(t, now)
		}
	}
}

// onElsewhere takes in the helpers of another super peer. We try them, too: the
// fewer helpers there are in all, the fewer copies of each item.
func (p *promotion) onElsewhere(issuer id.ID, all []directory.Helper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.elsewhere[issuer] = slices.Clone(all)
}

func (p *promotion) namedLocked(pid id.ID, now time.Time) bool {
	for _, all := range p.elsewhere {
		for _, h := range all {
			if h.PID == pid && now.Unix() < h.Until {
				return true
			}
		}
	}
	return false
}
