package superpeer

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/directory"
	"icvpn/internal/discovery"
	"icvpn/internal/filter"
	"icvpn/internal/id"
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
	// slotDepth is how many ABE keys are kept ready for each label set.
	slotDepth = 4
)

// authority grants memberships of one service. Its methods are called from
// many admissions at once.
type authority struct {
	// set at start
	trust     *service.Trust
	policy    service.Signed
	docs      service.Documents
	self      service.SuperPeer
	key       ed25519.PrivateKey
	abe       *abe.Authority
	ring      *seal.Ring
	epoch     uint32
	secrets   map[string]service.EnrolmentSecret
	verifiers map[string]admission.Verifier
	slots     *abe.Pool
	keys      *discovery.Keys
	save      func([]byte) error // persists members and leases; called with mu held
	entries   func() []provision.Entry
	targets   targets
	tickets   tickets
	log       *slog.Logger

	mu      sync.Mutex
	leases  *leases
	own     map[id.ID]member
	void    map[id.ID]directory.Tombstone // whom we admitted and took out
	others  *directory.Table              // whom the other super peers list; has a lock of its own
	used    map[string]uint32             // admissions by secret ID
	changed chan struct{}                 // the directory needs publishing; capacity 1
}

// member is one machine that we admitted.
type member struct {
	_        struct{} `cbor:",toarray"`
	Member   service.Member
	SecretID string
	Slot     []byte // of the last grant
	Admitted int64  // Unix seconds
}

// grant makes a machine a member (steps iv to vi). observed is the address it
// came from.
func (a *authority) grant(who admission.Authenticated, sealed []byte, observed netip.Addr, now time.Time) (admission.Granted, error) {
	req, err := a.openRequest(who, sealed)
	if err != nil {
		return admission.Granted{}, err
	}
	labels, err := a.labels(who, req, now)
	if err != nil {
		return admission.Granted{}, err
	}
	slot, err := a.slot(labels)
	if err != nil {
		return admission.Granted{}, err
	}
	c, signed, err := a.admit(who, req, labels, slot.ID, now)
	if err != nil {
		a.slots.Add(slot) // nobody has seen it
		return admission.Granted{}, err
	}
	g, err := a.assemble(c, signed, slot, observed, now)
	if err != nil {
		return admission.Granted{}, err
	}
	a.log.Info("admitted", "peer", c.Name, "pid", c.PID().Short(), "addr", c.Addr4(), "labels", service.LabelText(labels), "secret", who.SecretID, "from", observed)
	if others := a.namesakes(c.Name, c.PID(), now); len(others) > 0 {
		a.log.Warn("another machine has this name, too; both are reachable by address", "peer", c.Name, "pid", c.PID().Short(), "others", others)
	}
	return admission.Granted{Bytes: g.Encode(), Expires: now.Add(sessionLife), Memo: a.memoOf(labels).of(c)}, nil
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
		if !a.self.MayGrant(k, v) {
			return nil, &admission.Refusal{Code: admission.CodeScope, Detail: fmt.Sprintf("label %s=%s is outside the scope that the owner gave this super peer", k, v)}
		}
	}
	return labels, nil
}

// admit leases the address, signs the credential and enters the member. Only
// what was saved is granted, so a crash between the two forgets nobody; and only
// what can be granted is saved.
func (a *authority) admit(who admission.Authenticated, req provision.Request, labels map[string]string, slot abe.SlotID, now time.Time) (*service.Credential, []byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !who.Continued && !req.Claim.Holds(who.IDKey, a.trust.Service, a.self.PID(), req.Instance, now.Unix()) {
		return nil, nil, &admission.Refusal{Code: admission.CodeRequest, Detail: "its claim is not for this super peer, or not of now"}
	}
	old, known := a.own[who.PID]
	renewal := known && old.SecretID == who.SecretID || who.Continued
	if known && req.Instance != old.Member.Instance && now.Unix() <= old.Member.Issued {
		now = time.Unix(old.Member.Issued+1, 0) // the order of two processes must show
	}
	if renewal && known {
		// "Everyone admitted with this secret since" counts from the first time.
		who.Admitted = time.Unix(old.Admitted, 0)
	}
	if err := a.quotaLocked(who.SecretID, renewal); err != nil {
		return nil, nil, err
	}
	end := min(now.Add(credentialLife).Unix(), a.self.Expires)
	c := &service.Credential{
		Service: a.trust.Service, Key: who.IDKey, Name: req.Name, VM: req.VM, Labels: labels,
		Slot: slot[:], Address4: make([]byte, 4), SecretID: who.SecretID, AdmittedAt: who.Admitted.Unix(),
		NotBefore: now.Unix(), NotAfter: end, Epoch: a.epoch, Generation: a.trust.Descriptor.Generation,
		Instance: req.Instance,
	}
	if err := a.trust.Policy.Revoked(c); err != nil {
		return nil, nil, &admission.Refusal{Code: admission.CodeRevoked}
	}
	if err := a.roomLocked(who.PID, who.SecretID, now.Unix()); err != nil {
		return nil, nil, err
	}
	leased := a.leases.has(who.PID)
	signed, err := a.enterLocked(c, req.Claim, end, now)
	if err != nil {
		if !leased { // who is refused holds no address
			a.leases.release(who.PID)
		}
		if known {
			a.own[who.PID] = old
		} else {
			delete(a.own, who.PID)
		}
		return nil, nil, err
	}
	a.touch()
	return c, signed, nil
}

