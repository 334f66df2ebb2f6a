package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"time"

	"icvpn/admission"
	"icvpn/internal/service"
)

// untilRenewal is the wait until a third of the credential's life is left, with
// jitter so that those admitted together do not come back together. A membership
// that was kept from before is confirmed as soon as a super peer answers.
func (n *Node) untilRenewal() time.Duration {
	if n.membership.Load().Unconfirmed {
		return retryRenewal()
	}
	c := n.membership.Load().Credential
	life := time.Duration(c.NotAfter-c.NotBefore) * time.Second
	left := c.Expires().Sub(n.now())
	wait := max(0, left-life/renewFraction-mrand.N(max(1, life/20)))
	if soon, missing := n.untilEpoch(); missing {
		wait = min(wait, soon)
	}
	return wait
}

// retryRenewal is the wait after a renewal that did not work.
func retryRenewal() time.Duration { return time.Minute + mrand.N(time.Minute) }

// renew is admitted again, by ticket, or by the secret where the ticket is
// refused. It returns when to do it next; until it works the old membership
// stands, and its ticket with it: a super peer takes one twice from the process
// that it was given to, so an answer that was lost costs nothing.
func (n *Node) renew(ctx context.Context) time.Duration {
	cfg := n.cfg.Join
	cfg.MinSeq = n.trust().Descriptor.Seq
	cfg.Step, cfg.asked = nil, new(int64)
	cfg.MinPolicy = n.trust().Policy.Sequence
	cfg.MinRoot = n.trust().Root.Seq
	cfg.Prefer, cfg.Kept = n.membership.Load().SuperPeer, n.membership.Load().Kept()
	cfg.Token.SuperPeers = doors(cfg.Token.SuperPeers, n.trust().Descriptor)
	if c := n.membership.Load().Credential; c.Expires().Sub(n.now()) > lastResort && n.admits(c) {
		// Another super peer would lease another address and publish it, though we do
		// not take it yet.
		cfg.Token.SuperPeers = only(cfg.Token.SuperPeers, cfg.Prefer)
	}
	m, err := n.renewBriefly(ctx, cfg)
	if err != nil {
		n.log.Debug("renewal goes over TLS", "err", err)
		m, err = Join(ctx, cfg)
	}
	if err == nil {
		var adopted error
		if err = n.call(ctx, func() { adopted = n.adoptRenewed(m) }); err == nil {
			err = adopted
		}
	}
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Refusal.Code == admission.CodeClone { // from who issued our credential
		select {
		case n.cloned <- &CloneError{PID: n.self, Said: cmp.Or(refused.Refusal.Detail, refused.SuperPeer)}:
		default: // a directory was faster
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			n.log.Warn("membership not renewed", "err", err, "expires", n.membership.Load().Credential.Expires())
			n.steps.warn("the membership could not be renewed: " + err.Error())
		}
		return retryRenewal()
	}
	n.steps.warn("")
	n.log.Info("membership renewed", "expires", m.Credential.Expires(), "super_peer", m.SuperPeer)
	n.save()
	return max(epochRetry, n.untilRenewal())
}

// only returns the super peer with this endpoint, all if there is none.
func only(all []service.TokenSuperPeer, endpoint string) []service.TokenSuperPeer {
	for i := range all {
		if all[i].Endpoint == endpoint {
			return all[i : i+1]
		}
	}
	return all
}

// adoptRenewed puts a renewed membership in force, all or nothing: flows that
// the policy still allows are not cut. What can be refused is, before anything
// changes. Should the machine then not take the new address, the newer policy's
// algorithms and group key stay: the owner wants them anyway. Control loop only.
func (n *Node) adoptRenewed(m *Membership) error {
	groups, suites, err := algorithms(m.Trust.Policy)
	if err != nil {
		return err
	}
	if err := n.newerDocuments(m); err != nil {
		return err
	}
	if !admitsBy(m.Trust, m.Credential, n.now()) {
		return fmt.Errorf("node: super peer %s may not admit any more", m.SuperPeer)
	}
	n.newerEpochs(m)
	if last := m.Epochs.Last(); m.Grant.Epoch > last {
		return fmt.Errorf("node: super peer %s hands out epoch %d, and the owner has spoken of %d at most", m.SuperPeer, m.Grant.Epoch, last)
	}
	if now := n.ring.Current(time.Now()); now > m.Grant.Epoch && m.Grant.Key(now) == nil {
		return fmt.Errorf("node: super peer %s hands out epoch %d, now is %d", m.SuperPeer, m.Grant.Epoch, now)
	}
	old := n.membership.Load().Credential
	moved := m.Credential.Addr4() != old.Addr4()
	if moved && old.Expires().Sub(n.now()) > lastResort && n.admits(old) {
		return fmt.Errorf("node: super peer %s would give another address, and the one that gave ours may be back before it ends", m.SuperPeer)
	}
	if err := n.machine.SetPolicy(groups, suites); err != nil {
		return err
	}
	if err := n.installEpochs(m); err != nil {
		return err
	}
	if moved {
		if n.cfg.Readdress != nil {
			if err := n.cfg.Readdress(m); err != nil {
				return err
			}
		}
		n.log.Warn("address changed: the super peer that gave the old one is gone", "addr", m.Credential.Addr4(), "super_peer", m.SuperPeer)
	}
	n.adopt(m)
	n.turnEpoch(time.Now())
	n.tellContact()
	for _, t := range n.tunnels {
		n.judge(t)
		pair := t.pair.Load()
		revoked := t.credential != nil && m.Trust.Policy.Revoked(t.credential) != nil
		if revoked || !pair.MayInitiate() && !pair.MayBeReached() {
			n.deleteTunnel(t)
		}
	}
	if moved { // peers know us by the credential of the exchange
		for t := range n.active {
			n.deleteTunnel(t)
		}
	}
	return nil
}
