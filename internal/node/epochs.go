package node

import (
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"time"

	"icvpn/internal/discovery"
	"icvpn/internal/provision"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/internal/wire"
	"icvpn/keyex"
)

// How a member keeps up with the group key (docs/protocol/epochs.md).
//
//	document ─> learnEpochs ─> renewal, some time before it is in force ─> installEpochs
//	                                                                           │
//	dates ─> turnEpoch ─┬─ in force: grant, contact, each SA at a time of its own
//	                    └─ grace is over: key and SAs of the epoch before are erased
//	an unknown kid, or silence ─> lost ─> renewal

// We chose:
const (
	// lostGap is the least time between two renewals that nobody but strangers may
	// have given us a reason for.
	lostGap = 10 * time.Minute
	// silentAfter is how long nobody has answered under our keys before they may be
	// over: three reflections.
	silentAfter = 3 * reflectEvery
	// epochRetry is the least wait for a key that a super peer did not have yet.
	epochRetry = time.Minute
)

// keeping is what the control loop knows of epochs.
type keeping struct {
	current uint32    // that was in force at the last look
	at      time.Time // of the next look, by our clock; zero for never
}

// openEpochs verifies what a grant says of epochs. An epoch that the owners have
// not spoken of is a super peer's own invention, and would cut us off from all
// others.
func openEpochs(trust *service.Trust, g provision.Grant) (e *service.Epochs, err error) {
	if len(g.Epochs.Body) > 0 {
		if e, err = trust.OpenEpochs(g.Epochs); err != nil {
			return nil, err
		}
	}
	if g.Epoch == 0 || g.Epoch > e.Last() {
		return nil, fmt.Errorf("node: the grant is of epoch %d, and the owner has spoken of %d at most", g.Epoch, e.Last())
	}
	return e, nil
}

// installEpochs takes a membership's group keys, with the owners' dates. Only a
// bad membership fails.
func (n *Node) installEpochs(m *Membership) error {
	keys := append([]provision.EpochKey{{Number: m.Grant.Epoch, Key: m.Grant.EpochKey}}, m.Grant.Keys...)
	for _, of := range keys {
		if of.Number > m.Epochs.Last() {
			continue
		}
		k, err := seal.ParseMemberKey(of.Key)
		if err != nil {
			return err
		}
		err = n.ring.Install(dated(m.Epochs, of.Number, k))
		if err != nil && (of.Number == m.Grant.Epoch || !errors.Is(err, seal.ErrEpochPassed)) {
			return fmt.Errorf("node: epoch %d: %w", of.Number, err)
		}
	}
	return nil
}

// dated is an epoch with the owners' dates. What they do not speak of began long
// ago.
func dated(e *service.Epochs, number uint32, k seal.MemberKey) seal.Epoch {
	out := seal.Epoch{Number: number, Key: k, ActivateAt: time.Unix(0, 0)}
	if r, ok := e.Record(number); ok {
		out.ActivateAt, out.Grace = r.Activates(), r.GraceTime()
	}
	return out
}

// newerEpochs gives m what we know of epochs, where that is more.
func (n *Node) newerEpochs(m *Membership) {
	if old := n.membership.Load(); old.Epochs != nil && old.Epochs.Newer(m.Epochs) {
		m.Epochs, m.Grant.Epochs = old.Epochs, old.Grant.Epochs
	}
}

// untilEpoch is when to fetch the key of an epoch that was announced; false if we
// have it. Of many machines each has a time of its own, in the first half of what
// is left.
func (n *Node) untilEpoch() (time.Duration, bool) {
	e := n.membership.Load().Epochs
	if slices.ContainsFunc(n.ring.Epochs(), func(k seal.Epoch) bool { return k.Number >= e.Last() }) {
		return 0, false
	}
	return mrand.N(max(e.Newest().Activates().Sub(n.now())/2, renewSpread)), true
}

// epochsDocument is what the owners say of epochs.
func (n *Node) epochsDocument() document {
	return document{"epochs", discovery.SaltEpochs(n.service), func() uint64 {
		if e := n.membership.Load().Epochs; e != nil {
			return e.Seq
		}
		return 0
	}, n.learnEpochs}
}

// learnEpochs takes in a newer document.
func (n *Node) learnEpochs(ctx context.Context, b []byte) error {
	var signed service.Signed
	if err := wire.Unmarshal(b, &signed, service.MaxSigned); err != nil {
		return err
	}
	e, err := n.trust().OpenEpochs(signed)
	if err != nil {
		return err
	}
	adopted := false
	err = n.call(ctx, func() { adopted = n.adoptEpochs(e, signed) })
	if err != nil || !adopted {
		return err
	}
	n.log.Info("newer epochs known", "seq", e.Seq, "epoch", e.Last(), "activates", e.Newest().Activates())
	n.save()
	return nil
}

// save keeps the membership in force. Several loops change it; the last one to
// write has seen what the others did.
func (n *Node) save() {
	if n.cfg.Save == nil {
		return
	}
	n.saving.Lock()
	defer n.saving.Unlock()
	if err := n.cfg.Save(n.membership.Load()); err != nil {
		n.log.Error("membership not saved", "err", err)
	}
}

