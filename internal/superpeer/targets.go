package superpeer

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"icvpn/abe"
	"icvpn/internal/discovery"
	"icvpn/internal/provision"
)

// target is a discovery policy with what is handed out for it. One that an
// authority made for us (keypool_take.go) has its statement for the next epoch from
// the start.
type target struct {
	target    abe.Target
	statement abe.Statement
	signed    []byte // the statement as sent
	envelope  []byte
	refresh   time.Time // made anew from then on

	// guarded by targets.mu
	next      []byte // statement for the epoch that is announced, as sent
	nextEpoch uint32
}

// targets are the policies that keys were made for. Their lock is not that of
// the members: a request that has proved nothing yet waits for no disk.
type targets struct {
	mu       sync.Mutex
	byPolicy map[string]*target
	params   []byte // public ABE parameters; nil until an authority has told
	// wanted are label sets by their policies, where others make our keys.
	wanted map[string]map[string]string
}

// all returns the targets, in an order that stays.
func (t *targets) all() []*target {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*target, 0, len(t.byPolicy))
	for _, text := range slices.Sorted(maps.Keys(t.byPolicy)) {
		out = append(out, t.byPolicy[text])
	}
	return out
}

// unknown returns how many of some policies there is nothing of yet.
func (t *targets) unknown(all []abe.Policy) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range all {
		if t.byPolicy[p.String()] == nil {
			n++
		}
	}
	return n
}

// retire forgets the targets of policies that are not to stay.
func (t *targets) retire(stays func(policy string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.byPolicy, func(policy string, _ *target) bool { return !stays(policy) })
	clear(t.wanted)
}

// target returns what is handed out for a policy. The envelope costs an ABE
// encryption, so prepare makes those of known label sets before anyone asks.
func (a *authority) target(p abe.Policy, now time.Time) (*target, error) {
	a.targets.mu.Lock()
	defer a.targets.mu.Unlock()
	if !a.makes() {
		return a.handedTarget(p, now)
	}
	old, ok := a.targets.byPolicy[p.String()]
	if ok = ok && now.Before(old.refresh); ok && old.statement.Epoch == a.epoch(now) {
		return old, nil
	}
	if !ok {
		old = nil
	}
	t, err := a.newTarget(p, old, now)
	if err != nil {
		return nil, err
	}
	a.targets.byPolicy[p.String()] = t
	return t, nil
}

// newTarget makes a target. In a new epoch the envelope of the old one serves on,
// which is nil if there is none: its seed is of the generation.
func (a *authority) newTarget(p abe.Policy, old *target, now time.Time) (*target, error) {
	t := abe.Target{Service: a.trust().Service, Generation: a.trust().Descriptor.Generation, Policy: p}
	secret, err := a.abe.PolicySeed(t)
	if err != nil {
		return nil, err
	}
	expiry := time.Unix(min(now.Add(30*24*time.Hour).Unix(), a.self().Expires), 0)
	seq := uint64(now.UnixMilli())
	refresh := now.Add(expiry.Sub(now) / 2)
	if old != nil && old.target.Generation == t.Generation {
		expiry, refresh = old.statement.Expiry, old.refresh
	} else {
		old = nil
	}
	st, signed, err := a.state(t, secret, a.epoch(now), seq, expiry)
	if err != nil {
		return nil, err
	}
	made := &target{target: t, statement: st, signed: signed, refresh: refresh}
	if old != nil {
		made.envelope = old.envelope
		return made, nil
	}
	if made.envelope, err = a.abe.Envelope(nil, a.key, t, seq, expiry); err != nil {
		return nil, err
	}
	a.keys.AddSeed(t, secret)
	return made, nil
}

// state makes the signed public key of a target in an epoch.
func (a *authority) state(t abe.Target, secret abe.Secret, epoch uint32, seq uint64, expiry time.Time) (st abe.Statement, signed []byte, err error) {
	k, ok := a.epochKey(epoch)
	if !ok {
		return st, nil, fmt.Errorf("superpeer: no key of epoch %d", epoch)
	}
	pair, err := abe.DerivePolicyKey(secret, k, t, epoch)
	if err != nil {
		return st, nil, err
	}
	st = abe.Statement{Target: t, Epoch: epoch, Public: pair.Public(), Seq: seq, Expiry: expiry}
	signed, err = st.Sign(a.key)
	return st, signed, err
}

