package superpeer

import (
	"context"
	"crypto/ed25519"
	"errors"
	mrand "math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"icvpn/abe"
	"icvpn/internal/directory"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/service"
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
	// putRetry is the wait after a put that nobody took.
	putRetry = 5 * time.Second
	// directoryRead is the longest time between two looks at another's directory.
	directoryRead = 15 * time.Second
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
	retry := putRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-documents.C:
			if s.publishDocuments(ctx) {
				documents.Reset(jitter(documentsRefresh))
			} else {
				documents.Reset(jitter(putRetry)) // the overlay may have had no other node yet
			}
			continue
		case <-s.news:
			documents.Reset(0)
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
			s.log.Warn("directory not published", "err", err)
			wait, retry = retry, min(2*retry, directoryLook)
		} else {
			retry = putRetry
		}
		look.Reset(jitter(wait))
	}
}

// documentsRefresh is how often envelopes and documents are put again.
const documentsRefresh = 2 * time.Minute

// jitter is between half of d and d: what many do, they do not do together.
func jitter(d time.Duration) time.Duration { return d/2 + mrand.N(d/2) }

// publisher puts our directory. publishLoop owns it.
type publisher struct {
	// set at start
	a       *authority
	overlay *overlay.Overlay
	helpers func() []directory.Helper

	writer *directory.Writer
	sealed uint32 // epoch of the key that everything is sealed to
	seen   uint64 // version of the ledger whose changes the writer knows
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
	if err := p.put(ctx, discovery.SaltDirectory, root.Seq, sealed, directory.ShardLife); err != nil {
		p.overtaken(err)
		return err
	}
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
		g.Go(func() error {
			errs[i] = p.put(ctx, directory.SaltShard(shard.Number), shard.Seq, shard.Sealed, directory.ShardLife)
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

func (p *publisher) put(ctx context.Context, salt []byte, seq int64, sealed []byte, life time.Duration) error {
	return put(ctx, p.overlay, p.a.key, salt, seq, sealed, life)
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
	return s.publishOwners(ctx) && ok
}

// readLoop reads the directories of the other super peers: for the lists we hand
// out, for whom we let into the overlay, and for machines that were admitted
// elsewhere since.
func (s *SuperPeer) readLoop(ctx context.Context) error {
	select {
	case <-s.service.overlay.Ready(): // the others' members, before anybody asks for a list
	case <-ctx.Done():
		return nil
	}
	a := s.authority
	var all []*directory.Follower
	var seq uint64 // of the descriptor that they are of
	directory.NewWatcher(directory.Watch{
		Every: directoryRead, Unbounded: true,
		Followers: func() []*directory.Follower {
			if now := a.trust().Descriptor.Seq; now != seq {
				all, seq = s.followers(all), now
			}
			return all
		},
		Read: func(f *directory.Follower, _ bool, err error) {
			if err != nil {
				s.log.Debug("directory not read", "super_peer", f.SuperPeer().PID().Short(), "err", err)
			}
			a.roster.others(a.others.Expire(time.Now()))
		},
	}).Run(ctx)
	return nil
}

// newOthers returns the table of whom the other super peers list.
func newOthers(trust *service.Trust, self service.SuperPeer) *directory.Table {
	t := directory.NewTable(trust.Service, id.ID{})
	t.SetIssuers(issuersBut(trust, self.PID()))
	return t
}

// onShard takes in what another super peer says of its members. A machine of
// ours that was admitted there later as another process has a clone: the later
// admission wins.
func (a *authority) onShard(issuer id.ID, s *directory.Shard) {
	d := a.others.Replace(issuer, s)
	a.roster.others(d)
	for _, e := range d.Joined {
		if a.ledger.Member(e.PID()) != nil { // now our word for it needs the machine's claim
			a.ledger.Touch(e.PID())
			a.touch()
		}
	}
	for i := range s.Members {
		a.supersede(issuer, &s.Members[i])
	}
}

// supersede drops a member of ours that issuer admitted later: as another process,
// or the same one after it had broken off with us.
func (a *authority) supersede(issuer id.ID, m *service.Member) {
	pid := m.PID()
	old := a.ledger.Member(pid)
	if old == nil || !m.Supersedes(old.Member, a.trust().Service, issuer) {
		return
	}
	why := directory.ReasonReplaced
	if m.Instance != old.Member.Instance {
		why = directory.ReasonClone
	}
	a.log.Info("a machine of ours was admitted later elsewhere", "peer", old.Member.Name, "pid", pid.Short(), "super_peer", issuer.Short(), "reason", why)
	a.bury(old, ledger.Reason(why))
}

// bury takes a member out. Its lease stays, with a tombstone, until its last
// credential ends.
func (a *authority) bury(dead *ledger.Entry, why ledger.Reason) {
	host, ok := directory.HostOf(a.block, dead.Member.Addr4())
	if !ok {
		return
	}
	dropped, err := a.ledger.Drop(ledger.Tombstone{PID: dead.PID(), Host: host, Reason: why, Issued: dead.Member.Issued, Until: dead.Member.NotAfter})
	if dropped {
		a.roster.dropOwn(dead.PID())
		a.touch()
	}
	if err != nil {
		a.log.Warn("a member that was dropped is a member again after a restart", "peer", dead.Member.Name, "err", err)
	}
}

// shards is what these shards are to say now. Whom another super peer lists too
// comes with its claim.
func (a *authority) shards(numbers []uint32, now time.Time) []*directory.Shard {
	all := make([]*directory.Shard, 0, len(numbers))
	for _, n := range numbers {
		kept, s := a.ledger.Shard(n), &directory.Shard{Number: n}
		for _, e := range kept.Members {
			m := e.Member
			if now.Unix() >= m.NotAfter {
				continue
			}
			if !a.others.Has(e.PID()) {
				m.Claim = nil
			}
			s.Members = append(s.Members, m)
		}
		for _, t := range kept.Tombstones {
			if now.Unix() < t.Until {
				s.Tombstones = append(s.Tombstones, directory.Tombstone{Host: t.Host, PID: t.PID, Issued: t.Issued, Until: t.Until, Reason: directory.Reason(t.Reason)})
			}
		}
		all = append(all, s)
	}
	return all
}

// leaveQueue is how many goodbyes may wait for the disk.
const leaveQueue = 256

// onLeave takes a member's goodbye from the network; a full queue drops it, and
// then its entry ends with its lease. Called by the port's readers.
func (a *authority) onLeave(b []byte, now time.Time) {
	l, ok := service.ParseLeave(b, now)
	if !ok {
		return
	}
	// Cheap checks first: an entry of this process, not renewed since.
	if e := a.ledger.Member(id.FromKey(l.Key)); e == nil || e.Member.Instance != l.Instance || l.At < e.Member.Issued {
		return
	}
	select {
	case a.leaves <- l:
	default:
	}
}

// leave takes a member out that said so.
func (a *authority) leave(l service.Leave) {
	e := a.ledger.Member(id.FromKey(l.Key))
	if e == nil || e.Member.Instance != l.Instance || l.At < e.Member.Issued || !l.Verify(a.trust().Service) {
		return
	}
	a.log.Info("left", "peer", e.Member.Name, "pid", e.PID().Short())
	a.bury(e, ledger.ReasonLeft)
}