// adoptEpochs puts a document in force, and says whether it is newer. Control loop
// only.
func (n *Node) adoptEpochs(e *service.Epochs, signed service.Signed) bool {
	m := *n.membership.Load()
	if !e.Newer(m.Epochs) {
		return false
	}
	m.Epochs, m.Grant.Epochs = e, signed
	n.membership.Store(&m)
	for _, k := range n.ring.Epochs() { // dates may be others now
		if err := n.ring.Install(dated(e, k.Number, k.Key)); err != nil {
			n.log.Debug("epoch not installed", "epoch", k.Number, "err", err)
		}
	}
	n.turnEpoch(time.Now())
	n.tellEpoch()
	return true
}

// tellEpoch has the membership loop look at epochs again.
func (n *Node) tellEpoch() {
	select {
	case n.epochNews <- struct{}{}:
	default:
	}
}

// tellContact has the contact written, which is sealed to a key of the grant.
func (n *Node) tellContact() {
	select {
	case n.contactNow <- struct{}{}:
	default:
	}
}

// turnEpoch does what is due: an epoch may be in force that was not, and keys and
// SAs of another one over. Control loop only.
func (n *Node) turnEpoch(now time.Time) {
	n.ring.Tick(now)
	m := n.membership.Load()
	at := now.Add(n.ring.ClockOffset())
	oldest := m.Epochs.Oldest(at)
	if current := n.ring.Current(now); current != n.keeping.current {
		if n.keeping.current != 0 {
			n.log.Info("epoch in force", "epoch", current)
			n.tellEpoch()
		}
		n.keeping.current = current
	}
	if g, changed := m.Grant.Turn(n.keeping.current, oldest); changed {
		next := *m
		next.Grant = g
		n.membership.Store(&next)
		n.loops.Go(n.save)
	}
	for t := range n.active {
		for _, p := range slices.Clone(t.pairs) {
			switch {
			case p.result.Epoch < oldest:
				n.endPair(t, p)
			case p.result.Epoch < n.keeping.current:
				n.planEpoch(p, now)
			}
		}
	}
	n.keeping.at = n.nextTurn(m.Epochs, at)
	n.upkeepAt = now
}

// nextTurn is when the owners' dates have something due after at, on the service's
// clock; the answer is on ours.
func (n *Node) nextTurn(e *service.Epochs, at time.Time) (next time.Time) {
	if e == nil {
		return next
	}
	for _, r := range e.Records {
		for _, due := range []time.Time{r.Activates(), r.Settled()} {
			if due.After(at) && (next.IsZero() || due.Before(next)) {
				next = due
			}
		}
	}
	if !next.IsZero() {
		next = next.Add(-n.ring.ClockOffset())
	}
	return next
}

// untilContact is when to write the contact under the new epoch, each machine at a
// time of its own within a tenth of the grace.
func (n *Node) untilContact() time.Duration {
	spread := time.Second
	if r, ok := n.membership.Load().Epochs.Record(n.ring.Current(time.Now())); ok {
		spread = max(spread, r.GraceTime()/10)
	}
	return mrand.N(spread)
}

// endPair erases a pair of an epoch that is over. A tunnel in use gets another.
func (n *Node) endPair(t *tunnel, p *saPair) {
	used := p == t.current() && t.usedSince(p.born)
	n.removePair(t, p)
	if used {
		n.connect(t)
	}
}

// planEpoch gives a pair of the epoch before a time to be replaced: at random in
// the first half of the grace, so that not all tunnels are rekeyed together.
func (n *Node) planEpoch(p *saPair, now time.Time) {
	if !p.epochAt.IsZero() {
		return
	}
	p.epochAt = now
	if r, ok := n.membership.Load().Epochs.Record(p.result.Epoch + 1); ok {
		half := r.Activates().Add(r.GraceTime() / 2).Sub(n.now())
		p.epochAt = now.Add(mrand.N(max(time.Second, half)))
	}
}

// tendEpoch replaces the pair in use when its time has come. One that nobody uses
// ends with the grace.
func (n *Node) tendEpoch(t *tunnel, now time.Time) {
	p := t.current()
	if p == nil || n.leaving || t.rekeying || p.epochAt.IsZero() || now.Before(p.epochAt) || now.Before(t.retryAt) || !t.usedSince(p.born) {
		return
	}
	t.rekeying = true
	id := p.result.RekeyID
	n.initiate(t, &id)
}

// before says whether an exchange that nobody answered is to be tried under the
// epoch before: the peer may not have the new key yet.
func (n *Node) before(f keyex.Failure) bool {
	if f.Reason != keyex.ReasonNoAnswer || f.Epoch < 2 || f.Epoch != n.ring.Current(time.Now()) {
		return false
	}
	_, ok := n.ring.Key(time.Now(), f.Epoch-1)
	return ok
}

// onUnknown hears of a datagram under a key that we do not have. Called by the
// port's readers.
func (n *Node) onUnknown() {
	if n.lostAt.Load() < time.Now().Add(-lostGap).UnixNano() {
		n.lost("there are datagrams under a group key that this machine does not have")
	}
}

// watchSilence finds that nobody answers: our group key may be over.
func (n *Node) watchSilence() {
	if time.Since(time.Unix(0, n.heardAt.Load())) > silentAfter {
		n.lost("nobody has answered under the group keys that this machine has")
	}
}

// lost has us renewed, which takes no group key. Once in a while only: anybody can
// send a datagram that looks like one under an unknown key.
func (n *Node) lost(why string) {
	now, last := time.Now(), n.lostAt.Load()
	if now.Sub(time.Unix(0, last)) < lostGap || !n.lostAt.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	n.log.Info("asking a super peer whether the group key has changed", "reason", why)
	select {
	case n.renewNow <- struct{}{}:
	default:
	}
}
