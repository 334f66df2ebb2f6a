package superpeer

import (
	"context"
	"crypto/ed25519"
	"errors"
	mrand "math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"icvpn/abe"
	"icvpn/internal/directory"
	"icvpn/internal/discovery"
	"icvpn/overlay"
)

// We chose:
const (
	// directoryLook is how often it is seen to whether something has to be put
	// again or sealed anew; changes do not wait for it.
	directoryLook = time.Minute
	// directorySettle gathers admissions that come together into one put.
	directorySettle = 100 * time.Millisecond
	// sealBurst times shards are sealed as admissions come, then once in sealEvery.
	sealBurst = 8
	sealEvery = 5 * time.Second
	// putTogether shards are put at once.
	putTogether = 4
	// putRetry is the wait after a put that nobody took, doubling to putRetryMax: a
	// super peer that was cut off is heard again soon after.
	putRetry    = 5 * time.Second
	putRetryMax = 20 * time.Second
	// documentsRefresh is when envelopes and documents are put again, doubling to
	// documentsRefreshMax, a quarter of the time for which they are stored: early
	// copies are where early nodes were.
	documentsRefresh    = 2 * time.Minute
	documentsRefreshMax = 30 * time.Minute
)

// publishLoop keeps our directory, the envelopes and the service's documents in
// the overlays (paper, step vi).
//
// Sealing is not deterministic, so what is sealed again is new objects to every
// node that stores it, and news to every reader. Only shards that changed are; a
// refresh puts the same bytes again.
func (s *SuperPeer) publishLoop(ctx context.Context) error {
	look, documents := time.NewTimer(0), time.NewTimer(0)
	defer look.Stop()
	defer documents.Stop()
	p := s.newPublisher()
	seals := rate.NewLimiter(rate.Every(sealEvery), sealBurst)
	retry, refresh := putRetry, documentsRefresh
	var mending sync.WaitGroup
	defer mending.Wait()
	mender := &mender{s: s, given: map[netip.AddrPort]giving{}}
	mend := time.NewTimer(jitter(mendEvery))
	defer mend.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-documents.C:
			if s.publishDocuments(ctx) {
				documents.Reset(jitter(refresh))
				refresh = min(2*refresh, documentsRefreshMax)
			} else {
				documents.Reset(jitter(putRetry)) // the overlay may have had no other node yet
				refresh = documentsRefresh
			}
			continue
		case <-s.news:
			documents.Reset(0)
			refresh = documentsRefresh
			continue
		case <-mend.C:
			published := p.published()
			mending.Go(func() {
				mender.mend(ctx, published)
				mend.Reset(jitter(mendEvery))
			})
			continue
		case l := <-s.authority.leaves:
			s.authority.leave(l)
			continue
		case <-s.authority.changed:
			if !sleep(ctx, directorySettle) || seals.Wait(ctx) != nil {
				return nil
			}
			p.touch()
		case <-look.C:
		}
		wait := directoryLook
		if err := p.publish(ctx, time.Now()); err != nil && ctx.Err() == nil {
			if !errors.Is(err, errNoPolicy) { // else keysLoop says why
				s.log.Warn("directory not published", "err", err)
			}
			wait, retry = retry, min(2*retry, putRetryMax)
		} else {
			retry = putRetry
		}
		look.Reset(jitter(wait))
	}
}

// jitter is between half of d and d: what many do, they do not do together.
func jitter(d time.Duration) time.Duration { return d/2 + mrand.N(d/2) }

// publisher puts our directory. publishLoop owns it.
type publisher struct {
	// set at start
	a       *authority
	overlay *overlay.Overlay
	helpers func() []directory.Helper

	writer *directory.Writer
	root   *overlay.Object // as stored last
	sealed uint32          // epoch of the key that everything is sealed to
	seen   uint64          // version of the ledger whose changes the writer knows
}

