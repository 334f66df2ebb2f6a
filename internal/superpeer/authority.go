package superpeer

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/directory"
	"icvpn/internal/discovery"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/provision"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// We chose:
const (
	// credentialLife is how long a membership lasts without renewal.
	credentialLife = 24 * time.Hour
	// sessionLife is how long a continuity ticket may stand in for the secret.
	sessionLife = 7 * 24 * time.Hour
	// leaseGrace is how long an address stays with its machine after the end of its
	// last credential: verifiers' clocks may be slow.
	leaseGrace = time.Hour
)

// authority grants memberships of one service. Its methods are called from
// many admissions at once.
type authority struct {
	// set at start
	tier      *tier
	block     netip.Prefix
	key       ed25519.PrivateKey
	abe       KeyMaker // nil: others make our keys (keypool_take.go)
	least     int      // keys that are kept ready for each label set
	ring      *seal.Ring
	epochs    *epochs
	secrets   map[string]service.EnrolmentSecret
	verifiers map[string]admission.Verifier
	keys      *discovery.Keys
	entries   func() []provision.Entry
	// keepPolicies and keptPolicies are for what an authority has told (keypool_take.go).
	keepPolicies func(b []byte) error
	keptPolicies func() ([]byte, error)
	targets      targets
	log          *slog.Logger

	// each has a lock of its own, and none is held while another is asked
	ledger     *ledger.Ledger   // members, leases, uses of secrets, tickets, on disk
	roster     *roster          // whom we and the other super peers list
	others     *directory.Table // whom the other super peers list, and as what
	shelf      directory.Shelf  // our directory and theirs, as published
	slots      *abe.Pool
	slotCounts slotCounts
	handed     handed      // to super peers that make no keys
	cutOff     atomic.Bool // no authority has answered the last time
	pace       pace

	changed chan struct{}      // the directory needs publishing; capacity 1
	leaves  chan service.Leave // goodbyes, for the disk
	leaving leaving
	loads   loads // of the other super peers
}

// grant makes a machine a member (steps iv to vi). observed is the address it
// came from. The secret is that of its slot, for its peer list.
func (a *authority) grant(who admission.Authenticated, sealed []byte, observed netip.Addr, now time.Time) (granted admission.Granted, secret abe.Secret, err error) {
	req, err := a.openRequest(who, sealed)
	if err != nil {
		return granted, secret, err
	}
	labels, err := a.labels(who, req, now)
	if err != nil {
		return granted, secret, err
	}
	if err := a.claimed(who, req, now); err != nil {
		return granted, secret, err
	}
	if err := a.wantReaders(labels, now); err != nil {
		return granted, secret, err
	}
	slot, err := a.slot(labels, now)
	if err != nil {
		return granted, secret, err
	}
	former, listed := a.entryOf(who.PID, now)
	c, signed, err := a.admit(who, req, membership{labels: labels, slot: slot}, now)
	if err != nil {
		a.giveBack(slot) // nobody has seen it
		return granted, secret, err
	}
	memo := a.memoOf(labels, now) // before: what comes meanwhile is sent again, not left out
	g, err := a.assemble(c, signed, slot.Slot, observed, now)
	if err != nil {
		return granted, secret, err
	}
	a.tellOfFormer(former, listed, req)
	a.log.Info("admitted", "peer", c.Name, "pid", c.PID().Short(), "addr", c.Addr4(), "labels", service.LabelText(labels), "secret", who.SecretID, "from", observed)
	if others := a.roster.namesakes(c.Name, c.PID(), now); len(others) > 0 {
		a.log.Warn("another machine has this name, too; both are reachable by address", "peer", c.Name, "pid", c.PID().Short(), "others", others)
	}
	return admission.Granted{Bytes: g.Encode(), Expires: now.Add(sessionLife), Memo: memo.of(c, slot.cohort)}, slot.Secret, nil
}

// openRequest opens the sealed request: that the peer could seal it proves that
// its ABE parameters are ours, nothing more. Who it is, TLS and SRP have shown.
func (a *authority) openRequest(who admission.Authenticated, sealed []byte) (provision.Request, error) {
	t, err := a.target(a.provisioning(), time.Now())
	if err != nil {
		return provision.Request{}, err
	}
	plain, err := a.keys.Open(sealed, "request", who.IDKey, provision.MaxRequest)
	if err != nil {
		return provision.Request{}, &admission.Refusal{Code: admission.CodeRequest, Detail: "it was not sealed to " + t.target.Policy.String()}
	}
	req, err := provision.ParseRequest(plain)
	if err != nil {
		return req, &admission.Refusal{Code: admission.CodeRequest, Detail: err.Error()}
	}
	if req.PID != who.PID {
		return req, &admission.Refusal{Code: admission.CodeRequest, Detail: "it names another peer"}
	}
	return req, nil
}

