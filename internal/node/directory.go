package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/service"
)

// How the directories are read. An idle peer asks one replica for each root now
// and then (directory.Watcher); a packet that waits for somebody makes it look at
// once, in the one place that an IPv4 address can stand.
//
//	Watcher ─> newer root? ──> shards, as many as the budget allows
//	packet for an unknown address ─> its super peer, its shard, now

// wants are what packets wait for.
type wants struct {
	mu      sync.Mutex
	issuers map[id.ID]bool
	all     bool
}

// newFollowers makes the readers of a descriptor's directories; those of super
// peers that are as before go on.
func (n *Node) newFollowers(trust *service.Trust) {
	n.onDiff(n.table.SetIssuers(trust.Descriptor.SuperPeers))
	old := map[id.ID]*directory.Follower{}
	if all := n.followers.Load(); all != nil {
		old = *all
	}
	all := map[id.ID]*directory.Follower{}
	for _, sp := range trust.Descriptor.SuperPeers {
		pid := sp.PID()
		switch f := old[pid]; {
		case !sp.Has(service.RoleAdmit):
		case f != nil && reflect.DeepEqual(f.SuperPeer(), sp):
			all[pid] = f
		default:
			since := time.Now()
			if f != nil { // the super peer has another address, say
				since = f.Since()
			}
			all[pid] = directory.NewFollower(sp, directory.Follow{
				Source: n.overlay, Open: n.openSealed, Trust: n.trust, Now: n.now, Heard: n.table.SetExpires, Helpers: n.onHelpers, Since: since,
				Take: func(issuer id.ID, s *directory.Shard) { n.post(func() { n.onShard(issuer, s) }) },
			})
		}
	}
	n.followers.Store(&all)
	n.noteReading()
	n.watch.Wake()
}

// noteReading notes whether somebody may be a member whom we have not read of yet. A
// directory that nobody serves makes us believe so for knownGrace.
func (n *Node) noteReading() {
	now, reading := time.Now(), false
	for _, f := range *n.followers.Load() {
		reading = reading || !f.Whole() && now.Sub(f.Since()) < knownGrace
	}
	n.reading.Store(reading)
}

func (n *Node) openSealed(sealed []byte, kind string, owner ed25519.PublicKey, limit int) ([]byte, error) {
	return n.keys.Load().Open(sealed, kind, owner, limit)
}

func (n *Node) follower(issuer id.ID) *directory.Follower { return (*n.followers.Load())[issuer] }

// wantDirectory asks that somebody be looked for at an address, soon.
func (n *Node) wantDirectory(dst netip.Addr) {
	_, issuer, shard, ok := n.table.At(dst)
	f := n.follower(issuer)
	n.wants.mu.Lock()
	if ok && f != nil {
		f.Want(shard)
		if n.wants.issuers == nil {
			n.wants.issuers = map[id.ID]bool{}
		}
		n.wants.issuers[issuer] = true
	} else {
		n.wants.all = true // a PID, so of any super peer
		if dst.Is4() {
			n.wantDocuments() // in nobody's block: of a super peer that came lately
		}
	}
	n.wants.mu.Unlock()
	select {
	case n.refreshNow <- struct{}{}:
	default:
	}
}

// directoryLoop keeps the table of members.
func (n *Node) directoryLoop(ctx context.Context) {
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() {
		n.bulkLoop(ctx, func() { reading.Go(func() { n.watch.Run(ctx) }) })
	})
	look := time.NewTimer(time.Hour)
	defer look.Stop()
	gap := directoryGap
	var lastLook time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.refreshNow:
			look.Reset(max(0, gap-time.Since(lastLook)))
		case <-look.C:
			// Somebody may be scanning addresses that nobody has: what brings nothing
			// new is read less and less often.
			gap = min(2*gap, directoryGapMax)
			if n.lookFor(ctx) {
				gap = directoryGap
			}
			lastLook = time.Now()
			// Whoever was admitted a moment ago may not be listed yet.
			for _, dst := range n.unrouted.waiting(lastLook) {
				n.wantDirectory(dst)
			}
		}
	}
}

