package superpeer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/provision"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// How the group key changes (docs/protocol/epochs.md). The owners' document comes
// as all of theirs do; it says when, and the ratchet says what.
//
//	document ─> learn ─> ratchet ─> disk ─> ring ─> grants and renewals
//	                                          │
//	             epochLoop ── activates ──> directory and statements anew
//	                       └─ grace ends ─> the key before is erased

// fileEpochs is where document and keys are kept.
const fileEpochs = "epochs"

// epochs are the group keys of the service.
type epochs struct {
	// set at start
	ring *seal.Ring
	keep func(b []byte) error

	known   atomic.Pointer[knownEpochs]
	changed chan struct{} // capacity 1: look at the dates again

	mu      sync.Mutex // orders changes
	ratchet *seal.Ratchet
}

// knownEpochs is the newest document; doc is nil until the owners have spoken.
type knownEpochs struct {
	doc    *service.Epochs
	signed service.Signed
}

// seq returns the document's sequence number, 0 for none.
func (k *knownEpochs) seq() uint64 {
	if k.doc == nil {
		return 0
	}
	return k.doc.Seq
}

// keptEpochs is what is on disk: nothing is handed out that is not.
type keptEpochs struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Signed  service.Signed
	Ratchet []byte
}

const (
	keptEpochsVersion = 1
	maxKeptEpochs     = service.MaxSigned
)

// installEpoch gives a ring the one key that an overlay without documents on
// epochs has.
func installEpoch(ring *seal.Ring, m service.Membership) error {
	master, err := seal.ParseMasterKey(m.Epoch, m.Master)
	if err != nil {
		return err
	}
	defer master.Wipe()
	k, err := master.Member(m.Epoch)
	if err != nil {
		return err
	}
	return ring.Install(seal.Epoch{Number: m.Epoch, Key: k, ActivateAt: time.Unix(0, 0), Grace: seal.DefaultGrace})
}

// openEpochs begins with the hand-over's M and document, or with what an earlier
// process has gone on to.
func (s *SuperPeer) openEpochs(ring *seal.Ring, trust *service.Trust, now time.Time) (*epochs, error) {
	h := s.cfg.HandOver
	e := &epochs{ring: ring, changed: make(chan struct{}, 1), keep: func(b []byte) error { return s.cfg.Ledger.Put(fileEpochs, b) }}
	master, err := seal.ParseMasterKey(h.Service.Epoch, h.Service.Master)
	if err != nil {
		return nil, err
	}
	e.ratchet = seal.NewRatchet(master)
	known := &knownEpochs{}
	if len(h.Epochs.Body) > 0 {
		if known.doc, err = trust.OpenEpochs(h.Epochs); err != nil {
			return nil, err
		}
		known.signed = h.Epochs
	}
	if known, err = e.restore(s.cfg.Ledger.Get, trust, known); err != nil {
		return nil, err
	}
	if last := known.doc.Last(); e.ratchet.Epoch() > last {
		return nil, fmt.Errorf("superpeer: the group key is of epoch %d, and the owners have spoken of %d at most; ask the owner for a new hand-over", e.ratchet.Epoch(), last)
	}
	e.known.Store(&knownEpochs{})
	_, err = e.take(known, now)
	return e, err
}

// restore takes what an earlier process kept, where it is further on.
func (e *epochs) restore(get func(string) ([]byte, error), trust *service.Trust, known *knownEpochs) (*knownEpochs, error) {
	b, err := get(fileEpochs)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	var kept keptEpochs
	if err := wire.Unmarshal(b, &kept, maxKeptEpochs); err != nil {
		return nil, fmt.Errorf("superpeer: kept epochs: %w", err)
	}
	ratchet, err := seal.ParseRatchet(kept.Ratchet)
	if err != nil {
		return nil, err
	}
	if ratchet.Epoch() >= e.ratchet.Epoch() {
		e.ratchet.Wipe()
		e.ratchet = ratchet
	}
	if len(kept.Signed.Body) > 0 {
		if doc, err := trust.OpenEpochs(kept.Signed); err == nil && doc.Newer(known.doc) {
			return &knownEpochs{doc, kept.Signed}, nil
		}
	}
	return known, nil
}

// learn takes in a newer document, and says whether it was newer. Older ones are
// no error: they are everywhere.
func (e *epochs) learn(trust *service.Trust, b []byte, now time.Time) (newer bool, err error) {
	var signed service.Signed
	if err := wire.Unmarshal(b, &signed, service.MaxSigned); err != nil {
		return false, err
	}
	doc, err := trust.OpenEpochs(signed)
	if err != nil {
		return false, err
	}
	return e.take(&knownEpochs{doc, signed}, now)
}

// take makes the keys that a document speaks of. All is on disk before anybody
// is told, and M of the epoch before is gone by then.
func (e *epochs) take(next *knownEpochs, now time.Time) (newer bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.known.Load()
	if next.doc != nil && !next.doc.Newer(old.doc) {
		return false, nil
	}
	ratchet, err := seal.ParseRatchet(e.ratchet.Bytes())
	if err != nil {
		return false, err
	}
	oldest := next.doc.Oldest(now)
	if err := ratchet.Advance(next.doc.Last(), oldest); err != nil {
		return false, fmt.Errorf("superpeer: epoch %d: %w", next.doc.Last(), err)
	}
	ratchet.Forget(oldest)
	if next.doc != nil {
		if err := e.save(next.signed, ratchet); err != nil {
			return false, err
		}
	}
	e.ratchet.Wipe()
	e.ratchet = ratchet
	if err := e.install(next.doc, oldest); err != nil {
		return false, err
	}
	e.known.Store(next)
	select {
	case e.changed <- struct{}{}:
	default:
	}
	return next.doc != nil, nil
}

