package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/keypool"
	"icvpn/internal/service"
)

// A super peer that admits and has no ABE master key lives on what an authority
// has handed to it, and keeps that over restarts:
//
//	keysLoop ─> refill ─┬─ a policy is missing or old ─> ask ─> takePolicies ─> targets
//	                    └─ the pool lacks a key ───────> ask ─> takeKeys ─────> slots
//
// We chose:
const (
	// handedDepth is how many keys are kept ready for each label set at least.
	handedDepth = 16
	// keysLook is how often it is looked whether something is missing, keysRetry the
	// wait after nobody has helped, doubling to keysRetryMax.
	keysLook     = time.Second
	keysRetry    = 5 * time.Second
	keysRetryMax = time.Minute
	// dialWait is what a TCP connection to an authority may take, and askWait all of
	// a request: its turn, and some 200 ms for each key.
	dialWait = 3 * time.Second
	askWait  = 15 * time.Second
)

// fileKeypool is where the last answer about policies is kept.
const fileKeypool = "keypool"

// lacking is why a machine cannot be admitted until an authority has answered.
type lacking string

func (l lacking) Error() string { return "superpeer: " + string(l) }

const errNoPolicy = lacking("no super peer with the ABE master key has told it how contacts are sealed")

// sorry turns lacking into a refusal that says where to go instead.
func (a *authority) sorry(err error, now time.Time) error {
	var l lacking
	if !errors.As(err, &l) {
		return err
	}
	a.slotCounts.lacking.Add(1)
	r := &admission.Refusal{Code: admission.CodeBusy, Detail: string(l)}
	others := a.elsewhere(now)
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	for _, sp := range others {
		if r.Other == "" || sp.Has(service.RoleAuthority) {
			r.Other = sp.Endpoints[0]
		}
	}
	return r
}

// keysLoop has authorities make what we lack and cannot make.
func (s *SuperPeer) keysLoop(ctx context.Context) error {
	wait, retry := time.Duration(0), keysRetry
	for sleep(ctx, wait) {
		err := s.refill(ctx, time.Now())
		s.authority.cutOff.Store(err != nil)
		if err == nil {
			wait, retry = keysLook, keysRetry
			continue
		}
		if ctx.Err() == nil {
			s.log.Warn("no keys from a super peer that makes them", "err", err)
		}
		wait, retry = jitter(2*retry), min(2*retry, keysRetryMax)
	}
	return nil
}

// refill asks for what is lacked most urgently until it is there.
func (s *SuperPeer) refill(ctx context.Context, now time.Time) error {
	a := s.authority
	if a.makes() || !s.service.standing.Load().mayAdmit(now) {
		return nil
	}
	if sets, lacks := a.lackedPolicies(now); lacks {
		if err := s.ask(ctx, keypool.Request{Sets: sets}, func(ans keypool.Answer) error { return a.takePolicies(ans, time.Now()) }); err != nil {
			return err
		}
		if _, lacks := a.lackedPolicies(now); lacks {
			return errors.New("superpeer: an authority knows other rules or epochs than we do")
		}
	}
	for {
		need, ok := s.due(time.Now())
		if !ok {
			return nil
		}
		n := 1
		if need.Why == abe.NeedLeast && !need.Cohort {
			n = min(keypool.MaxKeys, max(1, a.least-a.slots.Len(need.Labels)))
		}
		req := keypool.Request{Keys: uint8(n), Sets: []map[string]string{need.Labels}}
		if err := s.ask(ctx, req, func(ans keypool.Answer) error { return a.takeKeys(ans, need, time.Now()) }); err != nil {
			return err
		}
		a.pace.onMade(time.Now())
	}
}

