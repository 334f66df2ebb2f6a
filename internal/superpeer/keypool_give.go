package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/keypool"
	"icvpn/internal/service"
)

// An authority hands keys to super peers that admit and have no ABE master key
// (docs/adr/0024-pools-of-ready-keys.md):
//
//	greeting.choose ─> giveConfig: a listed key? ─> give ─> handOut: scope, quota ─> keys
//
// We chose:
const (
	// handedPerSet and handedPerDay bound the keys that one super peer gets in a day,
	// of one label set and in all: what a stolen one can collect.
	handedPerSet = 256
	handedPerDay = 1024
	// handedChosen of them are of label sets that no enrolment secret grants by
	// itself: machines whose secret lets them choose do not take those of others.
	handedChosen = 768
	// handedPolicies is how many policies that nobody has asked for before: each is
	// an ABE encryption.
	handedPolicies = 256
	// handedLife is until when keys are to be given to machines. They are as good
	// afterwards; a pool of them should not lie about.
	handedLife = 7 * 24 * time.Hour
	// giveWait is what a super peer has for its request and for taking the answer,
	// and how long it waits for its turn.
	giveWait = 5 * time.Second
)

// authorities are the other super peers that have the ABE master key.
func authorities(trust *service.Trust, self id.ID, now time.Time) (all []service.SuperPeer) {
	for _, sp := range trust.Descriptor.SuperPeers {
		if sp.Has(service.RoleAuthority) && sp.PID() != self && now.Unix() < sp.Expires {
			all = append(all, sp)
		}
	}
	return all
}

// mayGrant says whether the owners let a super peer grant all of these labels.
func mayGrant(sp service.SuperPeer, labels map[string]string) bool {
	for k, v := range labels {
		if !sp.MayGrant(k, v) {
			return false
		}
	}
	return true
}

// makes says whether we make keys ourselves. One that the owners removed ends as
// it began.
func (a *authority) makes() bool {
	self := a.self()
	return a.abe != nil && (self.Has(service.RoleAuthority) || !self.Has(service.RoleAdmit))
}

// gives says whether we make keys for others.
func (a *authority) gives() bool { return a.abe != nil && a.self().Has(service.RoleAuthority) }

// giveConfig is the TLS configuration for a super peer that comes for keys: whose key
// it is, is checked before the handshake ends.
func (s *SuperPeer) giveConfig(now time.Time) *tls.Config {
	return admission.MutualTLS(s.cert.config(now).Certificates[0], keypool.ALPN, func(key ed25519.PublicKey) error {
		_, err := s.authority.taker(key, time.Now())
		return err
	})
}

var errNoTaker = errors.New("superpeer: not a super peer that may admit")

// taker returns the super peer of a key, if it may have keys.
func (a *authority) taker(key ed25519.PublicKey, now time.Time) (service.SuperPeer, error) {
	if len(key) != ed25519.PublicKeySize {
		return service.SuperPeer{}, errNoTaker
	}
	sp, ok := a.trust().Descriptor.SuperPeer(id.FromKey(key))
	if !ok || !sp.Has(service.RoleAdmit) || now.Unix() >= sp.Expires || sp.PID() == a.self().PID() {
		return service.SuperPeer{}, errNoTaker
	}
	return sp, nil
}

// give answers the one request of a connection. What is not taken in counts all
// the same: who stops reading has had a part of it.
func (s *SuperPeer) give(ctx context.Context, tc *tls.Conn) error {
	a := s.authority
	key, err := admission.PeerKey(tc.ConnectionState())
	if err != nil {
		return err
	}
	place := a.handed.placeOf(id.FromKey(key))
	if err := awaitTurn(ctx, place, "its own"); err != nil {
		return err
	}
	defer func() { <-place }()
	_ = tc.SetDeadline(time.Now().Add(giveWait))
	req, err := keypool.ReadRequest(tc)
	if err != nil {
		return err
	}
	if err := awaitTurn(ctx, a.handed.turn, "other"); err != nil {
		return err
	}
	ans, err := a.handOut(key, req, time.Now())
	<-a.handed.turn
	if err != nil {
		return err
	}
	defer ans.Wipe()
	b := ans.Encode()
	defer clear(b)
	_ = tc.SetDeadline(time.Now().Add(giveWait))
	return keypool.Write(tc, b)
}

