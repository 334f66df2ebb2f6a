package abe

import (
	"crypto/ed25519"
	"io"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Envelope is the seed of a target, ABE-encrypted to it and signed by an
// authority. It is public; authorities publish one per target.
type Envelope struct {
	Target Target
	Issuer id.ID  // PID of the super peer that signed
	Seq    uint64 // of two envelopes of a target the higher one counts
	Expiry time.Time

	ciphertext []byte
}

// envelopeWire is the signed body, as laid out in docs/protocol/abe.md.
type envelopeWire struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Type       string
	Service    id.ID
	Policy     string
	Generation uint32
	Issuer     id.ID
	Seq        uint64
	Expiry     uint64 // Unix seconds
	Ciphertext []byte
}

// Envelope seals the seed of t and signs it with a super peer's identity key.
// Expiry counts in whole seconds.
func (a *Authority) Envelope(random io.Reader, key ed25519.PrivateKey, t Target, seq uint64, expiry time.Time) ([]byte, error) {
	issuer, err := checkSigner(key, t, expiry)
	if err != nil {
		return nil, err
	}
	seed, err := a.PolicySeed(t)
	if err != nil {
		return nil, err
	}
	defer seed.Wipe()
	ct, err := a.params.SealTo(random, t, seed)
	if err != nil {
		return nil, err
	}
	body := wire.Marshal(envelopeWire{
		Version: 1, Type: typeEnvelope, Service: t.Service, Policy: t.Policy.String(), Generation: t.Generation,
		Issuer: issuer, Seq: seq, Expiry: uint64(expiry.Unix()), Ciphertext: ct,
	})
	return appendSignature(body, typeEnvelope, key), nil
}

// VerifyEnvelope reads an envelope of the given service and checks who signed
// it and that it has not expired; it opens nothing.
func VerifyEnvelope(b []byte, service id.ID, verify Verifier, now time.Time) (*Envelope, error) {
	body, sig, err := splitSigned(b, maxEnvelopeSize)
	if err != nil {
		return nil, err
	}
	var w envelopeWire
	if err := wire.Unmarshal(body, &w, maxEnvelopeSize); err != nil || w.Version != 1 || w.Type != typeEnvelope {
		return nil, errEnvelope
	}
	if w.Service != service {
		return nil, errForeign
	}
	if err := checkIssuer(body, sig, typeEnvelope, w.Issuer, w.Expiry, verify, now); err != nil {
		return nil, err
	}
	t, err := parseTarget(w.Service, w.Generation, w.Policy)
	if err != nil {
		return nil, err
	}
	return &Envelope{
		Target: t, Issuer: w.Issuer, Seq: w.Seq, Expiry: unixTime(w.Expiry), ciphertext: w.Ciphertext,
	}, nil
}

// OpenEnvelope is VerifyEnvelope for the key's service and Open in one.
func OpenEnvelope(b []byte, key *Key, verify Verifier, now time.Time) (*Envelope, Secret, error) {
	e, err := VerifyEnvelope(b, key.attrs.Service, verify, now)
	if err != nil {
		return nil, Secret{}, err
	}
	seed, err := e.Open(key)
	return e, seed, err
}

// Open returns the seed of e.Target. ErrNoMatch and ErrGeneration say why not.
func (e *Envelope) Open(key *Key) (Secret, error) { return key.Unseal(e.Target, e.ciphertext) }

// unixTime converts seconds from the wire without overflowing int64.
func unixTime(s uint64) time.Time {
	const latest = 1<<62 - 1
	return time.Unix(int64(min(s, latest)), 0)
}