// newWatch makes what reads the directories again and again.
func (n *Node) newWatch() *directory.Watcher {
	return directory.NewWatcher(directory.Watch{
		Followers: func() []*directory.Follower { return slices.Collect(maps.Values(*n.followers.Load())) },
		Read: func(f *directory.Follower, _ bool, err error) {
			if err != nil {
				n.log.Debug("directory not read", "super_peer", f.SuperPeer().PID().Short(), "err", err)
			}
			n.post(n.settleRoster)
			n.wantBulk()
		},
	})
}

// lookFor reads where packets wait for somebody: what we know to have changed
// first, and a newer root if that does not help.
func (n *Node) lookFor(ctx context.Context) (changed bool) {
	n.wants.mu.Lock()
	issuers, all := n.wants.issuers, n.wants.all
	n.wants.issuers, n.wants.all = nil, false
	n.wants.mu.Unlock()
	where := map[id.ID]*directory.Follower{}
	for pid, f := range *n.followers.Load() {
		if all || issuers[pid] {
			where[pid] = f
		}
	}
	return n.read(ctx, lookupTimeout, where, func(ctx context.Context, f *directory.Follower) (bool, error) {
		if read, err := f.Fetch(ctx, !all, directory.MaxShards); read > 0 {
			return true, err
		}
		news, err := f.Poll(ctx, false)
		if err != nil || !news {
			return false, err
		}
		// The newcomer may be anywhere in what has changed, if we know no shard.
		_, err = f.Fetch(ctx, false, directory.MaxShards)
		return true, err
	})
}

// readDirectories reads all there is to read.
func (n *Node) readDirectories(ctx context.Context) {
	n.read(ctx, directoryTimeout, *n.followers.Load(), func(ctx context.Context, f *directory.Follower) (bool, error) {
		news, err := f.Poll(ctx, false)
		if err != nil {
			return false, err
		}
		read, err := f.Fetch(ctx, false, directory.MaxShards)
		return news || read > 0, err
	})
}

// read has directories read side by side, and then puts in force what came.
func (n *Node) read(ctx context.Context, limit time.Duration, where map[id.ID]*directory.Follower, how func(context.Context, *directory.Follower) (bool, error)) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var wg sync.WaitGroup
	var changed atomic.Bool
	for pid, f := range where {
		wg.Go(func() {
			news, err := how(ctx, f)
			if news {
				changed.Store(true)
			}
			if err != nil && ctx.Err() == nil {
				n.log.Debug("directory not read", "super_peer", pid.Short(), "err", err)
			}
		})
	}
	wg.Wait()
	n.post(n.settleRoster)
	return changed.Load()
}

// ErrClone is what Run returns when another process with our identity was
// admitted later: it is the member now. The error is a *CloneError.
var ErrClone = errors.New("node: another machine with the same identity was admitted later")

// CloneError says who took our place.
type CloneError struct {
	PID   id.ID
	Name  string
	VM    string
	Since time.Time
	// Said is what a super peer said of it at a renewal; the rest but PID is empty
	// then.
	Said string
}

func (e *CloneError) Error() string {
	if e.Said != "" {
		return fmt.Sprintf("another machine with the identity %s of this one was admitted since and is the member now (%s)", e.PID.Short(), e.Said)
	}
	return fmt.Sprintf("another machine with the identity %s of this one, %s on %q, was admitted on %s and is the member now", e.PID.Short(), e.Name, e.VM, e.Since.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// Is makes errors.Is(err, ErrClone) hold.
func (e *CloneError) Is(target error) bool { return target == ErrClone }

// watchClone looks for ourselves in what issuer lists. Our own super peer may
// drop us as it likes; of another's word the other process's claim is the proof.
// Control loop, or New.
func (n *Node) watchClone(issuer id.ID, members []service.Member) {
	ours := n.membership.Load()
	c, own := ours.Credential, ours.Credential.Member()
	own.Claim = ours.Claim // of a former process's and ours within one second, ours is the later
	for i := range members {
		m := &members[i]
		if m.PID() != n.self || m.Instance == n.cfg.Join.Instance || m.Instance == own.Instance {
			continue
		}
		if issuer == c.Issuer && m.LaterThan(own) || m.Supersedes(own, n.service, issuer) {
			select {
			case n.cloned <- &CloneError{PID: n.self, Name: m.Name, VM: m.VM, Since: time.Unix(m.Issued, 0)}:
			default:
			}
		}
	}
}
