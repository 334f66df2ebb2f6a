package directory

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// Source is where directories are read: *overlay.Overlay.
type Source interface {
	// AskItem asks one replica.
	AskItem(ctx context.Context, key ed25519.PublicKey, salt []byte) (overlay.Item, error)
	// ReadObject reads the chunks of an object whose root AskItem has found.
	ReadObject(ctx context.Context, root overlay.Item) ([]byte, error)
	// GetObjectAfter looks wherever it may be.
	GetObjectAfter(ctx context.Context, key ed25519.PublicKey, salt []byte, after int64) ([]byte, overlay.Item, error)
}

// Follow is what a Follower works with.
type Follow struct {
	// Source serves objects whose signature it has verified.
	Source Source
	// Open opens a sealed record (discovery.Keys.Open).
	Open func(sealed []byte, kind string, owner ed25519.PublicKey, limit int) ([]byte, error)
	// Trust is the verified chain.
	Trust func() *service.Trust
	// Now is the service's clock.
	Now func() time.Time
	// Heard is told how long a newer root says that it counts.
	Heard func(issuer id.ID, expires int64)
	// Helpers is given those of each newer root. May be nil.
	Helpers func(issuer id.ID, all []Helper)
	// Take is given every shard that is new or changed. One that nobody is in any
	// more is an empty one. It takes the shard.
	Take func(issuer id.ID, s *Shard)
	// Shelf keeps what was read, sealed. May be nil.
	Shelf *Shelf
	// Since is when the directory was read first, by our own clock. Default: now.
	Since time.Time
}

// We chose:
const (
	// fetchTogether shards are fetched at once.
	fetchTogether = 4
	// lookEvery is the least time between two searches for a root that a replica does
	// not have, or that has nothing newer where the last one ends in endingSoon.
	lookEvery  = 5 * time.Minute
	endingSoon = 5 * time.Minute
)

// sealOverhead is more than sealing adds to a record.
const sealOverhead = 256

// Follower reads one super peer's directory, as far as a Reader says. Its methods
// may be called from several goroutines; one reads at a time.
type Follower struct {
	// set at start
	sp  service.SuperPeer
	pid id.ID
	cfg Follow

	turn   chan struct{} // capacity 1: who reads
	mu     sync.Mutex
	reader *Reader
	ends   int64 // of the newest root

	looked time.Time // for a root everywhere, last; guarded by turn
}

// NewFollower returns a follower that has read nothing.
func NewFollower(sp service.SuperPeer, cfg Follow) *Follower {
	if cfg.Since.IsZero() {
		cfg.Since = time.Now()
	}
	return &Follower{sp: sp, pid: sp.PID(), cfg: cfg, turn: make(chan struct{}, 1), reader: NewReader()}
}

// SuperPeer returns whom it follows.
func (f *Follower) SuperPeer() service.SuperPeer { return f.sp }

// Since is when the directory was to be read first.
func (f *Follower) Since() time.Time { return f.cfg.Since }

// Want says that a packet waits for somebody in a shard.
func (f *Follower) Want(number uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reader.Want(number)
}

// Pending says how many shards are left to fetch.
func (f *Follower) Pending() int { return len(f.Lacks()) }

// Lacks returns the shards that are left to fetch, most wanted first.
func (f *Follower) Lacks() []Ref {
	f.mu.Lock()
	defer f.mu.Unlock()
	refs, _ := f.reader.Wanted()
	return refs
}

// Ends is when the newest root ends, in Unix seconds; 0 before there is one.
func (f *Follower) Ends() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ends
}

// Poll asks whether there is a newer root, and reads it. With cheap it asks one
// replica; an answer that is not newer ends it there.
func (f *Follower) Poll(ctx context.Context, cheap bool) (changed bool, err error) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return f.poll(ctx, cheap)
}

func (f *Follower) poll(ctx context.Context, cheap bool) (changed bool, err error) {
	f.mu.Lock()
	seq := f.reader.Seq()
	f.mu.Unlock()
	sealed, it, err := f.root(ctx, seq, cheap)
	if errors.Is(err, overlay.ErrUnchanged) || cheap && errors.Is(err, overlay.ErrRollback) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	plain, err := f.cfg.Open(sealed, KindRoot, f.sp.Key, MaxRoot+sealOverhead)
	if err != nil {
		return false, err
	}
	root, err := OpenRoot(plain, f.cfg.Trust(), f.sp, it.Seq, f.cfg.Now())
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	gone, err := f.reader.OnRoot(root)
	if err == nil {
		f.ends = root.Expires
	}
	f.mu.Unlock()
	if err != nil {
		return false, err
	}
	f.cfg.Heard(f.pid, root.Expires)
	if f.cfg.Helpers != nil {
		f.cfg.Helpers(f.pid, root.Helpers)
	}
	for _, n := range gone {
		if f.cfg.Shelf != nil {
			f.cfg.Shelf.Drop(f.pid, n)
		}
		f.cfg.Take(f.pid, &Shard{Number: n})
	}
	return true, nil
}

// Whole says whether the directory was read from end to end, once: who is not in it
// came lately, or is not of this super peer.
func (f *Follower) Whole() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reader.Whole()
}

// CompleteSince says whether everything was read of a root from at or later.
func (f *Follower) CompleteSince(at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reader.Complete() && f.reader.Seq() >= at.UnixMilli()
}

