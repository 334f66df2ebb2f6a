package superpeer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/directory"
	"icvpn/internal/discovery"
	"icvpn/internal/ledger"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// We chose:
const (
	// recallWait is how long a super peer without a ledger waits for anybody who may
	// remember it.
	recallWait = 3 * time.Second
	// recallPatience is how long an admission waits for that, before it is sent to
	// another super peer: its peer gives it stepWait.
	recallPatience = 4 * time.Second
	// recallRead is how long it reads what they remember.
	recallRead = 15 * time.Second
	// firstKnock is the wait for an answer, doubled up to lastKnock: super peers that
	// start together hear each other as soon as both are up.
	firstKnock = 100 * time.Millisecond
	lastKnock  = time.Second
	// recallTogether shards are read at once.
	recallTogether = 4
)

// recall is how a super peer whose ledger is empty learns whether it ever had
// another one: state directories get lost, and addresses must not be given twice
// (docs/adr/0016-ledger.md).
//
//	ledger empty ─> knock ─> our own root ─> our own shards ─> ledger.Adopt ─> done
//	                  │            └ not found, or nobody in it ──────────────> done
//	                  └ silence for recallWait ───────────────────────────────> done
//
// Until it is done nobody is admitted, and nothing published: an empty directory
// would take the place of the one that is looked for.
type recall struct {
	done chan struct{}
	seq  int64 // the highest number found under our key; read it after done
}

// newRecall returns a recall that is done if there is nothing to ask, or nobody.
func (s *SuperPeer) newRecall() *recall {
	r := &recall{done: make(chan struct{})}
	if !s.authority.ledger.New() || len(endpoints(s.service.trust().Descriptor, s.PID())) == 0 {
		close(r.done)
	}
	return r
}