// labels decides which labels the machine gets: within its secret's scope and
// within ours.
func (a *authority) labels(who admission.Authenticated, req provision.Request, now time.Time) (map[string]string, error) {
	s, ok := a.secrets[who.SecretID]
	if !ok {
		return nil, &admission.Refusal{Code: admission.CodeWrongSecret}
	}
	if s.Expires != 0 && now.Unix() >= s.Expires {
		return nil, &admission.Refusal{Code: admission.CodeExpiredSecret}
	}
	labels, err := s.Grants(req.Labels)
	var scope *service.ScopeError
	if errors.As(err, &scope) {
		return nil, &admission.Refusal{Code: admission.CodeScope, Detail: scope.Error()}
	}
	if err != nil {
		return nil, &admission.Refusal{Code: admission.CodeRequest, Detail: err.Error()}
	}
	for k, v := range labels {
		if !a.self().MayGrant(k, v) {
			return nil, &admission.Refusal{Code: admission.CodeScope, Detail: fmt.Sprintf("label %s=%s is outside the scope that the owner gave this super peer", k, v)}
		}
	}
	return labels, nil
}

// claimed says whether a request comes with the machine's own word.
func (a *authority) claimed(who admission.Authenticated, req provision.Request, now time.Time) error {
	if !req.Claim.Holds(who.IDKey, a.trust().Service, a.self().PID(), req.Instance, now.Unix()) {
		return &admission.Refusal{Code: admission.CodeRequest, Detail: "its claim is not for this super peer, or not of now"}
	}
	return nil
}

// membership is what a machine is to get.
type membership struct {
	labels map[string]string
	slot   prepared
	ticket *ledger.Ticket // that stood in for the secret
}

// admit leases the address, signs the credential and enters the member. Only
// what is on disk is granted, and only what can be granted comes there; nothing
// is locked while it is signed and written. Release after Commit does nothing,
// so it is the only way back.
func (a *authority) admit(who admission.Authenticated, req provision.Request, what membership, now time.Time) (*service.Credential, []byte, error) {
	if err := a.mayHandOut(now); err != nil {
		return nil, nil, err
	}
	r, err := a.reserve(who, now)
	if err != nil {
		return nil, nil, err
	}
	defer r.Release()
	if who.ByDatagram && !goesOn(r.Before, req) { // another one was quicker
		return nil, nil, errNotBrief
	}
	c := a.credential(who, req, what, r, now)
	if err := a.trust().Policy.Revoked(c); err != nil {
		return nil, nil, &admission.Refusal{Code: admission.CodeRevoked}
	}
	signed, err := service.SignCredential(*c, a.key)
	if err != nil {
		return nil, nil, &admission.Refusal{Code: admission.CodeRequest, Detail: err.Error()}
	}
	entry := c.Member()
	entry.Claim = req.Claim
	err = r.Commit(ledger.Grant{Member: entry, Admitted: c.AdmittedAt, Slot: c.Slot, Cohort: what.slot.cohort, SlotKey: what.slot.key, Ticket: what.ticket})
	if err != nil {
		return nil, nil, fmt.Errorf("superpeer: membership not saved: %w", err)
	}
	if e := a.ledger.Member(who.PID); e != nil {
		a.roster.own(e)
	}
	a.touch()
	if a.trust().Policy.Revoked(c) != nil { // a policy that came meanwhile could not take out who was just being admitted
		a.dropRevoked()
		a.roster.dropOwn(who.PID) // also if somebody else has taken it out, between our two steps
		return nil, nil, &admission.Refusal{Code: admission.CodeRevoked}
	}
	return c, signed, nil
}

// reserve takes an address, and a place in the counts.
func (a *authority) reserve(who admission.Authenticated, now time.Time) (*ledger.Reservation, error) {
	claim := ledger.Claim{PID: who.PID, SecretID: who.SecretID, Continued: who.Continued}
	r, err := a.ledger.Reserve(claim, now, func(v ledger.View) error { return a.room(v, who.SecretID) })
	var restored *ledger.RestoredError
	switch {
	case errors.Is(err, ledger.ErrFull):
		return nil, &admission.Refusal{Code: admission.CodeAddresses, Other: a.other()}
	case errors.As(err, &restored):
		return nil, &admission.Refusal{Code: admission.CodeAddresses, Other: a.other(), Detail: "it was restored from what is left of its members, and has addresses for new machines from " + restored.Until.UTC().Format(time.RFC3339) + " on"}
	}
	return r, err
}