// root reads a root after a sequence number: with cheap from one replica, whose word
// that there is nothing newer is taken unless the last root is about to end. What
// it does not have is looked for wherever it may be, but then only once in
// lookEvery: a super peer that is gone costs no more than one that is there.
func (f *Follower) root(ctx context.Context, after int64, cheap bool) (sealed []byte, it overlay.Item, err error) {
	if !cheap {
		return f.cfg.Source.GetObjectAfter(ctx, f.sp.Key, discovery.SaltDirectory, after)
	}
	it, err = f.cfg.Source.AskItem(ctx, f.sp.Key, discovery.SaltDirectory)
	if errors.Is(err, overlay.ErrUnreachable) && ctx.Err() == nil {
		it, err = f.cfg.Source.AskItem(ctx, f.sp.Key, discovery.SaltDirectory) // those that are silent come last now
	}
	switch {
	case err == nil && it.Seq > after:
		if sealed, err = f.cfg.Source.ReadObject(ctx, it); err == nil {
			return sealed, it, nil
		}
	case err == nil:
		err = overlay.ErrUnchanged
		if !f.ending() || !f.mayLook() {
			return nil, it, err
		}
	default:
		if !f.mayLook() {
			return nil, it, err
		}
	}
	return f.cfg.Source.GetObjectAfter(ctx, f.sp.Key, discovery.SaltDirectory, after)
}

// ending says whether the newest root ends soon, or there is none.
func (f *Follower) ending() bool { return time.Unix(f.Ends(), 0).Sub(f.cfg.Now()) < endingSoon }

// mayLook says whether to look for a root everywhere, and notes that it is done.
// Whoever reads has the turn.
func (f *Follower) mayLook() bool {
	now := f.cfg.Now()
	if now.Sub(f.looked) < lookEvery {
		return false
	}
	f.looked = now
	return true
}

// Fetch reads wanted shards, at most most of them; with urgent only those that
// packets wait for. Of a shard that is not as the root says, another copy is tried, and
// a newer root before that.
func (f *Follower) Fetch(ctx context.Context, urgent bool, most int) (read int, err error) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for range 2 {
		var n int
		n, err = f.fetch(ctx, urgent, most)
		read += n
		if !errors.Is(err, ErrMismatch) {
			break
		}
		if _, perr := f.poll(ctx, !urgent); perr != nil {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reader.Settle()
	return read, err
}

func (f *Follower) fetch(ctx context.Context, urgent bool, most int) (read int, err error) {
	f.mu.Lock()
	refs, first := f.reader.Wanted()
	f.mu.Unlock()
	if urgent {
		most = min(most, first)
	}
	refs = refs[:min(most, len(refs))]
	errs := make([]error, len(refs))
	g := new(errgroup.Group) // a shard that fails does not hold up the others
	g.SetLimit(fetchTogether)
	for i, ref := range refs {
		g.Go(func() error {
			errs[i] = f.shard(ctx, ref)
			f.mu.Lock()
			defer f.mu.Unlock()
			if errs[i] == nil {
				read++
			} else {
				f.reader.OnMiss(ref.Number)
			}
			return nil
		})
	}
	_ = g.Wait()
	return read, errors.Join(errs...)
}

// shard reads one shard and hands it on.
func (f *Follower) shard(ctx context.Context, ref Ref) error {
	sealed, it, err := f.sealedShard(ctx, ref)
	if err != nil {
		return fmt.Errorf("directory: shard %d of super peer %s: %w", ref.Number, f.pid.Short(), err)
	}
	if err := ref.Check(sealed, it.Seq); err != nil {
		return err
	}
	return f.take(ref, sealed)
}

// TakeSealed takes in a shard that somebody has handed over, if it is the one that
// the root names, and says what is wrong with it otherwise.
func (f *Follower) TakeSealed(ctx context.Context, ref Ref, sealed []byte) error {
	if err := ref.Check(sealed, ref.Seq); err != nil {
		return err
	}
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return f.take(ref, sealed)
}

// take opens a shard that matches its reference and hands it on.
func (f *Follower) take(ref Ref, sealed []byte) error {
	plain, err := f.cfg.Open(sealed, KindShard, f.sp.Key, MaxShard+sealOverhead)
	if err != nil {
		return err
	}
	s, err := OpenShard(plain, f.cfg.Trust(), f.sp, ref.Number, ref.Seq, f.cfg.Now())
	if err != nil {
		return err
	}
	f.mu.Lock()
	ok := f.reader.OnShard(ref)
	f.mu.Unlock()
	if !ok {
		return nil
	}
	if f.cfg.Shelf != nil {
		f.cfg.Shelf.Put(f.pid, ref.Number, ref.Seq, sealed)
	}
	f.cfg.Take(f.pid, s)
	return nil
}

// sealedShard reads a shard from one replica, and where that one does not have what
// ref names from wherever it may be. One that is newer says that the root is old.
func (f *Follower) sealedShard(ctx context.Context, ref Ref) (sealed []byte, it overlay.Item, err error) {
	it, err = f.cfg.Source.AskItem(ctx, f.sp.Key, SaltShard(ref.Number))
	if errors.Is(err, overlay.ErrUnreachable) && ctx.Err() == nil { // it is busy, or dead: another one
		it, err = f.cfg.Source.AskItem(ctx, f.sp.Key, SaltShard(ref.Number))
	}
	switch {
	case err != nil:
	case it.Seq > ref.Seq:
		return nil, it, ref.Check(nil, it.Seq)
	case it.Seq == ref.Seq:
		if sealed, err = f.cfg.Source.ReadObject(ctx, it); err == nil && ref.Check(sealed, it.Seq) == nil {
			return sealed, it, nil
		}
	}
	return f.cfg.Source.GetObjectAfter(ctx, f.sp.Key, SaltShard(ref.Number), ref.Seq-1)
}

// What discovery.Seal is told of a root and of a shard.
const (
	KindRoot  = "directory"
	KindShard = "shard"
)