// pending says whether the answer is still out.
func (r *recall) pending() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// wait waits until it is known what was given before, for recallPatience at
// most, and says whether it is.
func (r *recall) wait(ctx context.Context) bool {
	select { // no timer in the usual case
	case <-r.done:
		return true
	default:
	}
	t := time.NewTimer(recallPatience)
	defer t.Stop()
	select {
	case <-r.done:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// after runs a loop once the recall is done.
func (r *recall) after(ctx context.Context, loop func(context.Context) error) error {
	select {
	case <-r.done:
		return loop(ctx)
	case <-ctx.Done():
		return nil
	}
}

// recallLoop asks the others what they remember of us, once.
func (s *SuperPeer) recallLoop(ctx context.Context) error {
	if !s.recall.pending() {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, recallWait)
	defer cancel()
	found, err := s.remembered(wait)
	if ctx.Err() != nil {
		return nil // the next start asks again
	}
	switch {
	case err != nil:
		s.log.Warn("the ledger is empty, and nobody can be asked whether there was another: it is taken for a first start", "err", err)
	case found:
		if err := s.adopt(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		close(s.recall.done)
	}
	return nil
}

// remembered says whether the overlay has a directory of ours.
func (s *SuperPeer) remembered(wait context.Context) (bool, error) {
	for knock := firstKnock; ; knock = min(2*knock, lastKnock) {
		if s.heard(wait, knock) {
			_, it, err := s.service.overlay.GetObject(wait, s.authority.self().Key, discovery.SaltDirectory)
			switch {
			case err == nil, errors.Is(err, overlay.ErrObject): // some of it is there
				s.recall.seq = max(s.recall.seq, it.Seq)
				return true, nil
			case errors.Is(err, overlay.ErrNotFound):
				s.recall.seq = max(s.recall.seq, it.Seq)
				return false, nil
			case wait.Err() == nil:
				continue
			}
		}
		if wait.Err() != nil {
			return false, fmt.Errorf("superpeer: no other super peer answered within %v", recallWait)
		}
	}
}

// heard says whether another super peer answers in time. It returns at the first
// answer, and not before the time is over without one.
func (s *SuperPeer) heard(ctx context.Context, in time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, in)
	defer cancel()
	var once sync.Once
	answered := make(chan struct{})
	var g errgroup.Group
	for _, addr := range s.service.bootstrap() {
		g.Go(func() error { return s.knock(ctx, addr, func() { once.Do(func() { close(answered) }) }) })
	}
	defer func() { cancel(); _ = g.Wait() }()
	select {
	case <-answered:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *SuperPeer) knock(ctx context.Context, addr netip.AddrPort, answered func()) error {
	_, err := s.service.overlay.Ping(ctx, addr)
	if err == nil {
		answered()
	}
	return err
}

// adopt takes over what our former directory lists. What of it cannot be read
// changes nothing for anybody else: no address is given to a newcomer before the
// last credential of before has ended.
func (s *SuperPeer) adopt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recallRead)
	defer cancel()
	a := s.authority
	members, tombs, nobody, err := s.formerDirectory(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	if err != nil {
		s.log.Warn("our own former directory was not read in full; who is not found in it is sent to another super peer", "err", err)
	}
	if nobody {
		return nil
	}
	now := time.Now()
	if err := a.ledger.Adopt(members, tombs, now); err != nil {
		return fmt.Errorf("superpeer: members of before not saved: %w", err)
	}
	for _, e := range a.ledger.Members() {
		a.roster.own(e)
	}
	s.log.Warn("the ledger was lost: members found in the overlay go on, new machines get no address before",
		"expires", a.ledger.Restored(now), "detail", fmt.Sprintf("%d members, %d that were", len(members), len(tombs)))
	return nil
}

// formerDirectory reads what we published. Nobody is true only of a directory that
// was read and lists nobody. It was true when its root was numbered, which is by
// the clock; that it has ended for readers since does not matter here.
func (s *SuperPeer) formerDirectory(ctx context.Context) (members []service.Member, tombs []ledger.Tombstone, nobody bool, err error) {
	plain, it, err := s.former(ctx, discovery.SaltDirectory, directory.KindRoot, directory.MaxRoot)
	if err != nil {
		return nil, nil, false, err
	}
	root, err := directory.OpenRoot(plain, s.authority.trust(), s.authority.self(), it.Seq, time.UnixMilli(it.Seq))
	if err != nil {
		return nil, nil, false, err
	}
	var mu sync.Mutex
	var g errgroup.Group // one that fails does not hold up the others
	g.SetLimit(recallTogether)
	for _, ref := range root.Shards {
		g.Go(func() error {
			shard, err := s.formerShard(ctx, ref.Number)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			members = append(members, shard.Members...)
			for _, t := range shard.Tombstones {
				tombs = append(tombs, ledger.Tombstone{PID: t.PID, Host: t.Host, Reason: ledger.Reason(t.Reason), Issued: t.Issued, Until: t.Until})
			}
			s.recall.seq = max(s.recall.seq, shard.Seq)
			return nil
		})
	}
	err = g.Wait()
	return members, tombs, len(root.Shards) == 0, err
}

// formerShard reads the newest version of a shard, whichever the root names.
func (s *SuperPeer) formerShard(ctx context.Context, number uint32) (*directory.Shard, error) {
	plain, it, err := s.former(ctx, directory.SaltShard(number), directory.KindShard, directory.MaxShard)
	if err != nil {
		return nil, fmt.Errorf("superpeer: shard %d: %w", number, err)
	}
	return directory.OpenShard(plain, s.authority.trust(), s.authority.self(), number, it.Seq, time.Now())
}

// former reads an object of ours, again if it was not all there at once.
func (s *SuperPeer) former(ctx context.Context, salt []byte, kind string, limit int) (plain []byte, it overlay.Item, err error) {
	key := s.authority.self().Key
	for range 2 {
		var sealed []byte
		if sealed, it, err = s.service.overlay.GetObject(ctx, key, salt); err == nil {
			plain, err = s.authority.keys.Open(sealed, kind, key, limit+sealOverhead)
			return plain, it, err
		}
	}
	return nil, it, err
}

// sealOverhead is more than sealing adds to a record.
const sealOverhead = 256
