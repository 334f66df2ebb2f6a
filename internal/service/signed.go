package service

import (
	"crypto/ed25519"
	"fmt"

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
)

// Signed is an owner-signed document as it travels: its type, its exact bytes,
// and signatures over "icvpn/1 <type>" ‖ 00 ‖ body.
type Signed struct {
	_    struct{} `cbor:",toarray"`
	Type string
	Body []byte
	Sigs []Signature
}

// Signature names an owner key by its place in the root document.
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
	if s.Type != typ {
		return fmt.Errorf("service: document is of type %.16q, want %q", s.Type, typ)
	}
	if len(s.Sigs) > maxSignatures {
		return fmt.Errorf("service: %s has %d signatures, at most %d are allowed", typ, len(s.Sigs), maxSignatures)
	}
	good := map[uint8]bool{}
	for _, sig := range s.Sigs {
		if int(sig.Index) < len(r.Owners) && wire.Verify(r.Owners[sig.Index], sig.Sig, "icvpn/1 "+typ, s.Body) {
			good[sig.Index] = true
		}
	}
	if len(good) < int(r.Threshold) {
		return fmt.Errorf("service: %s carries %d valid owner signatures, %d are needed", typ, len(good), r.Threshold)
	}
	return nil
}

// Encode returns the bytes to store or send.
func (s Signed) Encode() []byte { return wire.Marshal(s) }
