package superpeer

import (
	"context"
	"crypto/ed25519"
	"errors"
	mrand "math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
	"icvpn/overlay"
)

// publishLoop keeps our directory, the envelopes and the service's documents in
// the overlays (paper, step vi).
//
// Sealing is not deterministic, so a directory that is sealed again is new
// objects to every node that stores it. It is sealed when it changed or has
// passed half of its life; a refresh in between puts the same bytes again.
func (s *SuperPeer) publishLoop(ctx context.Context) error {
	refresh, documents := time.NewTimer(0), time.NewTimer(0)
	defer refresh.Stop()
	defer documents.Stop()
	seals := rate.NewLimiter(rate.Every(sealEvery), sealBurst)
	var current sealedDirectory
	retry := putRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-documents.C:
			if s.publishDocuments(ctx) {
				documents.Reset(jitter(directoryRefresh))
			} else {
				documents.Reset(jitter(putRetry)) // the overlay may have had no other node yet
			}
			continue
		case <-s.authority.changed:
			current = sealedDirectory{}
			if !sleep(ctx, directorySettle) || seals.Wait(ctx) != nil {
				return nil
			}
		case <-refresh.C:
		}
		wait := directoryRefresh
		if err := s.publishDirectory(ctx, &current, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Warn("directory not published", "err", err)
			wait, retry = retry, min(2*retry, directoryRefresh)
		} else {
			retry = putRetry
		}
		refresh.Reset(jitter(wait))
	}
}

// jitter is between half of d and d: what many do, they do not do together.
func jitter(d time.Duration) time.Duration { return d/2 + mrand.N(d/2) }

// sealedDirectory is what was sealed last; the zero value is nothing.
type sealedDirectory struct {
	seq   int64
	bytes []byte
	until time.Time // sealed anew from then on
}

// publishDirectory stores current, after sealing it anew if it is due.
func (s *SuperPeer) publishDirectory(ctx context.Context, current *sealedDirectory, now time.Time) error {
	if !now.Before(current.until) {
		next, err := s.authority.sealDirectory(now)
		if err != nil {
			return err
		}
		*current = next
	}
	return put(ctx, s.service.overlay, s.authority.key, discovery.SaltDirectory, current.seq, current.bytes, directoryLife)
}

func (a *authority) sealDirectory(now time.Time) (sealedDirectory, error) {
	t, err := a.target(discovery.Members(), now)
	if err != nil {
		return sealedDirectory{}, err
	}
	d := a.directory(now)
	b, err := discovery.Seal(t.statement, "members", a.self.Key, d.Encode())
	return sealedDirectory{seq: d.Seq, bytes: b, until: now.Add(directoryLife / 2)}, err
}

// put signs and stores an object that is wanted for life; 0 is as long as the
// overlay keeps anything.
func put(ctx context.Context, o *overlay.Overlay, key ed25519.PrivateKey, salt []byte, seq int64, data []byte, life time.Duration) error {
	obj, err := overlay.NewObject(key, salt, seq, data)
	if err != nil {
		return err
	}
	obj.Life = life
	_, err = o.PutObject(ctx, obj)
	return err
}

// publishDocuments puts the envelopes into the service's overlay and its
// documents into the universal one, and says whether all of it was taken;
// admission hands the same things out directly.
func (s *SuperPeer) publishDocuments(ctx context.Context) (ok bool) {
	ok = true
	a := s.authority
	seq := time.Now().UnixMilli()
	for _, t := range a.targets.all() {
		if err := put(ctx, s.service.overlay, a.key, discovery.SaltEnvelope(t.target), seq, t.envelope, 0); err != nil {
			s.log.Debug("envelope not published", "err", err)
			ok = false
		}
	}
	docs := wire.Marshal(a.docs)
	if err := put(ctx, s.universe.overlay, a.key, discovery.SaltService(a.trust.Service), seq, docs, 0); err != nil {
		s.log.Debug("service documents not published", "err", err)
		ok = false
	}
	return ok
}

// readLoop reads the directories of the other super peers, for the lists we
// hand out.
func (s *SuperPeer) readLoop(ctx context.Context) error {
	select {
	case <-s.service.overlay.Ready(): // the others' members, before anybody asks for a list
	case <-ctx.Done():
		return nil
	}
	read := map[id.ID]int64{} // sequence numbers
	for ; ctx.Err() == nil; sleep(ctx, directoryRead) {
		for _, sp := range s.authority.trust.Descriptor.SuperPeers {
			if sp.PID() != s.PID() && sp.Has(service.RoleAdmit) {
				s.readDirectory(ctx, sp, read)
			}
		}
	}
	return nil
}

// readDirectory reads what sp has published since the last time.
func (s *SuperPeer) readDirectory(ctx context.Context, sp service.SuperPeer, read map[id.ID]int64) {
	a, pid := s.authority, sp.PID()
	last, seen := read[pid]
	if !seen {
		last = -1
	}
	data, root, err := s.service.overlay.GetObjectAfter(ctx, sp.Key, discovery.SaltDirectory, last)
	if err == nil {
		var plain []byte
		if plain, err = a.keys.Open(data, "members", sp.Key, service.MaxDirectory+256); err == nil {
			var d service.Directory
			if d, err = a.trust.OpenDirectory(plain, sp, root.Seq, time.Now()); err == nil {
				read[pid] = d.Seq
				a.setOthers(pid, d.Members)
			}
		}
	}
	if err != nil && !errors.Is(err, overlay.ErrUnchanged) {
		s.log.Debug("directory not read", "super_peer", pid.Short(), "err", err)
	}
}