// enterLocked leases an address, signs c and saves the member. On an error the
// caller puts back what was.
func (a *authority) enterLocked(c *service.Credential, claim service.Claim, end int64, now time.Time) ([]byte, error) {
	addr, err := a.leases.take(c.PID(), now.Unix(), end)
	if err != nil {
		return nil, &admission.Refusal{Code: admission.CodeAddresses, Other: a.other()}
	}
	a4 := addr.As4()
	c.Address4 = a4[:]
	signed, err := service.SignCredential(*c, a.key)
	if err != nil {
		return nil, &admission.Refusal{Code: admission.CodeRequest, Detail: err.Error()}
	}
	old, known := a.own[c.PID()]
	entry := c.Member()
	entry.Claim = claim
	a.own[c.PID()] = member{Member: entry, SecretID: c.SecretID, Slot: c.Slot, Admitted: c.AdmittedAt}
	used := a.used[c.SecretID]
	if !known || old.SecretID != c.SecretID {
		a.used[c.SecretID]++
	}
	if err := a.save(a.encodeLocked()); err != nil {
		a.used[c.SecretID] = used
		return nil, fmt.Errorf("superpeer: membership not saved: %w", err)
	}
	return signed, nil
}

func (a *authority) quotaLocked(secretID string, renewal bool) error {
	if renewal {
		return nil
	}
	if q := a.secrets[secretID].Quota; q != 0 && a.used[secretID] >= q {
		return &admission.Refusal{Code: admission.CodeQuota}
	}
	return nil
}

// other names another super peer that admits, "" if there is none.
func (a *authority) other() string {
	for _, s := range a.trust.Descriptor.SuperPeers {
		if s.Has(service.RoleAdmit) && s.PID() != a.self.PID() {
			return s.Endpoints[0]
		}
	}
	return ""
}

// slot returns a ready attribute key for labels, or makes one.
func (a *authority) slot(labels map[string]string) (*abe.Slot, error) {
	attrs := discovery.Attributes(a.rules(), labels)
	if s, ok := a.slots.Take(attrs); ok {
		return s, nil
	}
	return a.abe.NewSlot(nil, attrs, a.trust.Descriptor.Generation)
}

// assemble gathers keys and addresses into the grant (step v).
func (a *authority) assemble(c *service.Credential, signed []byte, slot *abe.Slot, observed netip.Addr, now time.Time) (provision.Grant, error) {
	k, ok := a.ring.Key(now, a.epoch)
	if !ok {
		return provision.Grant{}, fmt.Errorf("superpeer: no key of epoch %d", a.epoch)
	}
	g := provision.Grant{
		Credential: signed, AttributeKey: slot.Key, SlotCiphertext: slot.Ciphertext, Policy: a.policy,
		Epoch: a.epoch, EpochKey: k.Bytes(), Entries: a.entries(), Observed: observed,
		SessionExpires: now.Add(sessionLife).Unix(),
	}
	if p, ok := discovery.PolicyOf(a.rules(), c.Labels); ok {
		t, err := a.target(p, now)
		if err != nil {
			return g, err
		}
		g.Publish = t.signed
	}
	g.Envelopes = a.envelopes(abe.Attributes{Service: a.trust.Service, Generation: c.Generation, Slot: slot.ID, Labels: discovery.Attributes(a.rules(), c.Labels)})
	return g, nil
}

// list answers a peer-list request, sealed to the requester's slot (step vii).
func (a *authority) list(who admission.Authenticated, now time.Time) ([]byte, error) {
	a.mu.Lock()
	m, ok := a.own[who.PID]
	l := provision.List{Members: a.membersLocked(now)}
	a.mu.Unlock()
	if !ok || len(m.Slot) != abe.SlotSize {
		return nil, errors.New("superpeer: peer list asked for before a grant")
	}
	plain := l.Encode()
	for len(plain) > provision.MaxList { // the directory has the rest
		l.Members = l.Members[:len(l.Members)*3/4]
		plain = l.Encode()
	}
	t := abe.Target{Service: a.trust.Service, Generation: a.trust.Descriptor.Generation, Policy: abe.ForSlot(abe.SlotID(m.Slot))}
	secret, err := a.abe.PolicySeed(t)
	if err != nil {
		return nil, err
	}
	k, _ := a.epochKey(a.epoch)
	pair, err := abe.DerivePolicyKey(secret, k, t, a.epoch)
	if err != nil {
		return nil, err
	}
	st := abe.Statement{Target: t, Epoch: a.epoch, Public: pair.Public()}
	return discovery.Seal(st, "list", who.IDKey, plain)
}

// membersLocked returns the members that every known super peer lists, ours
// first.
func (a *authority) membersLocked(now time.Time) (all []service.Member) {
	for _, m := range a.own {
		if now.Unix() < m.Member.NotAfter {
			entry := m.Member
			entry.Claim = nil
			all = append(all, entry)
		}
	}
	for _, e := range a.others.Members(now) { // their super peers may be gone
		all = append(all, e.Member())
	}
	return all
}

// namesakes returns the other members with a name, by the first digits of their
// PIDs. Names are chosen by machines: two with one are a mistake, and no reason
// to refuse either.
func (a *authority) namesakes(name string, pid id.ID, now time.Time) (others []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.membersLocked(now) {
		if m.Name == name && m.PID() != pid && !slices.Contains(others, m.PID().Short()) {
			others = append(others, m.PID().Short())
		}
	}
	return others
}

// isMember says whether we or another super peer list a machine.
func (a *authority) isMember(pid id.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.own[pid]; ok {
		return true
	}
	return a.others.Has(pid)
}

// touch says that the directory needs publishing.
func (a *authority) touch() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func (a *authority) rules() []filter.Rule { return a.trust.Policy.Rules }