func (s *SuperPeer) newPublisher() *publisher {
	a := s.authority
	p := &publisher{a: a, overlay: s.service.overlay, helpers: s.promotion.helpers, writer: directory.NewWriter(a.trust().Service, a.block, credentialLife)}
	p.writer.AtLeast(s.recall.seq)
	p.touch()
	return p
}

// touch has the shards looked at that changed since the last time.
func (p *publisher) touch() {
	var changed []uint32
	changed, p.seen = p.a.ledger.Changed(p.seen)
	p.writer.Touch(changed...)
}

// publish does what is due: changed shards first, then the root that names them.
func (p *publisher) publish(ctx context.Context, now time.Time) error {
	t, err := p.a.target(discovery.Members(), now)
	if err != nil {
		return err
	}
	if t.statement.Epoch != p.sealed {
		p.sealed = t.statement.Epoch
		p.writer.TouchAll()
	}
	if err := p.shards(ctx, t.statement, now); err != nil {
		return err // the root must not name what is not there
	}
	p.writer.SetHelpers(p.helpers())
	root, due := p.writer.Root(t.statement.Epoch, p.a.trust().Descriptor.Generation, now)
	if !due {
		return nil
	}
	sealed, err := discovery.Seal(t.statement, directory.KindRoot, p.a.self().Key, root.Encode())
	if err != nil {
		return err
	}
	// It counts for RootLife; it is kept as long as what it names, which we may have
	// to read ourselves (recall).
	obj, err := p.object(discovery.SaltDirectory, root.Seq, sealed)
	if err != nil {
		return err
	}
	if _, err := p.overlay.PutObject(ctx, obj); err != nil {
		p.overtaken(err)
		return err
	}
	p.root = &obj
	p.writer.RootStored(now)
	return nil
}

// shards seals those that changed and puts them, and those that the overlay
// would forget.
func (p *publisher) shards(ctx context.Context, st abe.Statement, now time.Time) error {
	for _, content := range p.a.shards(p.writer.Due(now), now) {
		content.Epoch = st.Epoch
		if !p.writer.Needs(content, now) {
			continue
		}
		content.Seq = p.writer.NextSeq(now)
		plain, err := p.writer.Encode(content)
		if err != nil {
			return err
		}
		sealed, err := discovery.Seal(st, directory.KindShard, p.a.self().Key, plain)
		if err != nil {
			return err
		}
		p.writer.Sealed(content, sealed)
	}
	again := p.writer.Again(now)
	errs := make([]error, len(again))
	g := new(errgroup.Group)
	g.SetLimit(putTogether)
	for i, shard := range again {
		p.a.shelf.Put(p.a.self().PID(), shard.Number, shard.Seq, shard.Sealed)
		g.Go(func() error {
			obj, err := p.object(directory.SaltShard(shard.Number), shard.Seq, shard.Sealed)
			if err == nil {
				_, err = p.overlay.PutObject(ctx, obj)
			}
			errs[i] = err
			return nil
		})
	}
	_ = g.Wait()
	for i, err := range errs {
		if err == nil {
			p.writer.Stored(again[i].Number, now)
		}
		p.overtaken(err)
	}
	return errors.Join(errs...)
}

// overtaken sees to it that what we put is newer than what is there: a clock that
// was set back makes numbers that are too low.
func (p *publisher) overtaken(err error) {
	var newer *overlay.SupersededError
	if errors.As(err, &newer) {
		p.writer.AtLeast(newer.Seq)
		p.writer.TouchAll()
	}
}

// object signs a part of the directory.
func (p *publisher) object(salt []byte, seq int64, sealed []byte) (overlay.Object, error) {
	obj, err := overlay.NewObject(p.a.key, salt, seq, sealed)
	obj.Life = directory.ShardLife
	return obj, err
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
		if !a.makes() {
			break // machines look for them at the authorities
		}
		if err := put(ctx, s.service.overlay, a.key, discovery.SaltEnvelope(t.target), seq, t.envelope, 0); err != nil {
			s.log.Debug("envelope not published", "err", err)
			ok = false
		}
	}
	return s.publishOwners(ctx) && ok
}
