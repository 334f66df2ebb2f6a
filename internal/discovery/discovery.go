// Package discovery ties the owner's access rules to CP-ABE: who may reach a
// machine may read its contact record, and nobody else.
//
//	rules ─ whose "to" matches the machine ─> selectors ─> abe.Policy ─> Target
//	                                                                       │
//	 db machine: seals its contact to the Target's public key <─ Statement ┤
//	app machine: opens the Envelope once, then each contact <── Envelope ──┘
//
// Super peers and peers compute the same policy from the same signed rules, so
// a policy needs no lookup of its own. The package is pure.
package discovery

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"icvpn/abe"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// Salts of BEP 44 items, so that one key signs items of several kinds.
var (
	SaltContact   = []byte("c")       // under a member's key
	SaltDirectory = []byte("members") // under a super peer's key
	SaltAdvert    = []byte("advert")  // under a key of a universal overlay's member
)

// SaltEnvelope returns the salt of a target's envelope under an authority's key.
func SaltEnvelope(t abe.Target) []byte {
	tid := t.ID()
	return append([]byte("e"), tid[:]...)
}

// SaltService returns the salt of a service's documents under a super peer's
// key in the universal overlay.
func SaltService(s id.ID) []byte { return append([]byte("s"), s[:]...) }

// SaltPolicy returns the salt of a service's policy, beside its other documents.
func SaltPolicy(s id.ID) []byte { return append([]byte("p"), s[:]...) }

// SaltEpochs returns the salt of what the owners say of a service's group keys.
func SaltEpochs(s id.ID) []byte { return append([]byte("k"), s[:]...) }

// SaltRelease returns the salt of a service's release manifest under release keys.
// Under others it is another object, whose numbers begin anew.
func SaltRelease(s, keys id.ID) []byte { return append(append([]byte("r"), s[:]...), keys[:]...) }

// memberLabel is in every member's attribute key, so that "any member" is a
// policy. It is no label of the service: rules cannot name it.
const memberLabel, memberValue = "icvpn-member", "yes"

// Members returns the policy that every member satisfies.
func Members() abe.Policy { return abe.Label(memberLabel, memberValue) }

