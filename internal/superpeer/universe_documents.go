package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"io/fs"
	"slices"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
	"icvpn/overlay"
)

// How the super peers of a service learn what its owners signed while they run:
// one of them gets it with its hand-over, and puts it into the universal overlay
// under a key that all of them derive from the hand-over. What is read there
// counts by the owners' signatures and its sequence number alone.
//
//	hand-over ─> super peer ─> universal overlay ─> other super peers ─> service's overlay ─> members

// documentsEvery is how often newer documents are looked for.
const documentsEvery = 20 * time.Second

// Where documents that came after the hand-over are kept.
const (
	fileDocuments         = "documents"
	fileUniverseDocuments = "documents-universe"
	filePolicy            = "policy"
)

// documentsKey is the key under which the super peers of a service hand the
// owners' documents to each other. Who holds it can withhold a newer document by
// putting a higher number on something else, as every super peer can at its own
// door; he cannot make one.
func documentsKey(h service.HandOver) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, h.FakeKey, h.Service.ID[:], string(wire.Label("icvpn/1 documents")), ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// newest returns the documents to begin with: the hand-over's, or newer ones
// that an earlier process learnt.
func (s *SuperPeer) newest(m service.Membership, file string, now time.Time) (service.Documents, *service.Trust, error) {
	trust, err := service.Open(m.Documents, m.ID, 0, now)
	b, kerr := s.cfg.Ledger.Get(file)
	if kerr != nil && !errors.Is(kerr, fs.ErrNotExist) {
		return m.Documents, nil, kerr
	}
	if kerr == nil {
		var docs service.Documents
		if wire.Unmarshal(b, &docs, maxDocuments) == nil {
			if kept, kerr := service.Open(docs, m.ID, 0, now); kerr == nil && (err != nil || kept.Descriptor.Seq > trust.Descriptor.Seq) {
				return docs, kept, nil //nolint:nilerr // they are newer, or the hand-over's have ended
			}
		}
	}
	return m.Documents, trust, err
}

// maxDocuments bounds documents as stored and published.
const maxDocuments = 2 * service.MaxSigned

// documentsLoop reads what the owners signed since.
func (s *SuperPeer) documentsLoop(ctx context.Context) error {
	for sleep(ctx, jitter(2*documentsEvery)) {
		for t, file := range map[*tier]string{s.service: fileDocuments, s.universe: fileUniverseDocuments} {
			docs, err := s.readDocuments(ctx, t)
			if err == nil {
				_, err = s.learnDocuments(t, file, docs, time.Now())
			}
			s.unread(ctx, t.trust().Descriptor.Name, err)
		}
		s.readSigned(ctx)
	}
	return nil
}

func (s *SuperPeer) readDocuments(ctx context.Context, t *tier) (docs service.Documents, err error) {
	key := s.documents.Public().(ed25519.PublicKey)
	b, _, err := s.universe.overlay.GetObjectAfter(ctx, key, discovery.SaltService(t.trust().Service), int64(t.trust().Descriptor.Seq))
	if err == nil {
		err = wire.Unmarshal(b, &docs, maxDocuments)
	}
	return docs, err
}

// unread notes that there was something, and it could not be read.
func (s *SuperPeer) unread(ctx context.Context, what string, err error) {
	if err != nil && !errors.Is(err, overlay.ErrUnchanged) && ctx.Err() == nil {
		s.log.Debug("documents not read", "detail", what, "err", err)
	}
}

