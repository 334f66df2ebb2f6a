package service

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"icvpn/internal/wire"
)

// Limits of documents in bytes, checked before parsing.
const (
	MaxSigned     = 48 << 10 // root chain, descriptor, policy as sent
	MaxCredential = 600      // PROTOCOL.md: credA, credB
	MaxEpochs     = 128      // body of the epochs
	maxSignatures = 16
)

// Document types. The type is part of what is signed, so that no document can
// be passed off as another.
const (
	typeRoot       = "root"
	typeDescriptor = "descriptor"
	typePolicy     = "policy"
	typeEpochs     = "epochs"
	typeRelease    = "release"
)

// Signed is a document of the owners, or of those with release keys, as it
// travels: its type, its exact bytes, and signatures over
// "icvpn/1 <type>" ‖ 00 ‖ body.
type Signed struct {
	_    struct{} `cbor:",toarray"`
	Type string
	Body []byte
	Sigs []Signature
}

// Signature names an owner key by its place in the root document, and a release
// key by its first byte.
type Signature struct {
	_     struct{} `cbor:",toarray"`
	Index uint8
	Sig   []byte
}

func sign(typ string, body []byte, owners []ed25519.PrivateKey) Signed {
	s := Signed{Type: typ, Body: body}
	for i, k := range owners {
		s.Sigs = append(s.Sigs, Signature{Index: uint8(i), Sig: wire.Sign(k, "icvpn/1 "+typ, body)})
	}
	return s
}

// verify checks that s has type typ and valid signatures of at least the
// root's threshold of distinct owners.
func (s Signed) verify(typ string, r Root) error {
	return s.verifyBy(typ, "owner", r.Owners, int(r.Threshold), func(i int) uint8 { return uint8(i) })
}

// verifyBy checks that s has type typ and valid signatures of at least threshold
// of the keys, each of which has a name in signatures.
func (s Signed) verifyBy(typ, whose string, keys []ed25519.PublicKey, threshold int, name func(i int) uint8) error {
	if s.Type != typ {
		return fmt.Errorf("service: document is of type %.16q, want %q", s.Type, typ)
	}
	if len(s.Sigs) > maxSignatures {
		return fmt.Errorf("service: %s has %d signatures, at most %d are allowed", typ, len(s.Sigs), maxSignatures)
	}
	if good := len(s.signatures(typ, keys, name)); good < threshold {
		return fmt.Errorf("service: %s carries %d valid %s signatures, %d are needed", typ, good, whose, threshold)
	}
	return nil
}

// signatures returns one valid signature of each of the keys that has signed, in their
// order.
func (s Signed) signatures(typ string, keys []ed25519.PublicKey, name func(i int) uint8) (all []Signature) {
	for i, k := range keys {
		if at := slices.IndexFunc(s.Sigs, func(sig Signature) bool {
			return sig.Index == name(i) && wire.Verify(k, sig.Sig, "icvpn/1 "+typ, s.Body)
		}); at >= 0 {
			all = append(all, s.Sigs[at])
		}
	}
	return all
}

// Encode returns the bytes to store or send.
func (s Signed) Encode() []byte { return wire.Marshal(s) }
