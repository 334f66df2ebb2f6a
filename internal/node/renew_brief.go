package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"icvpn/admission"
	"icvpn/internal/port"
	"icvpn/internal/provision"
	"icvpn/internal/seal"
)

// Renewal by datagram (docs/protocol/admission.md): at the super peer that admitted
// us, where nothing has changed since. Everything else, and whatever goes wrong here,
// is TLS's.

// We chose:
const (
	// briefTries of briefWait each, which need four datagrams.
	briefTries = 3
	briefWait  = 2 * time.Second
	// resolveWait is for the super peer's name.
	resolveWait = 5 * time.Second
)

// briefly are the answers to a renewal by datagram that is under way.
type briefly struct {
	in   chan []byte // capacity briefTries+1: more are not expected
	from netip.AddrPort
}

// errNotBrief says that there is more to renew than a datagram carries.
var errNotBrief = errors.New("node: not a renewal in which nothing changes")

// onRenewal takes an answer from the super peer that was asked. Called by the port's
// readers.
func (n *Node) onRenewal(payload []byte, from netip.AddrPort) {
	b := n.renewing.Load()
	if b == nil || b.from != from {
		return
	}
	select {
	case b.in <- append([]byte(nil), payload...):
	default:
		n.stats.controlDrops.Add(1)
	}
}

// renewBriefly renews by datagram.
func (n *Node) renewBriefly(ctx context.Context, cfg JoinConfig) (*Membership, error) {
	old := n.membership.Load()
	sp, listed := n.trust().Descriptor.SuperPeer(old.Credential.Issuer)
	if old.Unconfirmed || !listed || old.Trust.Expired(n.now()) || !n.admits(old.Credential) || !cfg.Kept.serves(cfg.Token, time.Now()) {
		return nil, errNotBrief
	}
	ctx, cancel := context.WithTimeout(ctx, briefTries*briefWait+resolveWait)
	defer cancel()
	a := &admittance{cfg: cfg, endpoint: old.SuperPeer, serverKey: sp.Key, began: time.Now(), m: &Membership{
		SuperPeer: old.SuperPeer, Trust: old.Trust, Documents: old.Documents, Offset: n.ring.ClockOffset(),
	}}
	if a.holds() != provision.AllParts {
		return nil, errNotBrief
	}
	r := admission.NewRenewal(admission.RenewalConfig{
		Service: n.service, Identity: n.key.Public().(ed25519.PublicKey), Server: sp.Key, Session: &cfg.Kept.Session,
		Request: func() ([]byte, error) {
			return provision.Brief{Request: a.request().Encode(), Root: old.Trust.Root.Seq, Descriptor: old.Trust.Descriptor.Seq}.Encode(), nil
		},
	})
	defer r.Wipe()
	granted, err := n.askToRenew(ctx, r, old.SuperPeer)
	if err != nil {
		return nil, err
	}
	a.heard = time.Now()
	if err := a.learnClock(granted.Clock); err != nil {
		return nil, err
	}
	return a.m, a.onRenewed(granted.Grant, granted.Session)
}

// askToRenew sends and waits until the machine has its answer, or there is none.
func (n *Node) askToRenew(ctx context.Context, r *admission.Renewal, endpoint string) (*admission.Renewed, error) {
	addrs := port.Resolve(ctx, endpoint)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("node: %s has no address", endpoint)
	}
	defer n.renewing.Store(nil)
	for i := range briefTries {
		to := addrs[i%len(addrs)]
		b := &briefly{in: make(chan []byte, briefTries+1), from: to}
		n.renewing.Store(b)
		granted, err := n.tryToRenew(ctx, r, b)
		if granted != nil || err != nil {
			return granted, err
		}
	}
	return nil, fmt.Errorf("node: no answer to a datagram from %s", endpoint)
}

func (n *Node) tryToRenew(ctx context.Context, r *admission.Renewal, b *briefly) (*admission.Renewed, error) {
	timer := time.NewTimer(briefWait)
	defer timer.Stop()
	next, pad := r.Ask(), seal.PadQuery
	for {
		if next != nil {
			if err := n.port.SendControl(n.ring, seal.TypeRenewal, seal.Newest, next, pad, b.from); err != nil {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return nil, nil
		case payload := <-b.in:
			send, granted, err := r.Step(n.now(), payload)
			if granted != nil || err != nil {
				return granted, err
			}
			next, pad = send, seal.MaxPayload
		}
	}
}