// learnDocuments puts newer documents in force, keeps them, and says whether they
// were newer. Older ones are no error: they are everywhere.
func (s *SuperPeer) learnDocuments(t *tier, file string, docs service.Documents, now time.Time) (newer bool, err error) {
	s.learning.Lock()
	defer s.learning.Unlock()
	old := t.standing.Load()
	trust, err := service.Open(docs, old.trust.Service, 0, now)
	if err != nil {
		return false, err
	}
	if trust.Descriptor.Seq <= old.trust.Descriptor.Seq || trust.Root.Seq < old.trust.Root.Seq {
		return false, nil
	}
	trust.Policy = old.trust.Policy
	next := newStanding(trust, docs, old.policy, old.self.Key)
	if next.mayAdmit(now) && next.self.Block4 != old.self.Block4 && old.self.Block4 != "" {
		s.log.Warn("the owner gave this super peer another address block; restart it to use that one", "block", next.self.Block4)
	}
	if err := s.cfg.Ledger.Put(file, wire.Marshal(docs)); err != nil {
		return false, err
	}
	t.standing.Store(next)
	s.log.Info("newer descriptor in force", "overlay", trust.Descriptor.Name, "seq", trust.Descriptor.Seq, "super_peers", len(trust.Descriptor.SuperPeers))
	s.tellNews()
	if t != s.service {
		return true, nil
	}
	if !next.mayAdmit(now) {
		s.log.Error("the owner removed this super peer from the service: it admits nobody any more, and credentials it issued are refused; stop it")
	}
	if had := old.self.Has(service.RoleAuthority); next.mayAdmit(now) && had != next.self.Has(service.RoleAuthority) {
		s.log.Warn("the owner changed whether this super peer has the ABE master key; restart it with its new hand-over", "roles", next.self.Roles)
	}
	s.authority.roster.others(s.authority.others.SetIssuers(issuersBut(trust, s.PID())))
	s.authority.touch()
	return true, nil
}

// tellNews has the owners' documents published now.
func (s *SuperPeer) tellNews() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// issuersBut returns the super peers of a descriptor but one.
func issuersBut(trust *service.Trust, self id.ID) []service.SuperPeer {
	return slices.DeleteFunc(slices.Clone(trust.Descriptor.SuperPeers), func(sp service.SuperPeer) bool { return sp.PID() == self })
}

// publishOwners puts the owners' documents where other super peers and members
// look for them, and says whether all of it was taken.
func (s *SuperPeer) publishOwners(ctx context.Context) (ok bool) {
	ok = s.publishSigned(ctx)
	for _, p := range []struct {
		in  *overlay.Overlay
		key ed25519.PrivateKey
		of  *tier
	}{
		{s.universe.overlay, s.documents, s.service},
		{s.universe.overlay, s.documents, s.universe},
		{s.universe.overlay, s.authority.key, s.service}, // found by whoever knows the service
		{s.service.overlay, s.authority.key, s.service},  // for members
	} {
		st := p.of.standing.Load()
		err := put(ctx, p.in, p.key, discovery.SaltService(st.trust.Service), int64(st.trust.Descriptor.Seq), wire.Marshal(st.docs), 0)
		if err != nil {
			s.log.Debug("documents not published", "overlay", st.trust.Descriptor.Name, "err", err)
			ok = false
		}
	}
	return ok
}

// followers returns one follower for each other super peer that admits, those of
// before for the ones that were there.
func (s *SuperPeer) followers(before []*directory.Follower) (all []*directory.Follower) {
	a := s.authority
	for _, sp := range a.trust().Descriptor.SuperPeers {
		if sp.PID() == s.PID() || !sp.Has(service.RoleAdmit) {
			continue
		}
		i := slices.IndexFunc(before, func(f *directory.Follower) bool { return f.SuperPeer().PID() == sp.PID() })
		if i >= 0 {
			all = append(all, before[i])
			continue
		}
		all = append(all, directory.NewFollower(sp, directory.Follow{
			Source: s.service.overlay, Open: a.keys.Open, Trust: func() *service.Trust { return a.trust() }, Now: time.Now,
			Heard: a.others.SetExpires, Helpers: s.promotion.onElsewhere, Take: a.onShard,
			Shelf: &a.shelf,
		}))
	}
	kept := []id.ID{s.PID()}
	for _, f := range all {
		kept = append(kept, f.SuperPeer().PID())
	}
	a.shelf.Keep(kept)
	return all
}
