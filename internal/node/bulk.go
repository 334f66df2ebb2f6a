package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"slices"
	"time"

	"icvpn/admission"
	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/service"
)

// Who lacks many shards of directories, at the start above all, gets them from a super
// peer at once (docs/protocol/directory.md); what that one does not have, and all of
// it where none answers, is read in the overlay:
//
//	roots, in the overlay ─> what is lacked ─> super peer ─> parts ─> Follower.TakeSealed
//
// The super peer can leave out what it likes, and no more: roots say what is whole.

// We chose:
const (
	// bulkLeast shards are worth a connection.
	bulkLeast = 16
	// bulkEvery is the longest time between two of them, and half of it the shortest:
	// where everybody comes and goes, everything changes all the time.
	bulkEvery = 5 * time.Minute
	// bulkTries super peers are asked, bulkRetry after one another, doubling.
	bulkTries = 4
	bulkRetry = time.Second
	// bulkTimeout bounds one connection, and bulkFirst how long reading in the overlay
	// waits for the first.
	bulkTimeout = admission.Timeout
	bulkFirst   = 30 * time.Second
)

// bulkLoop reads what is there at the start, says so, and then again and again what
// others' comings and goings have left behind.
func (n *Node) bulkLoop(ctx context.Context, begun func()) {
	select {
	case <-n.overlay.Ready():
		first, cancel := context.WithTimeout(ctx, bulkFirst)
		n.readBulk(first, n.bulkServers())
		cancel()
	case <-time.After(lookupTimeout):
	case <-ctx.Done():
	}
	begun()
	for sleep(ctx, bulkEvery/2+mrand.N(bulkEvery/2)) {
		select {
		case <-n.bulkNow:
			// One, and any: where a root names what nobody has, all are asked in vain.
			n.readBulk(ctx, firstOf(shuffled(n.bulkServers()), 1))
		case <-ctx.Done():
		}
	}
}

// wantBulk has bulkLoop look if many shards are lacked.
func (n *Node) wantBulk() {
	pending := 0
	for _, f := range *n.followers.Load() {
		pending += f.Pending()
	}
	if pending < bulkLeast {
		return
	}
	select {
	case n.bulkNow <- struct{}{}:
	default:
	}
}

// readBulk asks super peers for what is lacked until that is little.
func (n *Node) readBulk(ctx context.Context, servers []bulkServer) {
	n.read(ctx, lookupTimeout, *n.followers.Load(), func(ctx context.Context, f *directory.Follower) (bool, error) {
		return f.Poll(ctx, true)
	})
	wait := bulkRetry
	for i, at := range servers {
		want := lacks(*n.followers.Load())
		if len(want.refs) < bulkLeast || i == bulkTries {
			break
		}
		if i > 0 {
			if !sleep(ctx, wait/2+mrand.N(wait/2)) {
				return
			}
			wait *= 2
		}
		got, err := n.bulkFrom(ctx, at, want)
		n.log.Debug("directories read at once", "super_peer", at.key.Short(), "shards", got, "err", err)
	}
	n.post(n.settleRoster)
}

// lacking is what to ask for.
type lacking struct {
	request directory.Request
	from    []*directory.Follower // as in request.Of
	refs    map[lackedShard]directory.Ref
}

// lackedShard names a shard in an answer.
type lackedShard struct {
	of     uint8
	number uint32
}

// lacks says what the newest roots name and was not read.
func lacks(followers map[id.ID]*directory.Follower) lacking {
	l := lacking{refs: map[lackedShard]directory.Ref{}}
	for pid, f := range followers {
		refs := f.Lacks()
		refs = refs[:min(len(refs), directory.MaxBulk-len(l.refs))]
		if len(refs) == 0 || len(l.from) == directory.MaxBulkOf {
			continue
		}
		slices.SortFunc(refs, func(a, b directory.Ref) int { return cmp.Compare(a.Number, b.Number) })
		of := directory.RequestOf{Issuer: pid}
		for _, ref := range refs {
			of.Shards = append(of.Shards, directory.Version{Number: ref.Number, Seq: ref.Seq})
			l.refs[lackedShard{uint8(len(l.from)), ref.Number}] = ref //nolint:gosec // MaxBulkOf at most
		}
		l.request.Of, l.from = append(l.request.Of, of), append(l.from, f)
	}
	return l
}

// bulkServer is a super peer at one of its addresses.
type bulkServer struct {
	key      id.ID
	public   ed25519.PublicKey
	endpoint string
}

// bulkServers are the super peers to ask: the one that admitted us, which knows that we
// are a member, then the others in any order.
func (n *Node) bulkServers() (all []bulkServer) {
	m := n.membership.Load()
	for _, sp := range shuffled(slices.Clone(m.Trust.Descriptor.SuperPeers)) {
		if !sp.Has(service.RoleAdmit) || len(sp.Endpoints) == 0 || n.now().Unix() >= sp.Expires {
			continue
		}
		at := bulkServer{sp.PID(), sp.Key, sp.Endpoints[mrand.N(len(sp.Endpoints))]}
		if at.key == m.Credential.Issuer {
			at.endpoint = m.SuperPeer
			all = slices.Insert(all, 0, at)
		} else {
			all = append(all, at)
		}
	}
	return all
}

func firstOf[T any](all []T, n int) []T { return all[:min(n, len(all))] }

func shuffled[T any](all []T) []T {
	mrand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

var errBulkPart = errors.New("node: a super peer sent a shard that it was not asked for")

// bulkFrom asks one super peer and takes in what it has.
func (n *Node) bulkFrom(ctx context.Context, at bulkServer, want lacking) (got int, err error) {
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	c, err := n.cfg.Join.Dial(ctx, at.endpoint)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	config := admission.MutualTLS(admission.Certificate(n.key, n.now()), directory.BulkALPN, func(key ed25519.PublicKey) error {
		if !key.Equal(at.public) {
			return errors.New("node: another key than the descriptor lists")
		}
		return nil
	})
	config.ServerName = service.ServerName(at.public)
	tc := tls.Client(c, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return 0, err
	}
	if err := want.request.Write(tc); err != nil {
		return 0, err
	}
	for {
		p, err := directory.ReadPart(tc)
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		which := lackedShard{p.Of, p.Number}
		ref, ok := want.refs[which]
		if !ok {
			return got, errBulkPart
		}
		delete(want.refs, which) // each once
		if err := want.from[p.Of].TakeSealed(ctx, ref, p.Sealed); err != nil {
			return got, fmt.Errorf("node: super peer %s: %w", at.key.Short(), err)
		}
		got++
	}
}