func (e *epochs) save(signed service.Signed, r *seal.Ratchet) error {
	return e.keep(wire.Marshal(keptEpochs{Version: keptEpochsVersion, Signed: signed, Ratchet: r.Bytes()}))
}

// install gives the ring what the ratchet has, with the dates of doc.
func (e *epochs) install(doc *service.Epochs, oldest uint32) error {
	for n := oldest; n <= doc.Last(); n++ {
		k, ok := e.ratchet.Key(n)
		if !ok {
			continue // we were not there
		}
		err := e.ring.Install(ringEpoch(doc, n, k))
		k.Wipe()
		if err != nil && !errors.Is(err, seal.ErrEpochPassed) {
			return fmt.Errorf("superpeer: epoch %d: %w", n, err)
		}
	}
	return nil
}

// ringEpoch is an epoch with its dates. What no record speaks of began long ago.
func ringEpoch(doc *service.Epochs, number uint32, k seal.MemberKey) seal.Epoch {
	e := seal.Epoch{Number: number, Key: k, ActivateAt: time.Unix(0, 0)}
	if r, ok := doc.Record(number); ok {
		e.ActivateAt, e.Grace = r.Activates(), r.GraceTime()
	}
	return e
}

// settle erases what has passed, and says when to look again; the zero time is
// when there is something to learn.
func (e *epochs) settle(now time.Time) (next time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ring.Tick(now)
	known := e.known.Load()
	if known.doc == nil {
		return time.Time{}, nil
	}
	if e.ratchet.Forget(known.doc.Oldest(now)) {
		err = e.save(known.signed, e.ratchet)
	}
	for _, r := range known.doc.Records {
		for _, at := range []time.Time{r.Activates(), r.Settled()} {
			if at.After(now) && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return next, err
}

// epochLoop does what is due when an epoch comes into force, and when the one
// before has ended.
func (s *SuperPeer) epochLoop(ctx context.Context) error {
	e := s.authority.epochs
	current := e.ring.Current(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.changed:
		case <-timer.C:
		}
		now := time.Now()
		next, err := e.settle(now)
		if err != nil {
			s.log.Error("keys of epochs that have ended are still on disk", "err", err)
		}
		if n := e.ring.Current(now); n != current {
			s.log.Info("epoch in force", "epoch", n)
			current = n
			s.authority.touch() // the directory is sealed anew
		}
		if timer.Stop(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// learnEpochs puts a newer document in force, and hands it on.
func (s *SuperPeer) learnEpochs(b []byte, now time.Time) (newer bool, err error) {
	e := s.authority.epochs
	newer, err = e.learn(s.service.trust(), b, now)
	if newer {
		doc := e.known.Load().doc
		s.log.Info("newer epochs known", "seq", doc.Seq, "epoch", doc.Last(), "activates", doc.Newest().Activates())
		s.tellNews()
	}
	return newer, err
}

// signedEpochs is the way the document takes.
func (s *SuperPeer) signedEpochs() signedDocument {
	return signedDocument{
		name: "epochs", salt: func(st *standing) []byte { return discovery.SaltEpochs(st.trust.Service) }, learn: s.learnEpochs,
		inForce: func(*standing) (service.Signed, uint64) {
			known := s.authority.epochs.known.Load()
			return known.signed, known.seq()
		},
	}
}

// epoch returns the epoch in force.
func (a *authority) epoch(now time.Time) uint32 { return a.ring.Current(now) }

// withheld says whether the newest key is not to be handed out yet: we do not know
// who is to be kept from it.
func (a *authority) withheld() bool {
	doc := a.epochs.known.Load().doc
	return doc != nil && a.trust().Policy.Sequence < doc.Policy
}

// mayHandOut refuses machines while the key in force is withheld.
func (a *authority) mayHandOut(now time.Time) error {
	if a.withheld() && a.epoch(now) == a.epochs.known.Load().doc.Last() {
		return &admission.Refusal{Code: admission.CodeBusy, Other: a.other()}
	}
	return nil
}

// groupKeys are what machines are given of group keys at a moment.
type groupKeys struct {
	epoch  uint32 // in force
	next   uint32 // announced and handed out; 0 for none
	key    []byte
	others []provision.EpochKey
	signed service.Signed
	seq    uint64
}

func (a *authority) groupKeys(now time.Time) (g groupKeys, err error) {
	known := a.epochs.known.Load()
	g = groupKeys{epoch: a.epoch(now), signed: known.signed, seq: known.seq()}
	for _, e := range a.ring.Epochs() {
		k, ok := a.ring.Key(now, e.Number)
		switch {
		case !ok:
			continue
		case e.Number == g.epoch:
			g.key = k.Bytes()
			continue
		case e.Number == known.doc.Last() && a.withheld():
			continue
		case e.Number == g.epoch+1:
			g.next = e.Number
		}
		g.others = append(g.others, provision.EpochKey{Number: e.Number, Key: k.Bytes()})
	}
	if g.key == nil {
		return g, fmt.Errorf("superpeer: no key of epoch %d", g.epoch)
	}
	return g, nil
}