// credential is what the machine is to be, at the reserved address.
func (a *authority) credential(who admission.Authenticated, req provision.Request, what membership, r *ledger.Reservation, now time.Time) *service.Credential {
	epoch := a.epoch(now)
	if old := r.Before; old != nil {
		if req.Instance != old.Member.Instance && now.Unix() <= old.Member.Issued {
			now = time.Unix(old.Member.Issued+1, 0) // the order of two processes must show
		}
		if old.SecretID == who.SecretID {
			// "Everyone admitted with this secret since" counts from the first time.
			who.Admitted = time.Unix(old.Admitted, 0)
		}
	}
	if t := r.Buried; t != nil && now.Unix() <= t.Issued {
		now = time.Unix(t.Issued+1, 0) // its tombstone is not about this admission
	}
	a4 := r.Addr.As4()
	return &service.Credential{
		Service: a.trust().Service, Key: who.IDKey, Name: req.Name, VM: req.VM, Labels: what.labels,
		Slot: what.slot.ID[:], Address4: a4[:], SecretID: who.SecretID, AdmittedAt: who.Admitted.Unix(),
		NotBefore: now.Unix(), NotAfter: min(now.Add(credentialLife).Unix(), a.self().Expires),
		Epoch: epoch, Generation: a.trust().Descriptor.Generation, Instance: req.Instance,
	}
}

// other names another super peer that admits, "" if there is none.
func (a *authority) other() string {
	for _, s := range a.trust().Descriptor.SuperPeers {
		if s.Has(service.RoleAdmit) && s.PID() != a.self().PID() {
			return s.Endpoints[0]
		}
	}
	return ""
}

// assemble gathers keys and addresses into the grant (step v).
func (a *authority) assemble(c *service.Credential, signed []byte, slot *abe.Slot, observed netip.Addr, now time.Time) (provision.Grant, error) {
	group, err := a.groupKeys(now)
	if err != nil {
		return provision.Grant{}, err
	}
	g := provision.Grant{
		Credential: signed, AttributeKey: slot.Key, SlotCiphertext: slot.Ciphertext, Policy: a.policy(),
		Epoch: group.epoch, EpochKey: group.key, Entries: a.entries(), Observed: observed,
		SessionExpires: now.Add(sessionLife).Unix(), Epochs: group.signed, Keys: group.others,
	}
	if p, ok := discovery.PolicyOf(a.rules(), c.Labels); ok {
		t, err := a.target(p, now)
		if err != nil {
			return g, err
		}
		g.Publish = t.signed
		if group.next != 0 {
			if g.PublishNext, err = a.nextStatement(t, group.next); err != nil {
				return g, err
			}
		}
	}
	g.Envelopes = a.envelopes(abe.Attributes{Service: a.trust().Service, Generation: c.Generation, Slot: slot.ID, Labels: discovery.Attributes(a.rules(), c.Labels)})
	return g, nil
}

// list answers a peer-list request, sealed to the requester's slot, whose secret
// is given (step vii).
func (a *authority) list(who admission.Authenticated, secret abe.Secret, now time.Time) ([]byte, error) {
	m := a.ledger.Member(who.PID)
	if m == nil || len(m.Slot) != abe.SlotSize {
		return nil, errors.New("superpeer: peer list asked for before a grant")
	}
	plain := a.roster.list(a.rules(), m.Member.Labels, now)
	t := abe.Target{Service: a.trust().Service, Generation: a.trust().Descriptor.Generation, Policy: abe.ForSlot(abe.SlotID(m.Slot))}
	epoch := a.epoch(now)
	k, _ := a.epochKey(epoch)
	pair, err := abe.DerivePolicyKey(secret, k, t, epoch)
	if err != nil {
		return nil, err
	}
	st := abe.Statement{Target: t, Epoch: epoch, Public: pair.Public()}
	return discovery.Seal(st, "list", who.IDKey, plain)
}

// isMember says whether we or another super peer list a machine.
func (a *authority) isMember(pid id.ID) bool {
	return a.ledger.Member(pid) != nil || a.others.Has(pid)
}

// touch says that the directory needs publishing.
func (a *authority) touch() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func (a *authority) rules() []filter.Rule { return a.trust().Policy.Rules }
