package abe

import (
	"crypto/ed25519"
	"errors"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Statement says under which public key machines seal to a target in an epoch.
// Who cannot open the target's envelope depends on it, so it is signed: a
// forged one would have him seal to the forger.
type Statement struct {
	Target Target
	Epoch  uint32
	Public [32]byte
	Issuer id.ID // set by Sign
	Seq    uint64
	Expiry time.Time // whole seconds
}

// statementWire is the signed body, as laid out in docs/protocol/abe.md.
type statementWire struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Type       string
	Service    id.ID
	Policy     string
	Generation uint32
	Epoch      uint32
	Public     [32]byte
	Issuer     id.ID
	Seq        uint64
	Expiry     uint64 // Unix seconds
}

var errStatement = errors.New("abe: malformed statement")

// Sign returns s, issued by the holder of key, as bytes of at most 600.
func (s Statement) Sign(key ed25519.PrivateKey) ([]byte, error) {
	issuer, err := checkSigner(key, s.Target, s.Expiry)
	if err != nil {
		return nil, err
	}
	body := wire.Marshal(statementWire{
		Version: 1, Type: typeStatement, Service: s.Target.Service, Policy: s.Target.Policy.String(),
		Generation: s.Target.Generation, Epoch: s.Epoch, Public: s.Public,
		Issuer: issuer, Seq: s.Seq, Expiry: uint64(s.Expiry.Unix()),
	})
	return appendSignature(body, typeStatement, key), nil
}

// VerifyStatement reads what Sign wrote, for the given service, and checks who
// signed it and that it has not expired. The caller compares target and epoch
// with what it asked for.
func VerifyStatement(b []byte, service id.ID, verify Verifier, now time.Time) (Statement, error) {
	body, sig, err := splitSigned(b, maxStatement)
	if err != nil {
		return Statement{}, errStatement
	}
	var w statementWire
	if err := wire.Unmarshal(body, &w, maxStatement); err != nil || w.Version != 1 || w.Type != typeStatement {
		return Statement{}, errStatement
	}
	if w.Service != service {
		return Statement{}, errForeign
	}
	if err := checkIssuer(body, sig, typeStatement, w.Issuer, w.Expiry, verify, now); err != nil {
		return Statement{}, err
	}
	t, err := parseTarget(w.Service, w.Generation, w.Policy)
	if err != nil {
		return Statement{}, err
	}
	return Statement{
		Target: t, Epoch: w.Epoch, Public: w.Public, Issuer: w.Issuer, Seq: w.Seq, Expiry: unixTime(w.Expiry),
	}, nil
}