// awaitTurn takes a place that some request may have now.
func awaitTurn(ctx context.Context, place chan struct{}, whose string) error {
	wait, cancel := context.WithTimeout(ctx, giveWait)
	defer cancel()
	if !acquire(wait, place) {
		return fmt.Errorf("superpeer: %s requests are before it", whose)
	}
	return nil
}

// handOut decides what a super peer gets, and makes it. The owners may have
// removed it since it came.
func (a *authority) handOut(key ed25519.PublicKey, req keypool.Request, now time.Time) (ans keypool.Answer, err error) {
	sp, err := a.taker(key, now)
	if err != nil {
		return ans, err
	}
	refuse := func(c keypool.Code) (keypool.Answer, error) {
		a.log.Warn("no keys for another super peer", "super_peer", sp.PID().Short(), "reason", c.String())
		return keypool.Answer{Code: c}, nil
	}
	if !a.gives() {
		return refuse(keypool.None)
	}
	for _, set := range req.Sets {
		if !mayGrant(sp, discovery.LabelsOf(set)) {
			return refuse(keypool.Scope)
		}
	}
	if req.Keys == 0 {
		if ans, err = a.handPolicies(sp, req.Sets, now); ans.Code == keypool.Quota {
			return refuse(keypool.Quota)
		}
		return ans, err
	}
	set, n := req.Sets[0], int(req.Keys)
	if !discovery.Members().Matches(abe.Attributes{Labels: set}) {
		return refuse(keypool.Scope)
	}
	labels := discovery.LabelsOf(set)
	counts := a.countsOf(sp.PID(), labels)
	if !a.handed.allow(now, n, counts...) {
		return refuse(keypool.Quota)
	}
	if ans, err = a.handKeys(set, n, now); err != nil {
		a.handed.giveBack(now, n, counts...) // nothing of it has left
		return ans, err
	}
	a.log.Info("attribute keys for another super peer", "super_peer", sp.PID().Short(), "labels", service.LabelText(labels), "keys", n)
	return ans, nil
}

// handKeys makes keys of one label set.
func (a *authority) handKeys(attrs map[string]string, n int, now time.Time) (ans keypool.Answer, err error) {
	for range n {
		s, err := a.abe.NewSlot(nil, attrs, a.trust().Descriptor.Generation)
		if err != nil {
			ans.Wipe()
			return keypool.Answer{}, err
		}
		ans.Slots = append(ans.Slots, s.Bytes())
		s.Wipe()
	}
	ans.Expires = now.Add(handedLife).Unix()
	a.slotCounts.handed.Add(uint64(n))
	return ans, nil
}

// handPolicies gathers what machines are handed for label sets, and the seeds of
// the two policies that the super peer itself has to open.
func (a *authority) handPolicies(sp service.SuperPeer, sets []map[string]string, now time.Time) (ans keypool.Answer, err error) {
	group, err := a.groupKeys(now)
	if err != nil {
		return ans, err
	}
	opens := []abe.Policy{abe.ForSuperPeer(sp.PID()), discovery.Members()}
	wanted := map[string]abe.Policy{}
	for _, labels := range sets {
		if p, ok := discovery.PolicyOf(a.rules(), labels); ok {
			wanted[p.String()] = p
		}
	}
	for _, p := range opens {
		delete(wanted, p.String())
	}
	all := slices.Concat(opens, slices.Collect(maps.Values(wanted)))
	if n := a.targets.unknown(all); !a.handed.allow(now, n, count{sp.PID(), "policies", handedPolicies}) {
		return keypool.Answer{Code: keypool.Quota}, nil
	}
	for i, p := range all {
		h, err := a.handPolicy(p, group.next, i < len(opens), now)
		if err != nil {
			ans.Wipe()
			return keypool.Answer{}, fmt.Errorf("superpeer: policy %s: %w", p, err)
		}
		ans.Policies = append(ans.Policies, h)
	}
	ans.Params = a.abe.Params().Bytes()
	return ans, nil
}

func (a *authority) handPolicy(p abe.Policy, next uint32, opens bool, now time.Time) (h keypool.Policy, err error) {
	t, err := a.target(p, now)
	if err != nil {
		return h, err
	}
	h.Statement, h.Envelope = t.signed, t.envelope
	if next != 0 {
		if h.Next, err = a.nextStatement(t, next); err != nil {
			return h, err
		}
	}
	if opens {
		seed, err := a.abe.PolicySeed(t.target)
		if err != nil {
			return h, err
		}
		h.Seed = seed[:]
	}
	return h, nil
}
