package superpeer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"icvpn/abe"
	"icvpn/internal/discovery"
	"icvpn/internal/service"
	"icvpn/internal/wire"
	"icvpn/overlay"
)

// What the owners sign beside the descriptor takes the same way
// (universe_documents.go), each document under its own salt and its own sequence
// number: one may be newer than what is known, and the others not. So does the
// release manifest, which those sign whose keys the policy names.

// signedDocument is such a document of a service.
type signedDocument struct {
	name    string // its type
	salt    func(*standing) []byte
	patient bool                                           // what nobody took is put again with all the rest, not at once
	inForce func(*standing) (s service.Signed, seq uint64) // nothing: sequence number 0; not to be handed on: no body
	learn   func(b []byte, now time.Time) (newer bool, err error)
}

func (s *SuperPeer) signedDocuments() []signedDocument {
	all := []signedDocument{{
		name: "policy", salt: func(st *standing) []byte { return discovery.SaltPolicy(st.trust.Service) }, learn: s.learnPolicy,
		inForce: func(st *standing) (service.Signed, uint64) { return st.policy, st.trust.Policy.Sequence },
	}, s.signedEpochs()}
	if s.service.trust().Policy.Updates.Named() { // nobody looks for what is nowhere
		all = append(all, s.signedRelease())
	}
	return all
}

// newestPolicy returns the policy to begin with: the hand-over's, or a newer one
// that an earlier process learnt.
func (s *SuperPeer) newestPolicy(given service.Signed, now time.Time) (*service.Trust, service.Signed, error) {
	trust, err := s.service.trust().WithPolicy(given, now)
	b, kerr := s.cfg.Ledger.Get(filePolicy)
	switch {
	case errors.Is(kerr, fs.ErrNotExist):
		return trust, given, err
	case kerr != nil:
		return nil, given, kerr
	}
	before := trust
	if err != nil {
		before = s.service.trust() // the hand-over's has expired, maybe
	}
	if kept, signed, kerr := before.OpenSignedPolicy(b, now); kerr == nil {
		return kept, signed, nil
	}
	return trust, given, err
}

// readSigned looks for newer documents where the other super peers put them.
func (s *SuperPeer) readSigned(ctx context.Context) {
	for _, d := range s.signedDocuments() {
		st := s.service.standing.Load()
		_, seq := d.inForce(st)
		b, _, err := s.universe.overlay.GetObjectAfter(ctx, s.documents.Public().(ed25519.PublicKey), d.salt(st), int64(seq))
		if err == nil {
			_, err = d.learn(b, time.Now())
		}
		s.unread(ctx, d.name, err)
	}
}

// publishSigned puts the documents where other super peers and members look for
// them, and says whether all of it was taken.
func (s *SuperPeer) publishSigned(ctx context.Context) (ok bool) {
	ok = true
	st := s.service.standing.Load()
	for _, d := range s.signedDocuments() {
		signed, seq := d.inForce(st)
		if len(signed.Body) == 0 {
			continue
		}
		for _, to := range []struct {
			in  *overlay.Overlay
			key ed25519.PrivateKey
		}{{s.universe.overlay, s.documents}, {s.service.overlay, s.authority.key}} {
			if err := put(ctx, to.in, to.key, d.salt(st), int64(seq), wire.Marshal(signed), 0); err != nil {
				s.log.Debug("documents not published", "detail", d.name, "err", err)
				// Where something newer is, ours comes to nothing however often it is put.
				ok = ok && (d.patient || errors.Is(err, overlay.ErrSuperseded))
			}
		}
	}
	return ok
}

// learnPolicy puts a newer policy in force, keeps it, and says whether it was
// newer.
func (s *SuperPeer) learnPolicy(b []byte, now time.Time) (newer bool, err error) {
	s.learning.Lock()
	defer s.learning.Unlock()
	old := s.service.standing.Load()
	trust, signed, err := old.trust.OpenSignedPolicy(b, now)
	switch {
	case errors.Is(err, service.ErrStale), errors.Is(err, service.ErrRollback):
		return false, nil // older ones are everywhere
	case err != nil:
		return false, err
	}
	if err := s.cfg.Ledger.Put(filePolicy, wire.Marshal(signed)); err != nil {
		return false, err
	}
	s.service.standing.Store(newStanding(trust, old.docs, signed, old.self.Key))
	s.log.Info("newer policy in force", "seq", trust.Policy.Sequence)
	s.authority.dropRevoked()
	err = s.authority.onPolicy(now)
	s.tellNews()
	return true, err
}

// onPolicy makes what machines are given under the rules in force, and hands out
// nothing more of what only former rules asked for.
func (a *authority) onPolicy(now time.Time) error {
	a.targets.retire(func(policy string) bool {
		return slices.ContainsFunc(a.own(), func(p abe.Policy) bool { return p.String() == policy })
	})
	for _, id := range a.secretIDs() {
		if err := a.prepareLabels(a.secrets[id].Grant, now); err != nil {
			return fmt.Errorf("superpeer: the new policy is in force, but keys for it are not: %w", err)
		}
	}
	return nil
}
