//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/admission"
	"icvpn/bench/internal/measure"
)

// batch is how many newcomers each super peer takes in one point of a comparison.
const batch = 300

// storm is many newcomers at once.
func storm(b *bench, rec *recorder) error {
	if err := b.stormOnOne(rec); err != nil {
		return err
	}
	if err := b.stormOverSupers(rec); err != nil {
		return err
	}
	return b.stormOverMembers(rec)
}

// way is how a machine is admitted.
type way uint8

const (
	bySecret   way = iota
	byTicket       // over TLS
	byDatagram     // of the super peer that gave the ticket
)

// wave is a number of admissions and what they cost.
type wave struct {
	took    []float64 // milliseconds, with all tries
	tries   int
	refused map[string]int
	seconds float64
	cpu     time.Duration // of the super peers, to the last admission, without keys
	keys    time.Duration // of the super peers meanwhile, for attribute keys made ahead
	ahead   time.Duration // after it, until they are quiet: keys are made ahead again
	verify  time.Duration // of an Ed25519 signature, while the machine was as busy as this
}

// run has the newcomers admitted over the super peers in turn, some at a time.
func (s *site) run(ctx context.Context, all []*newcomer, first, atOnce int, how way) (*wave, error) {
	v := &wave{refused: map[string]int{}}
	if _, err := s.cpu(ctx, (*proc).quiet); err != nil { // one after the other: the first has gone on meanwhile
		return nil, err
	}
	keysBefore, err := s.cpu(ctx, (*proc).keysAhead)
	if err != nil {
		return nil, err
	}
	used := func(p *proc, _ context.Context) (time.Duration, error) { return p.CPU() }
	before, err := s.cpu(ctx, used)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(atOnce)
	var mu sync.Mutex
	for i, n := range all {
		g.Go(func() error {
			at := time.Now()
			tries, why, err := s.enter(n, first+i, how)
			mu.Lock()
			defer mu.Unlock()
			v.tries += tries
			for _, w := range why {
				v.refused[w]++
			}
			v.took = append(v.took, measure.Milliseconds(time.Since(at)))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	v.seconds = time.Since(began).Seconds()
	if v.verify, err = yardstick(); err != nil {
		return nil, err
	}
	after, err := s.cpu(ctx, used)
	if err != nil {
		return nil, err
	}
	keysAfter, err := s.cpu(ctx, (*proc).keysAhead)
	if err != nil {
		return nil, err
	}
	quiet, err := s.cpu(ctx, (*proc).quiet)
	v.keys = keysAfter - keysBefore
	v.cpu, v.ahead = after-before-v.keys, quiet-after
	return v, err
}

// enter admits one newcomer, who tries again when the super peer is busy.
func (s *site) enter(n *newcomer, i int, how way) (tries int, why []string, err error) {
	err = persist(s.ctx, func() error {
		tries++
		err := s.admit(n, i, how)
		if errors.Is(err, admission.ErrDeclined) { // as a machine does
			why = append(why, "declined, went over TLS")
			err = s.admit(n, i, byTicket)
		}
		if err != nil {
			why = append(why, reason(err))
		}
		return err
	})
	if err != nil {
		return tries, why, fmt.Errorf("%s, after %d tries (%s): %w", n.name, tries, strings.Join(why, "; "), err)
	}
	s.book.enter(n.credential)
	return tries, why, nil
}

// admit is one try.
func (s *site) admit(n *newcomer, i int, how way) error {
	from, endpoint := peerAddr(i), s.svc.Supers[i%len(s.svc.Supers)].Endpoint
	if how == byDatagram {
		return n.renewBriefly(s.ctx, from, endpoint)
	}
	c, err := s.dialFrom(from)(s.ctx, endpoint)
	if err != nil {
		return err
	}
	return n.admit(s.ctx, c, how == byTicket)
}

// cpu is what the super peers have used.
func (s *site) cpu(ctx context.Context, of func(*proc, context.Context) (time.Duration, error)) (all time.Duration, err error) {
	for _, p := range s.procs {
		d, err := of(p, ctx)
		if err != nil {
			return 0, err
		}
		all += d
	}
	return all, nil
}

// newcomers makes machines of the first role.
func (s *site) newcomers(n, first int) (all []*newcomer) {
	for i := range n {
		all = append(all, s.gates[roles[0]].newcomer(fmt.Sprintf("storm-%d", first+i)))
	}
	return all
}

// yardstick is the processor time of one Ed25519 verification here and now, by
// which figures of a busy machine can be compared.
func yardstick() (time.Duration, error) {
	const n = 500
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return 0, err
	}
	sig := ed25519.Sign(key, nil)
	before := processCPU()
	for range n {
		ed25519.Verify(pub, nil, sig)
	}
	return (processCPU() - before) / n, nil
}

// record prints a wave of n admissions.
func (v *wave) record(rec *recorder, name string, n int) {
	rec.add(float64(n)/v.cpu.Seconds(), "1/s", "%s: a second of the super peer's processor time", name)
	rec.add(measure.Milliseconds(v.cpu)/float64(n), "ms", "%s: processor time of each", name)
	rec.add(float64(v.cpu)/float64(n)/float64(v.verify), "", "%s:   in Ed25519 verifications of that moment, %d us each", name, v.verify.Microseconds())
	rec.add(measure.Milliseconds(v.keys)/float64(n), "ms", "%s:   meanwhile, attribute keys made ahead", name)
	rec.add(measure.Milliseconds(v.ahead)/float64(n), "ms", "%s:   and afterwards, keys made ahead again", name)
	rec.add(float64(n)/v.seconds, "1/s", "%s: a second, clients on the same machine", name)
	rec.times(v.took, "%s: wait, retries included", name)
	rec.add(float64(v.tries-n), "", "%s: tries that were turned away", name)
	recordReasons(rec, name, v.refused)
}

// stormOnOne has one super peer take everybody, and everybody come back.
func (b *bench) stormOnOne(rec *recorder) error {
	s, err := b.newSite(rec, 1)
	if err != nil {
		return err
	}
	defer s.close(rec)
	before, err := s.procs[0].scrape(b.ctx, "icvpn_admission")
	if err != nil {
		return err
	}
	all := s.newcomers(b.storm, 0)
	v, err := s.run(b.ctx, all, 0, b.clients, bySecret)
	if err != nil {
		return err
	}
	v.record(rec, "admissions", len(all))
	after, err := s.procs[0].scrape(b.ctx, "icvpn_admission")
	if err != nil {
		return err
	}
	recordMetrics(rec, before, after)
	st, err := s.procs[0].control.Status(b.ctx)
	if err != nil {
		return err
	}
	rec.must(s.book.len(), b.storm, "newcomers admitted")
	rec.must(st.PeersKnown, b.storm, "members that the super peer lists")
	rec.must(s.book.twice(), 0, "addresses given twice")
	if m, err := s.procs[0].Memory(); err == nil {
		rec.add(m.Resident, "MiB", "resident memory of the super peer with %d members", b.storm)
		rec.add(m.Peak, "MiB", "  highest so far")
	}
	return b.renewalStorm(rec, s, all)
}

// renewalStorm has members come back with their tickets.
func (b *bench) renewalStorm(rec *recorder, s *site, all []*newcomer) error {
	all = all[:min(len(all), b.renewals)]
	if len(all) == 0 {
		return nil
	}
	for _, r := range []struct {
		how  way
		name string
	}{{byTicket, "renewals by ticket"}, {byDatagram, "renewals by datagram"}} {
		if _, _, err := s.enter(all[0], 0, r.how); err != nil {
			rec.must(0, 1, "%s: %v", r.name, err)
			return nil
		}
		v, err := s.run(b.ctx, all, 0, b.clients, r.how)
		if err != nil {
			return err
		}
		v.record(rec, r.name, len(all))
	}
	rec.must(s.book.twice(), 0, "addresses given twice, renewals included")
	return nil
}

// recordMetrics prints what the super peer counted.
func recordMetrics(rec *recorder, before, after map[string]float64) {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		short := strings.TrimPrefix(name, "icvpn_")
		switch counter := strings.Contains(name, "_total"); {
		case counter && after[name] != before[name]:
			rec.add(after[name]-before[name], "", "  %s", short)
		case !counter && before[name] != 0:
			rec.add(before[name], "", "  %s, before", short)
		}
	}
}

// stormOverSupers has more and more super peers, with as many newcomers for each: what
// costs them by the time that passes, however many come, does not look like growth then.
func (b *bench) stormOverSupers(rec *recorder) error {
	var first costs
	for _, supers := range b.spread {
		s, err := b.newSite(rec, supers)
		if err != nil {
			return err
		}
		all := s.newcomers(supers*min(b.storm, batch), 0)
		name := fmt.Sprintf("on %d super peers", supers)
		err = b.points(rec, s, all, 0, &first, name)
		rec.must(s.book.twice(), 0, "addresses given twice by %d super peers", supers)
		s.close(rec)
		if err != nil {
			return err
		}
	}
	return nil
}

// stormOverMembers has more and more members there before the newcomers come.
func (b *bench) stormOverMembers(rec *recorder) error {
	if len(b.prefill) == 0 {
		return nil
	}
	s, err := b.newSite(rec, 1)
	if err != nil {
		return err
	}
	defer s.close(rec)
	var first costs
	there := 0
	for _, members := range b.prefill {
		if more := members - there; more > 0 {
			if _, err := s.run(b.ctx, s.newcomers(more, there), there, b.clients, bySecret); err != nil {
				return err
			}
			there += more
		}
		all := s.newcomers(min(b.storm, batch), there)
		if err := b.points(rec, s, all, there, &first, fmt.Sprintf("with %d members there", there)); err != nil {
			return err
		}
		there += len(all)
		if m, err := s.procs[0].Memory(); err == nil {
			rec.add(m.Resident, "MiB", "  resident memory of the super peer with %d members", there)
		}
	}
	rec.must(s.book.twice(), 0, "addresses given twice among %d members", there)
	return nil
}

// costs are the processor time of an admission and of renewals in milliseconds.
type costs struct{ admission, renewal, brief float64 }

// points has newcomers admitted and then come back, and prints what each
// cost beside the first of a comparison. The first time that somebody is back he may
// get a key of his own, so the second one counts: no key is made for it.
func (b *bench) points(rec *recorder, s *site, all []*newcomer, at int, first *costs, name string) error {
	n := float64(len(all))
	var c costs
	for _, r := range []struct {
		how  way
		cost *float64
	}{{bySecret, &c.admission}, {byTicket, new(float64)}, {byTicket, &c.renewal}, {byDatagram, &c.brief}} {
		v, err := s.run(b.ctx, all, at, b.clients, r.how)
		if err != nil {
			return err
		}
		*r.cost = measure.Milliseconds(v.cpu) / n
	}
	if first.admission == 0 {
		*first = c
	}
	rec.add(c.admission, "ms", "processor time of each of %d newcomers %s", len(all), name)
	rec.add(c.admission/first.admission, "", "  against the first")
	rec.add(c.renewal, "ms", "  and of each renewal over TLS")
	rec.add(c.renewal/first.renewal, "", "  against the first")
	rec.add(c.brief, "ms", "  and of each by datagram")
	rec.add(c.brief/first.brief, "", "  against the first")
	return nil
}
