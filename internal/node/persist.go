package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/id"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// keptMembership is a membership in the sealed store (docs/protocol/state.md).
type keptMembership struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Documents service.Documents
	Grant     []byte
	SuperPeer string
	OffsetMS  int64
	Ticket    []byte // of key continuity
	TicketKey []byte // K_c
	TicketEnd int64  // Unix seconds
}

const maxKept = 256 << 10

// Encode returns the bytes to keep; they are secret.
func (m *Membership) Encode() []byte {
	return wire.Marshal(keptMembership{
		Version: 1, Documents: m.Documents, Grant: m.Grant.Encode(), SuperPeer: m.SuperPeer, OffsetMS: m.Offset.Milliseconds(),
		Ticket: m.Session.Ticket, TicketKey: m.Session.Key[:], TicketEnd: m.Session.Expires.Unix(),
	})
}

// DecodeMembership reads what Encode wrote and verifies the whole chain again:
// what has expired since serves no more.
func DecodeMembership(b []byte, s id.ID, key ed25519.PrivateKey, now time.Time) (*Membership, error) {
	var k keptMembership
	if err := wire.Unmarshal(b, &k, maxKept); err != nil {
		return nil, err
	}
	if k.Version != 1 {
		return nil, fmt.Errorf("node: kept membership has version %d, this binary knows 1", k.Version)
	}
	m := &Membership{Documents: k.Documents, SuperPeer: k.SuperPeer, Offset: time.Duration(k.OffsetMS) * time.Millisecond}
	m.Session = admission.Session{Ticket: k.Ticket, Expires: time.Unix(k.TicketEnd, 0)}
	copy(m.Session.Key[:], k.TicketKey)
	now = now.Add(m.Offset)
	var err error
	if m.Grant, err = provision.ParseGrant(k.Grant); err != nil {
		return nil, err
	}
	if m.Trust, err = service.Open(k.Documents, s, 0, now); err != nil {
		return nil, err
	}
	if m.Trust, err = m.Trust.WithPolicy(m.Grant.Policy, now); err != nil {
		return nil, err
	}
	if m.Credential, err = m.Trust.VerifyCredential(now, m.Grant.Credential, m.Grant.Epoch); err != nil {
		return nil, err
	}
	if !m.Credential.Key.Equal(key.Public()) {
		return nil, errors.New("node: kept membership is of another identity")
	}
	m.Key, err = abe.ParseKey(m.Grant.AttributeKey)
	return m, err
}

// SuperPeerOf returns the endpoint that admitted us last, from what Encode
// wrote; "" if it cannot be read.
func SuperPeerOf(b []byte) string {
	var k keptMembership
	if wire.Unmarshal(b, &k, maxKept) != nil {
		return ""
	}
	return k.SuperPeer
}
