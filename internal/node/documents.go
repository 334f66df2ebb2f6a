package node

import (
	"context"
	"errors"
	mrand "math/rand/v2"
	"slices"
	"time"

	"icvpn/internal/discovery"
	"icvpn/internal/service"
	"icvpn/internal/wire"
	"icvpn/overlay"
)

// The owner signs a new descriptor when a super peer comes or goes. Each super
// peer has it in the service's overlay, under its own key; whose word it is does
// not matter, the owner's signature and the sequence number do.
//
//	credential of an unknown issuer ┐
//	address in nobody's block       ├─> documentsLoop ─> super peers ─> learnDocuments ─> Trust
//	now and then                    ┘

// We chose:
const (
	// documentsGap is the least time between two readings: strangers can provoke them.
	documentsGap = time.Minute
	// documentsPoll is how often one super peer is asked, with one query.
	documentsPoll = 10 * time.Minute
	maxDocuments  = 2 * service.MaxSigned
	// renewSpread spreads machines whose super peer was removed.
	renewSpread = 10 * time.Second
)

// wantDocuments asks for a newer descriptor, soon.
func (n *Node) wantDocuments() {
	select {
	case n.documentsNow <- struct{}{}:
	default:
	}
}

// documentsLoop keeps up with the owner.
func (n *Node) documentsLoop(ctx context.Context) {
	poll, look, releases := time.NewTimer(documentsPoll/2+mrand.N(documentsPoll/2)), time.NewTimer(time.Hour), time.NewTimer(mrand.N(releaseFirst))
	defer poll.Stop()
	defer look.Stop()
	defer releases.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			n.readDocument(ctx, n.descriptor(), false)
			n.readDocument(ctx, n.epochsDocument(), false)
			poll.Reset(documentsPoll/2 + mrand.N(documentsPoll/2))
		case <-n.documentsNow:
			look.Reset(max(0, documentsGap-time.Since(last)))
		case <-look.C:
			n.readDocument(ctx, n.descriptor(), true)
			n.readDocument(ctx, n.epochsDocument(), true)
			last = time.Now()
		case <-releases.C:
			if n.trust().Policy.Updates.Named() {
				n.readDocument(ctx, n.releaseManifest(), false)
			}
			releases.Reset(releasePoll/2 + mrand.N(releasePoll/2))
		}
	}
}

// document is one that super peers hand out, each under its own key.
type document struct {
	name  string
	salt  []byte
	seq   func() uint64 // of the one that we know, 0 for none
	learn func(context.Context, []byte) error
}

func (n *Node) descriptor() document {
	return document{"descriptor", discovery.SaltService(n.service), func() uint64 { return n.trust().Descriptor.Seq }, n.learnDocuments}
}

// readDocument asks super peers, in no order, until one has something newer: all of them,
// or one with a single query.
func (n *Node) readDocument(ctx context.Context, d document, all bool) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	supers := slices.Clone(n.trust().Descriptor.SuperPeers)
	mrand.Shuffle(len(supers), func(i, j int) { supers[i], supers[j] = supers[j], supers[i] })
	for _, sp := range supers {
		seq := int64(d.seq())
		if !all {
			if it, err := n.overlay.AskItem(ctx, sp.Key, d.salt); err != nil || it.Seq <= seq {
				return
			}
		}
		b, _, err := n.overlay.GetObjectAfter(ctx, sp.Key, d.salt, seq)
		if err == nil {
			err = d.learn(ctx, b)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, overlay.ErrUnchanged) && !errors.Is(err, overlay.ErrNotFound) && ctx.Err() == nil {
			n.log.Debug("document not read", "detail", d.name, "super_peer", sp.PID().Short(), "err", err)
		}
	}
}

