package service

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"icvpn/internal/id"
)

// Trust is the verified chain of one service. It is immutable: a newer
// descriptor or policy makes a new one.
type Trust struct {
	Service    id.ID
	Root       Root
	Descriptor *Descriptor
	Policy     *Policy // nil until the policy is known
}

// Expired says whether what the owners have signed about the service as a whole is
// over.
func (t *Trust) Expired(now time.Time) bool {
	return now.Unix() >= t.Root.Expires || now.Unix() >= t.Descriptor.Expires
}

// Documents are the owner-signed bytes of a service, as stored and sent.
type Documents struct {
	_          struct{} `cbor:",toarray"`
	Roots      []Signed
	Descriptor Signed
}

// ErrRollback is returned for a document older than one seen before.
var ErrRollback = errors.New("service: rolled back")

// ErrIssuer is returned for a credential whose issuer the descriptor does not
// list as one that admits: it was removed, or a newer descriptor added it.
var ErrIssuer = errors.New("service: credential of an unknown issuer")

// Open verifies docs against the ServiceID. minSeq is the lowest acceptable
// descriptor sequence number: from the token, or the highest one seen.
func Open(docs Documents, service id.ID, minSeq uint64, now time.Time) (*Trust, error) {
	root, err := openRoots(docs.Roots, service, now)
	if err != nil {
		return nil, err
	}
	d, err := openDescriptor(docs.Descriptor, root, service, now)
	if err != nil {
		return nil, err
	}
	if d.Seq < minSeq {
		return nil, fmt.Errorf("%w: descriptor has sequence number %d, at least %d is known to exist", ErrRollback, d.Seq, minSeq)
	}
	return &Trust{Service: service, Root: root, Descriptor: d}, nil
}

// WithPolicy returns t with the verified policy s.
func (t *Trust) WithPolicy(s Signed, now time.Time) (*Trust, error) {
	p, err := openPolicy(s, t.Root, t.Service, now)
	if err != nil {
		return nil, err
	}
	if t.Policy != nil && p.Sequence < t.Policy.Sequence {
		return nil, fmt.Errorf("%w: policy has sequence number %d, %d is known", ErrRollback, p.Sequence, t.Policy.Sequence)
	}
	u := *t
	u.Policy = p
	return &u, nil
}

// AuthorityKey returns the key of a super peer that the owners made an ABE
// authority and that has not expired at now.
func (t *Trust) AuthorityKey(pid id.ID, now time.Time) (ed25519.PublicKey, bool) {
	s, ok := t.Descriptor.SuperPeer(pid)
	if !ok || !s.Has(RoleAuthority) || now.Unix() >= s.Expires {
		return nil, false
	}
	return s.Key, true
}