// ask asks the authorities, in any order, until one gives an answer that take
// accepts.
func (s *SuperPeer) ask(ctx context.Context, req keypool.Request, take func(keypool.Answer) error) error {
	all := authorities(s.service.trust(), s.PID(), time.Now())
	if len(all) == 0 {
		return errors.New("superpeer: the descriptor names no super peer with the ABE master key")
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var errs []error
	for _, sp := range all {
		for _, endpoint := range sp.Endpoints {
			ans, err := s.askAt(ctx, sp, endpoint, req)
			answered := err == nil
			switch {
			case answered && ans.Code != keypool.OK:
				err = errors.New(ans.Code.String())
			case answered:
				err = take(ans)
			}
			ans.Wipe()
			if err == nil {
				return nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", endpoint, err))
			if answered {
				break // at its other addresses it says the same
			}
		}
	}
	return errors.Join(errs...)
}

func (s *SuperPeer) askAt(ctx context.Context, sp service.SuperPeer, endpoint string, req keypool.Request) (keypool.Answer, error) {
	dial := s.cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	dialing, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	c, err := dial(dialing, "tcp", endpoint)
	if err != nil {
		return keypool.Answer{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	now := time.Now()
	_ = c.SetDeadline(now.Add(askWait))
	config := admission.MutualTLS(s.cert.config(now).Certificates[0], keypool.ALPN, func(key ed25519.PublicKey) error {
		if !sp.Key.Equal(key) {
			return errors.New("superpeer: another key than the descriptor lists")
		}
		return nil
	})
	config.ServerName = service.ServerName(sp.Key)
	tc := tls.Client(c, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return keypool.Answer{}, err
	}
	if err := keypool.Write(tc, req.Encode()); err != nil {
		return keypool.Answer{}, err
	}
	return keypool.ReadAnswer(tc)
}

// takeKeys puts what an authority has made into the pool. Each is tried first:
// a bad one is not to be found by a machine.
func (a *authority) takeKeys(ans keypool.Answer, need abe.Need, now time.Time) error {
	end := min(ans.Expires, now.Add(handedLife).Unix())
	if len(ans.Slots) == 0 || end <= now.Unix() {
		return errors.New("superpeer: an authority gave no keys, or some that have expired")
	}
	for i, b := range ans.Slots {
		s, err := abe.ParseSlot(b)
		if err != nil {
			return err
		}
		if s.Target.Service != a.trust().Service || s.Target.Generation != need.Generation || !maps.Equal(s.Labels(), need.Labels) {
			s.Wipe()
			return errors.New("superpeer: an authority gave a key that was not asked for")
		}
		s.Expires = end
		a.keepSlot(s, need.Cohort && i == 0)
	}
	return nil
}

// takePolicies checks an answer about policies, keeps it and puts it in the place
// of the one before.
func (a *authority) takePolicies(ans keypool.Answer, now time.Time) error {
	if hash := abe.HashParams(ans.Params); string(hash[:]) != string(a.trust().Descriptor.ABEHash) {
		return errors.New("superpeer: an authority's ABE parameters are not those of the descriptor")
	}
	made := map[string]*target{}
	seeds := map[string]abe.Secret{}
	for _, p := range ans.Policies {
		t, err := a.handedPolicy(p, now)
		if err != nil {
			return err
		}
		made[t.target.Policy.String()] = t
		if len(p.Seed) == abe.SecretSize {
			seeds[t.target.Policy.String()] = abe.Secret(p.Seed)
		}
	}
	for _, p := range a.own() {
		t, seed := made[p.String()], seeds[p.String()]
		if t == nil || !a.opens(t, seed) {
			return fmt.Errorf("superpeer: an authority's seed of policy %s does not open it", p)
		}
	}
	if err := a.upToDate(made, now); err != nil {
		return err
	}
	b := ans.Encode()
	defer clear(b) // seeds are in it
	if err := a.keepPolicies(b); err != nil {
		return err
	}
	for _, p := range a.own() {
		a.keys.AddSeed(made[p.String()].target, seeds[p.String()])
	}
	a.targets.mu.Lock()
	defer a.targets.mu.Unlock()
	a.targets.byPolicy, a.targets.params = made, ans.Params
	return nil
}

// upToDate refuses what an authority has made that knows of fewer epochs than we
// do: it would take the place of what is better.
func (a *authority) upToDate(made map[string]*target, now time.Time) error {
	group, err := a.groupKeys(now)
	if err != nil {
		return err
	}
	a.targets.mu.Lock()
	defer a.targets.mu.Unlock()
	for policy, t := range made {
		if t.statement.Epoch != group.epoch && (t.next == nil || t.nextEpoch != group.epoch) {
			return fmt.Errorf("superpeer: an authority knows epoch %d, and %d is in force", t.statement.Epoch, group.epoch)
		}
		if old := a.targets.byPolicy[policy]; group.next != 0 && t.nextEpoch != group.next && old != nil && old.nextEpoch == group.next {
			return fmt.Errorf("superpeer: an authority has not heard of epoch %d, and another one has", group.next)
		}
	}
	return nil
}

// handedPolicy checks what an authority says of one policy.
func (a *authority) handedPolicy(p keypool.Policy, now time.Time) (*target, error) {
	st, err := abe.VerifyStatement(p.Statement, a.trust().Service, a.authorityKey, now)
	if err != nil {
		return nil, err
	}
	e, err := abe.VerifyEnvelope(p.Envelope, a.trust().Service, a.authorityKey, now)
	if err != nil {
		return nil, err
	}
	if !e.Target.Policy.Equal(st.Target.Policy) || e.Target.Generation != st.Target.Generation || st.Target.Generation != a.trust().Descriptor.Generation {
		return nil, errors.New("superpeer: an authority's statement and envelope are not of one policy, or of another generation")
	}
	expiry := st.Expiry
	if e.Expiry.Before(expiry) {
		expiry = e.Expiry
	}
	t := &target{target: st.Target, statement: st, signed: p.Statement, envelope: p.Envelope, refresh: now.Add(expiry.Sub(now) / 2)}
	if len(p.Next) == 0 {
		return t, nil
	}
	next, err := abe.VerifyStatement(p.Next, a.trust().Service, a.authorityKey, now)
	if err != nil {
		return nil, err
	}
	if !next.Target.Policy.Equal(st.Target.Policy) || next.Target.Generation != st.Target.Generation {
		return nil, errors.New("superpeer: an authority's statement for the next epoch is of another policy")
	}
	t.next, t.nextEpoch = p.Next, next.Epoch
	return t, nil
}

// opens says whether a seed is that of a target; what it is of an epoch whose key
// we have not is not said yet.
func (a *authority) opens(t *target, seed abe.Secret) bool {
	k, ok := a.epochKey(t.statement.Epoch)
	if !ok {
		return true
	}
	pair, err := abe.DerivePolicyKey(seed, k, t.target, t.statement.Epoch)
	return err == nil && pair.Public() == t.statement.Public
}

func (a *authority) authorityKey(pid id.ID) (ed25519.PublicKey, bool) {
	return a.trust().AuthorityKey(pid, time.Now())
}

// handedTarget returns what an authority has handed to us for a policy, while it
// counts; targets.mu is held.
func (a *authority) handedTarget(p abe.Policy, now time.Time) (*target, error) {
	t := a.targets.byPolicy[p.String()]
	if t == nil {
		return nil, errNoPolicy
	}
	epoch := a.epoch(now)
	if t.statement.Epoch != epoch && t.next != nil && t.nextEpoch == epoch {
		st, err := abe.VerifyStatement(t.next, a.trust().Service, a.authorityKey, now)
		if err != nil {
			return nil, errNoPolicy
		}
		t = &target{target: t.target, statement: st, signed: t.next, envelope: t.envelope, refresh: t.refresh}
		a.targets.byPolicy[p.String()] = t
	}
	_, trusted := a.authorityKey(t.statement.Issuer)
	if !trusted || t.statement.Epoch != epoch || !now.Before(t.statement.Expiry) || t.target.Generation != a.trust().Descriptor.Generation {
		return nil, errNoPolicy
	}
	return t, nil
}

// want has authorities asked for the policy of those who may find machines with
// these labels.
func (t *targets) want(p abe.Policy, labels map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.wanted) < keypool.MaxSets {
		t.wanted[p.String()] = maps.Clone(labels)
	}
}

// lackedPolicies says whether something is missing or should be made anew, and
// returns the label sets to ask for: all, since an answer takes the place of the
// one before.
func (a *authority) lackedPolicies(now time.Time) (sets []map[string]string, lacks bool) {
	group, err := a.groupKeys(now)
	if err != nil {
		return nil, false
	}
	a.targets.mu.Lock()
	defer a.targets.mu.Unlock()
	fresh := func(t *target, err error) bool {
		return err == nil && now.Before(t.refresh) && (group.next == 0 || t.nextEpoch == group.next)
	}
	for _, p := range a.own() {
		lacks = lacks || !fresh(a.handedTarget(p, now))
	}
	for _, text := range slices.Sorted(maps.Keys(a.targets.wanted)) {
		labels := a.targets.wanted[text]
		if !mayGrant(a.self(), labels) {
			continue
		}
		sets = append(sets, labels)
		p, ok := discovery.PolicyOf(a.rules(), labels)
		lacks = lacks || ok && !fresh(a.handedTarget(p, now))
	}
	return sets, lacks
}

// restorePolicies begins with what an earlier process was told.
func (a *authority) restorePolicies(now time.Time) {
	b, err := a.keptPolicies()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var ans keypool.Answer
	if err == nil {
		ans, err = keypool.ParseAnswer(b)
		clear(b)
	}
	if err == nil {
		err = a.takePolicies(ans, now)
	}
	if err != nil {
		a.log.Info("the policies that were kept are of no use any more", "err", err)
	}
	ans.Wipe()
}
