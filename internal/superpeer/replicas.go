package superpeer

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/overlay"
)

// Replicas are the other super peers and the first helpers with room for
// everything: members read directories from one of them at random. A put is given
// to all, but counts with a quorum; who was cut off then, has been started since or
// has just become a helper lacks something, and nobody would know for an hour. So
// each is asked now and then what it has of us.
//
//	mend: root? ──ours──> nothing to do
//	        └─ older, none ─> its shards, then the root, to that replica alone

// We chose:
const (
	// mendEvery is the longest time between two questions to a replica.
	mendEvery = 30 * time.Second
	// mendTimeout bounds what is given to one replica; the rest is given next time.
	mendTimeout = 20 * time.Second
	// mendGapMax is the longest time between two givings to one replica.
	mendGapMax = 10 * time.Minute
	// maxStores helpers are replicas; members count on as many.
	maxStores = 4
)

// replicas returns where every item of the service is to be found.
func (s *SuperPeer) replicas() []netip.AddrPort {
	return append(s.service.bootstrap(), s.promotion.stores(time.Now())...)
}

// stores returns the helpers that are replicas, as a member reads the lists: the
// first of each super peer's, super peers by PID, then the second of each.
func (p *promotion) stores(now time.Time) (addrs []netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lists := maps.Clone(p.elsewhere)
	lists[p.s.PID()] = p.list
	issuers := slices.SortedFunc(maps.Keys(lists), func(a, b id.ID) int { return bytes.Compare(a[:], b[:]) })
	for i := range directory.MaxHelpers {
		for _, issuer := range issuers {
			if i >= len(lists[issuer]) || len(addrs) == maxStores {
				continue
			}
			h := lists[issuer][i]
			if h.Roles.Has(directory.HelperStore) && now.Unix() < h.Until && !slices.Contains(addrs, h.Addr) {
				addrs = append(addrs, h.Addr)
			}
		}
	}
	return addrs
}

// published returns our directory as it stands in the overlay, the root last;
// nothing before there is one.
func (p *publisher) published() (all []overlay.Object) {
	if p.root == nil {
		return nil
	}
	for _, shard := range p.writer.Published() {
		if obj, err := p.object(directory.SaltShard(shard.Number), shard.Seq, shard.Sealed); err == nil {
			all = append(all, obj)
		}
	}
	return append(all, *p.root)
}

// mender knows to which replicas our directory was given. One run of it at a time.
type mender struct {
	s     *SuperPeer
	given map[netip.AddrPort]giving
}

// giving is when a replica may be given everything again. One that forgets what it
// is given, or says so, is given it less and less often.
type giving struct {
	again time.Time
	gap   time.Duration
}

// mend gives replicas what they lack of our directory. One that was not there for
// it was not there for the owners' documents either.
func (m *mender) mend(ctx context.Context, published []overlay.Object) {
	if len(published) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, mendTimeout)
	defer cancel()
	replicas := m.s.replicas()
	lacking := make([]bool, len(replicas))
	var g errgroup.Group
	for i, addr := range replicas {
		g.Go(func() error {
			lacking[i] = m.lacks(ctx, addr, published[len(published)-1].Root)
			return nil
		})
	}
	_ = g.Wait()
	now := time.Now()
	maps.DeleteFunc(m.given, func(addr netip.AddrPort, _ giving) bool { return !slices.Contains(replicas, addr) })
	for i, addr := range replicas {
		if before := m.given[addr]; lacking[i] && !now.Before(before.again) {
			m.given[addr] = before.next(now)
			g.Go(func() error {
				m.give(ctx, addr, published)
				return nil
			})
		}
	}
	_ = g.Wait()
}

// next is the giving at now.
func (g giving) next(now time.Time) giving {
	gap := min(2*g.gap, mendGapMax)
	if gap == 0 || now.After(g.again.Add(g.gap)) { // it has had everything for as long again
		gap = mendEvery / 2
	}
	return giving{now.Add(gap), gap}
}

// lacks says whether a replica that answers has an older root than ours, or none.
func (m *mender) lacks(ctx context.Context, addr netip.AddrPort, root overlay.Item) bool {
	has, err := m.s.service.overlay.AskItemAt(ctx, addr, root.Key, root.Salt)
	return err == nil && has.Seq < root.Seq || errors.Is(err, overlay.ErrNotFound)
}

// give puts the directory on one replica, what it has left out.
func (m *mender) give(ctx context.Context, addr netip.AddrPort, published []overlay.Object) {
	var err error
	for _, obj := range published {
		if err = m.s.service.overlay.PutObjectAt(ctx, addr, obj); err != nil && !errors.Is(err, overlay.ErrSuperseded) {
			break
		}
		err = nil
	}
	if err == nil {
		m.s.tellNews()
	}
	m.s.log.Debug("directory given to a replica that lacked it", "addr", addr, "err", err)
}
