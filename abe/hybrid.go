package abe

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"icvpn/internal/wire"
)

// The HPKE suite, RFC 9180 section 7: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
// ChaCha20-Poly1305. Each key seals one record, so X25519 is the whole cost and
// AES would gain nothing; ChaCha20 is constant time on machines without AES
// instructions too.
var (
	suiteKEM  = hpke.DHKEM(ecdh.X25519())
	suiteKDF  = hpke.HKDFSHA256()
	suiteAEAD = hpke.ChaCha20Poly1305()
)

const encSize, tagSize = 32, 16

var errSealed = errors.New("abe: sealed bytes do not open")

// PolicyKey is the HPKE key pair of a target in an epoch.
type PolicyKey struct{ priv hpke.PrivateKey }

// DerivePolicyKey returns the key pair of t in an epoch:
//
//	ikm = HKDF-Expand(HKDF-Extract(salt = epoch key, IKM = seed),
//	      "icvpn/1 policy key" ‖ service ‖ generation ‖ lp(policy) ‖ u32 epoch, 32)
//
// and RFC 9180's DeriveKeyPair(ikm). The epoch key shuts out who was revoked
// with an ABE key of the generation still in hand.
func DerivePolicyKey(seed, epochKey Secret, t Target, epoch uint32) (*PolicyKey, error) {
	if err := t.Err(); err != nil {
		return nil, err
	}
	prk, err := hkdf.Extract(sha256.New, seed[:], epochKey[:])
	if err != nil {
		return nil, fmt.Errorf("abe: %w", err)
	}
	defer clear(prk)
	info := binary.BigEndian.AppendUint32(t.appendTo(wire.Label("icvpn/1 policy key")), epoch)
	ikm, err := hkdf.Expand(sha256.New, prk, string(info), SecretSize)
	if err != nil {
		return nil, fmt.Errorf("abe: %w", err)
	}
	defer clear(ikm)
	return keyFromIKM(ikm)
}

func keyFromIKM(ikm []byte) (*PolicyKey, error) {
	priv, err := suiteKEM.DeriveKeyPair(ikm)
	if err != nil {
		return nil, fmt.Errorf("abe: %w", err)
	}
	return &PolicyKey{priv}, nil
}

// Public returns the half that everybody may have.
func (k *PolicyKey) Public() [32]byte { return [32]byte(k.priv.PublicKey().Bytes()) }

// Seal encrypts to a policy's public key: Overhead bytes more than plaintext.
// info says what kind of thing it is, aad what it belongs to; Open needs both
// again. Nothing in the result says who sealed: sign it.
func Seal(public [32]byte, info, aad, plaintext []byte) ([]byte, error) {
	if len(plaintext) > maxSealed-Overhead {
		return nil, fmt.Errorf("abe: %d bytes to seal, the limit is %d", len(plaintext), maxSealed-Overhead)
	}
	pk, err := suiteKEM.NewPublicKey(public[:])
	if err != nil {
		return nil, errors.New("abe: bad public key")
	}
	enc, sender, err := hpke.NewSender(pk, suiteKDF, suiteAEAD, info)
	if err != nil {
		return nil, errors.New("abe: bad public key") // of small order
	}
	ct, err := sender.Seal(aad, plaintext)
	if err != nil {
		return nil, fmt.Errorf("abe: %w", err)
	}
	return append(enc, ct...), nil
}

// Open reverses Seal. Every failure is the same error.
func (k *PolicyKey) Open(info, aad, sealed []byte) ([]byte, error) {
	if len(sealed) < encSize+tagSize || len(sealed) > maxSealed {
		return nil, errSealed
	}
	r, err := hpke.NewRecipient(sealed[:encSize], k.priv, suiteKDF, suiteAEAD, info)
	if err != nil {
		return nil, errSealed
	}
	plain, err := r.Open(aad, sealed[encSize:])
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// Format writes a redaction for every verb.
func (k *PolicyKey) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is a redaction.
func (k *PolicyKey) LogValue() slog.Value { return slog.StringValue(redacted) }
