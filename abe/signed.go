package abe

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Verifier returns the key of a super peer that may issue for the service, by
// the descriptor and at the time of the call; false for anybody else. The
// issuer must be the PID of that key.
type Verifier func(issuer id.ID) (ed25519.PublicKey, bool)

var (
	errForged   = errors.New("abe: not signed by one of the service's authorities")
	errForeign  = errors.New("abe: for another service")
	errEnvelope = errors.New("abe: malformed envelope")
)

// appendSignature signs body under the domain of its type and appends the
// signature to it.
func appendSignature(body []byte, kind string, key ed25519.PrivateKey) []byte {
	return append(body, wire.Sign(key, "icvpn/1 "+kind, body)...)
}

// splitSigned takes the signature off b, which must have at most limit bytes.
func splitSigned(b []byte, limit int) (body, sig []byte, err error) {
	if len(b) > limit || len(b) <= ed25519.SignatureSize {
		return nil, nil, errEnvelope
	}
	n := len(b) - ed25519.SignatureSize
	return b[:n], b[n:], nil
}

// checkIssuer checks the signature of a body that names issuer and expiry.
func checkIssuer(body, sig []byte, kind string, issuer id.ID, expiry uint64, verify Verifier, now time.Time) error {
	key, ok := verify(issuer)
	if !ok || len(key) != ed25519.PublicKeySize || id.FromKey(key) != issuer ||
		!wire.Verify(key, sig, "icvpn/1 "+kind, body) {
		return errForged
	}
	// Unix seconds of a time before 1970 are negative and expire nothing.
	if s := now.Unix(); s >= 0 && uint64(s) >= expiry {
		return ErrExpired
	}
	return nil
}

func checkSigner(key ed25519.PrivateKey, t Target, expiry time.Time) (id.ID, error) {
	if err := t.Err(); err != nil {
		return id.ID{}, err
	}
	if len(key) != ed25519.PrivateKeySize {
		return id.ID{}, errors.New("abe: signing key of wrong length")
	}
	if expiry.Unix() <= 0 {
		return id.ID{}, errors.New("abe: no expiry")
	}
	return id.FromKey(key.Public().(ed25519.PublicKey)), nil
}

func parseTarget(service id.ID, generation uint32, policy string) (Target, error) {
	p, err := ParsePolicy(policy)
	if err != nil {
		return Target{}, fmt.Errorf("%w: %w", errEnvelope, err)
	}
	return Target{Service: service, Generation: generation, Policy: p}, nil
}