// learnDocuments puts a newer descriptor in force.
func (n *Node) learnDocuments(ctx context.Context, b []byte) error {
	var docs service.Documents
	if err := wire.Unmarshal(b, &docs, maxDocuments); err != nil {
		return err
	}
	trust, err := service.Open(docs, n.service, n.trust().Descriptor.Seq+1, n.now())
	if err != nil {
		return err
	}
	var adopted *Membership
	err = n.call(ctx, func() { adopted = n.adoptDescriptor(trust, docs) })
	if err != nil || adopted == nil {
		return err
	}
	n.log.Info("newer descriptor in force", "seq", trust.Descriptor.Seq, "super_peers", len(trust.Descriptor.SuperPeers))
	if n.cfg.Save != nil {
		if err := n.cfg.Save(adopted); err != nil {
			n.log.Error("newer descriptor not saved", "err", err)
		}
	}
	return nil
}

// adoptDescriptor replaces the descriptor of our membership. Tunnels whose peer
// was admitted by a super peer that may not admit any more end: so does what it
// vouched for. If that is our own, we are to be admitted by another one. Control
// loop only; nil if it came too late.
func (n *Node) adoptDescriptor(trust *service.Trust, docs service.Documents) *Membership {
	m := *n.membership.Load()
	if trust.Descriptor.Seq <= m.Trust.Descriptor.Seq || trust.Root.Seq < m.Trust.Root.Seq {
		return nil
	}
	trust.Policy = m.Trust.Policy
	m.Trust, m.Documents = trust, docs
	n.membership.Store(&m)
	n.superPeers.Set(endpointsOf(trust))
	n.newFollowers(trust)
	for t := range n.active {
		if t.credential != nil && !n.admits(t.credential) {
			n.deleteTunnel(t)
		}
	}
	if !n.admits(m.Credential) {
		n.log.Warn("the owner removed the super peer that admitted this machine; joining again at another", "super_peer", m.SuperPeer)
		select {
		case n.renewNow <- struct{}{}:
		default:
		}
	}
	return &m
}

// newerDocuments gives m the owners' documents that came while it was renewed.
// Control loop only.
func (n *Node) newerDocuments(m *Membership) error {
	now := n.membership.Load()
	switch {
	case now.Trust.Descriptor.Seq <= m.Trust.Descriptor.Seq && now.Trust.Root.Seq <= m.Trust.Root.Seq:
		return nil
	case now.Trust.Descriptor.Seq < m.Trust.Descriptor.Seq || now.Trust.Root.Seq < m.Trust.Root.Seq:
		return errors.New("node: root and descriptor are newer here and at the super peer in turn; the next renewal settles it")
	}
	trust := *now.Trust
	trust.Policy = m.Trust.Policy
	m.Trust, m.Documents = &trust, now.Documents
	return nil
}

// admits says whether the issuer of a credential may still admit.
func (n *Node) admits(c *service.Credential) bool {
	return admitsBy(n.trust(), c, n.now())
}

func admitsBy(t *service.Trust, c *service.Credential, now time.Time) bool {
	sp, ok := t.Descriptor.SuperPeer(c.Issuer)
	return ok && sp.Has(service.RoleAdmit) && now.Unix() < sp.Expires
}

func endpointsOf(trust *service.Trust) (all []string) {
	for _, sp := range trust.Descriptor.SuperPeers {
		all = append(all, sp.Endpoints...)
	}
	return all
}

// doors are the super peers to be admitted by: those of the token that the
// descriptor still has, under the address that the token gives, and its others.
// Should none of them admit, the token's word is all there is.
func doors(token []service.TokenSuperPeer, d *service.Descriptor) (all []service.TokenSuperPeer) {
	for _, sp := range d.SuperPeers {
		if !sp.Has(service.RoleAdmit) {
			continue
		}
		i := slices.IndexFunc(token, func(t service.TokenSuperPeer) bool { return t.Key.Equal(sp.Key) })
		if i >= 0 {
			all = append(all, token[i])
			continue
		}
		all = append(all, service.TokenSuperPeer{Endpoint: sp.Endpoints[0], Key: sp.Key})
	}
	if len(all) == 0 {
		return token
	}
	return all
}
