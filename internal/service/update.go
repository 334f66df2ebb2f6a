package service

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

const (
	maxUpdate     = 6 * MaxSigned
	updateVersion = 1
)

// updateMagic starts an update file.
var updateMagic = []byte("icvpn update 1\n")

// Update is the newest of everything that the owners have signed, to be handed to
// a running super peer, which hands it on. It holds no secret, and nobody has to
// vouch for the way it came: each document in it counts by the owners' signatures
// and its own sequence number.
type Update struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Service    id.ID
	Documents  Documents
	Policy     Signed
	Epochs     Signed // empty until the owners have spoken of one
	UniverseID id.ID  // of the private universal overlay
	Universe   Documents
}

// NewUpdate gathers what a hand-over has of the owners'.
func NewUpdate(h HandOver) Update {
	return Update{
		Version: updateVersion, Service: h.Service.ID, Documents: h.Service.Documents, Policy: h.Policy,
		Epochs: h.Epochs, UniverseID: h.Universe.ID, Universe: h.Universe.Documents,
	}
}

// Signed returns the document of a type beside the descriptor, if there is one.
func (u Update) Signed(typ string) (Signed, bool) {
	for _, s := range []Signed{u.Policy, u.Epochs} {
		if s.Type == typ {
			return s, true
		}
	}
	return Signed{}, false
}

// Encode returns the bytes of an update file: magic ‖ CBOR.
func (u Update) Encode() []byte { return append(bytes.Clone(updateMagic), wire.Marshal(u)...) }

// ParseUpdate reads what Encode returned. Nothing in it is verified.
func ParseUpdate(b []byte) (u Update, err error) {
	body, ok := bytes.CutPrefix(b, updateMagic)
	if !ok {
		return u, errors.New("this is not an icvpn update file of version 1")
	}
	if err := wire.Unmarshal(body, &u, maxUpdate); err != nil {
		return u, fmt.Errorf("the update file cannot be read: %w", err)
	}
	if u.Version != updateVersion {
		return u, fmt.Errorf("the update file has version %d, this binary knows %d", u.Version, updateVersion)
	}
	return u, nil
}

// MaxUpdate is the most bytes that an update file has.
var MaxUpdate = maxUpdate + len(updateMagic)

// OpenSignedPolicy reads a policy as it stands in the overlays and returns the
// chain with it. It is an error if that is not newer than the one of t.
func (t *Trust) OpenSignedPolicy(b []byte, now time.Time) (*Trust, Signed, error) {
	var s Signed
	if err := wire.Unmarshal(b, &s, MaxSigned+maxSignatures*128); err != nil {
		return nil, s, fmt.Errorf("service: policy: %w", err)
	}
	u, err := t.WithPolicy(s, now)
	if err == nil && t.Policy != nil && u.Policy.Sequence == t.Policy.Sequence {
		err = fmt.Errorf("%w: policy of sequence number %d is known", ErrStale, u.Policy.Sequence)
	}
	return u, s, err
}