// Schema returns the label keys that every attribute key of the service
// carries: those the rules ask for, sorted.
func Schema(rules []filter.Rule) []string {
	keys := map[string]bool{memberLabel: true}
	for _, r := range rules {
		for k := range r.From {
			keys[k] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// Attributes returns the labels of an attribute key: one value for each key of
// the schema, "" where the machine has none. Labels that no rule asks for give
// no access and are left out.
func Attributes(rules []filter.Rule, labels map[string]string) map[string]string {
	out := map[string]string{}
	for _, k := range Schema(rules) {
		out[k] = labels[k]
	}
	out[memberLabel] = memberValue
	return out
}

// LabelsOf returns what of an attribute key's labels somebody has to grant: all
// but what every member has, and what a machine has none of.
func LabelsOf(attrs map[string]string) map[string]string {
	out := maps.Clone(attrs)
	maps.DeleteFunc(out, func(k, v string) bool { return k == memberLabel && v == memberValue || v == "" })
	return out
}

// PolicyOf returns the policy of those who may discover a machine with these
// labels; false when the rules let nobody.
func PolicyOf(rules []filter.Rule, labels map[string]string) (abe.Policy, bool) {
	var any []abe.Policy
	for _, s := range filter.DiscoverySelectors(rules, labels) {
		if len(s) == 0 {
			return Members(), true
		}
		var all []abe.Policy
		for _, k := range slices.Sorted(maps.Keys(s)) {
			all = append(all, abe.Label(k, s[k]))
		}
		any = append(any, abe.And(all...))
	}
	if len(any) == 0 {
		return abe.Policy{}, false
	}
	p := abe.Or(any...)
	return p, p.Err() == nil
}

// policyMark is what a sealed record says of its policy, for the choice of key.
func policyMark(t abe.Target) []byte {
	h := sha256.Sum256([]byte(t.Policy.String()))
	return h[:8]
}

func info(kind string) []byte { return wire.Label("icvpn/1 record " + kind) }

// aad binds a record to its place: nobody can move it to another machine's.
func aad(s id.ID, owner ed25519.PublicKey) []byte { return append(s[:], owner...) }

// Seal seals a record's content for a statement's target. kind is "contact" or
// "members", owner the key that signs the item.
func Seal(st abe.Statement, kind string, owner ed25519.PublicKey, content []byte) ([]byte, error) {
	ct, err := abe.Seal(st.Public, info(kind), aad(st.Target.Service, owner), content)
	if err != nil {
		return nil, err
	}
	return wire.Marshal(service.Sealed{Version: 1, Epoch: st.Epoch, Generation: st.Target.Generation, Policy: policyMark(st.Target), Ciphertext: ct}), nil
}

// ErrNotAllowed is returned by Keys.Open when no held key opens a record: the
// access rules do not let this machine see it.
var ErrNotAllowed = errors.New("discovery: no key of this machine opens the record")

// Keys are the policy keys one machine holds: seeds from opened envelopes, with
// the epoch's group key mixed in when needed. Safe for concurrent use.
type Keys struct {
	// set at start
	service  id.ID
	key      *abe.Key
	verify   abe.Verifier
	epochKey func(epoch uint32) (abe.Secret, bool)

	mu    sync.Mutex
	seeds map[string]seed // by policyMark and generation
}

type seed struct {
	target abe.Target
	secret abe.Secret
	epoch  uint32
	key    *abe.PolicyKey // of epoch
}

// NewKeys returns the keys of a machine. epochKey returns K_e.
func NewKeys(s id.ID, key *abe.Key, verify abe.Verifier, epochKey func(uint32) (abe.Secret, bool)) *Keys {
	return &Keys{service: s, key: key, verify: verify, epochKey: epochKey, seeds: map[string]seed{}}
}

// AddEnvelope opens an authority's envelope, some 10 ms, and keeps its seed.
func (k *Keys) AddEnvelope(b []byte, now time.Time) (abe.Target, error) {
	e, secret, err := abe.OpenEnvelope(b, k.key, k.verify, now)
	if err != nil {
		return abe.Target{}, err
	}
	k.AddSeed(e.Target, secret)
	return e.Target, nil
}

// AddSeed keeps a seed got another way: an authority derives its own.
func (k *Keys) AddSeed(t abe.Target, s abe.Secret) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seeds[index(policyMark(t), t.Generation)] = seed{target: t, secret: s}
}

// Has says whether the seed of t is held.
func (k *Keys) Has(t abe.Target) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.seeds[index(policyMark(t), t.Generation)]
	return ok
}

func index(mark []byte, generation uint32) string {
	return fmt.Sprintf("%x.%d", mark, generation)
}

// Open opens a sealed record of at most limit bytes. kind and owner are those
// of Seal; the item's signature by owner has been verified.
func (k *Keys) Open(b []byte, kind string, owner ed25519.PublicKey, limit int) ([]byte, error) {
	var s service.Sealed
	if err := wire.Unmarshal(b, &s, limit); err != nil {
		return nil, fmt.Errorf("discovery: record: %w", err)
	}
	if s.Version != 1 || len(s.Policy) != 8 {
		return nil, fmt.Errorf("discovery: record of version %d is not readable", s.Version)
	}
	key, err := k.policyKey(s)
	if err != nil {
		return nil, err
	}
	return key.Open(info(kind), aad(k.service, owner), s.Ciphertext)
}

func (k *Keys) policyKey(s service.Sealed) (*abe.PolicyKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := index(s.Policy, s.Generation)
	sd, ok := k.seeds[at]
	if !ok {
		return nil, ErrNotAllowed
	}
	if sd.key != nil && sd.epoch == s.Epoch {
		return sd.key, nil
	}
	ek, ok := k.epochKey(s.Epoch)
	if !ok {
		return nil, fmt.Errorf("discovery: record is of epoch %d, whose key is not held", s.Epoch)
	}
	key, err := abe.DerivePolicyKey(sd.secret, ek, sd.target, s.Epoch)
	if err != nil {
		return nil, err
	}
	sd.key, sd.epoch = key, s.Epoch
	k.seeds[at] = sd
	return key, nil
}

// Wipe erases every seed.
func (k *Keys) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for at, s := range k.seeds {
		s.secret.Wipe()
		delete(k.seeds, at)
	}
}