// nextStatement returns the statement of a target for an epoch that is announced,
// the same one for everybody.
func (a *authority) nextStatement(t *target, epoch uint32) ([]byte, error) {
	a.targets.mu.Lock()
	defer a.targets.mu.Unlock()
	if t.next != nil && t.nextEpoch == epoch {
		return t.next, nil
	}
	if !a.makes() {
		return nil, nil // until an authority has told it
	}
	secret, err := a.abe.PolicySeed(t.target)
	if err != nil {
		return nil, err
	}
	_, signed, err := a.state(t.target, secret, epoch, t.statement.Seq, t.statement.Expiry)
	if err == nil {
		t.next, t.nextEpoch = signed, epoch
	}
	return signed, err
}

func (a *authority) epochKey(epoch uint32) (abe.Secret, bool) {
	k, ok := a.ring.Key(time.Now(), epoch)
	if !ok {
		return abe.Secret{}, false
	}
	return abe.Secret(k.Bytes()), true
}

// provisioning is the policy that requests are sealed to: the key of this super
// peer for this service (paper, step ii).
func (a *authority) provisioning() abe.Policy { return abe.ForSuperPeer(a.self().PID()) }

// own are the policies that a super peer itself has to open: of requests, and of
// directories.
func (a *authority) own() []abe.Policy { return []abe.Policy{a.provisioning(), discovery.Members()} }

// prepare makes what admissions would otherwise wait for: the provisioning
// key, policies of every label set that the secrets grant, and the slots that an
// earlier process made for them.
func (a *authority) prepare(now time.Time) error {
	if !a.makes() {
		a.restorePolicies(now)
	}
	for _, p := range a.own() {
		if _, err := a.target(p, now); err != nil && a.makes() {
			return err
		}
	}
	for _, id := range a.secretIDs() {
		if err := a.prepareLabels(a.secrets[id].Grant, now); err != nil {
			return err
		}
	}
	return a.restoreSlots(now)
}

// secretIDs are the enrolment secrets, in an order that stays.
func (a *authority) secretIDs() []string { return slices.Sorted(maps.Keys(a.secrets)) }

func (a *authority) prepareLabels(labels map[string]string, now time.Time) error {
	if !mayGrant(a.self(), labels) {
		return nil // and an authority would refuse all that is asked for with it
	}
	a.slots.Want(discovery.Attributes(a.rules(), labels))
	if err := a.wantReaders(labels, now); a.makes() {
		return err
	}
	return nil
}

// wantReaders sees to it that machines with these labels can be told under which
// key to publish. Where others make our keys, they are asked from then on.
func (a *authority) wantReaders(labels map[string]string, now time.Time) error {
	p, ok := discovery.PolicyOf(a.rules(), labels)
	if !ok {
		return nil
	}
	t, err := a.target(p, now)
	if a.makes() {
		return err
	}
	a.targets.want(p, labels)
	if err != nil || a.cutOff.Load() {
		return err // of the next epoch the machine is told later
	}
	a.targets.mu.Lock()
	defer a.targets.mu.Unlock()
	if group, err := a.groupKeys(now); err == nil && group.next != 0 && t.nextEpoch != group.next {
		return errNoPolicy
	}
	return nil
}

// info is what an authenticated machine gets before its request (step iii).
func (a *authority) info(now time.Time) ([]byte, error) {
	t, err := a.target(a.provisioning(), now)
	if err != nil {
		return nil, a.sorry(err, now)
	}
	a.targets.mu.Lock()
	defer a.targets.mu.Unlock()
	return provision.Info{ABEParams: a.targets.params, Statement: t.signed}.Encode(), nil
}

// envelopes returns those that a key with these attributes opens.
func (a *authority) envelopes(attrs abe.Attributes) (out [][]byte) {
	for _, t := range a.targets.all() {
		if t.target.Matches(attrs) {
			out = append(out, t.envelope)
		}
	}
	return out
}
