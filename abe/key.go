package abe

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cloudflare/circl/abe/cpabe/tkn20"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Errors on which callers act differently.
var (
	// ErrNoMatch: the attributes of the key do not satisfy the policy; the
	// access rules say no, and asking again will not help.
	ErrNoMatch = errors.New("abe: the key does not match the policy")

	// ErrGeneration: sealed for another generation than the key's; renew.
	ErrGeneration = errors.New("abe: sealed for another generation")

	// ErrExpired: the envelope or statement has expired; fetch a newer one.
	ErrExpired = errors.New("abe: expired")
)

// Key is an attribute key, parsed once. It is safe for concurrent use.
type Key struct {
	attrs Attributes
	raw   []byte
	sk    *tkn20.AttributeKey
}

// keyWire is the layout in docs/protocol/abe.md.
type keyWire struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Service    id.ID
	Generation uint32
	SuperPeer  id.ID
	Slot       SlotID
	VM         string
	Labels     map[string]string
	TKN        []byte
}

// ParseKey reads what Bytes wrote, some 5 ms; keep the result. The attributes
// in b are the issuer's word: only opening something proves the key.
func ParseKey(b []byte) (*Key, error) {
	var k keyWire
	if err := wire.Unmarshal(b, &k, maxKeySize); err != nil {
		return nil, errKey
	}
	if k.Version != 1 || k.Labels == nil {
		return nil, errKey
	}
	attrs := Attributes{
		Service: k.Service, Generation: k.Generation, SuperPeer: k.SuperPeer,
		Slot: k.Slot, VM: k.VM, Labels: k.Labels,
	}
	if err := attrs.validate(); err != nil {
		return nil, err
	}
	if err := checkKey(k.TKN, attrs.tknMap()); err != nil {
		return nil, err
	}
	sk := new(tkn20.AttributeKey)
	if err := sk.UnmarshalBinary(k.TKN); err != nil {
		return nil, errKey
	}
	return &Key{attrs: attrs, raw: k.TKN, sk: sk}, nil
}

// Bytes returns the marshalled key. It is as secret as the key.
func (k *Key) Bytes() []byte {
	a := k.attrs
	labels := a.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return wire.Marshal(keyWire{
		Version: 1, Service: a.Service, Generation: a.Generation, SuperPeer: a.SuperPeer,
		Slot: a.Slot, VM: a.VM, Labels: labels, TKN: k.raw,
	})
}

// Attributes returns what the key says about its holder.
func (k *Key) Attributes() Attributes { return k.attrs.clone() }

// Unseal opens what SealTo made for t, 7 to 10 ms. Anyone could have made it:
// what it is taken for must come from a signature over it or the channel that
// brought it.
func (k *Key) Unseal(t Target, ct []byte) (Secret, error) {
	if t.Service == k.attrs.Service && t.Generation != k.attrs.Generation {
		return Secret{}, ErrGeneration
	}
	if !t.Matches(k.attrs) {
		return Secret{}, ErrNoMatch
	}
	want, s, err := t.tkn()
	if err != nil {
		return Secret{}, err
	}
	if err := checkCiphertext(ct, s); err != nil {
		return Secret{}, err
	}
	var got tkn20.Policy
	if err := got.ExtractFromCiphertext(ct); err != nil || !got.Equal(&want) {
		return Secret{}, errCiphertext
	}
	plain, err := k.sk.Decrypt(ct)
	if err != nil || len(plain) != SecretSize {
		return Secret{}, errCiphertext
	}
	defer clear(plain)
	return Secret(plain), nil
}

// Wipe erases the marshalled key; k opens nothing any more. The parsed key is
// in circl's types, which offer no erasing.
func (k *Key) Wipe() {
	clear(k.raw)
	k.attrs = Attributes{}
	k.sk = new(tkn20.AttributeKey)
}

// Format writes a redaction for every verb.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is a redaction.
func (k *Key) LogValue() slog.Value { return slog.StringValue(redacted) }
