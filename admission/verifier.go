package admission

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"

	"filippo.io/bigmod"
	"golang.org/x/crypto/argon2"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Verifier is what a super peer keeps instead of an enrolment secret. Whoever
// steals it can try guesses against it and can play this service's super peer
// only with the TLS key as well; he cannot enrol with it.
type Verifier struct {
	SecretID string
	Params   Params
	Salt     []byte // SaltSize bytes
	V        []byte // v = g^x mod N, padded to the length of N

	powers *fixedBase // of v; nil if not Prepared
}

var (
	_ fmt.Formatter  = Verifier{}
	_ slog.LogValuer = Verifier{}
)

// Format implements fmt.Formatter: name and parameters, never salt and v.
func (v Verifier) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "verifier of secret %q (%v, %v)", v.SecretID, v.Params.Group, v.Params.KDF)
}

// LogValue implements slog.LogValuer.
func (v Verifier) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(v)) }

// NewVerifier makes the verifier of a secret, with a fresh salt. It borrows
// secret. With KDFNone the secret must come from a random generator.
func NewVerifier(secretID string, secret []byte, params Params) (Verifier, error) {
	if err := params.validate(); err != nil {
		return Verifier{}, err
	}
	if err := checkSecretID(secretID); err != nil {
		return Verifier{}, err
	}
	if err := checkSecret(secret, params.KDF); err != nil {
		return Verifier{}, err
	}
	salt := make([]byte, SaltSize)
	rand.Read(salt)
	p := params.Group.srp()
	x := stretchedPrivate(p, params.KDF, salt, secretID, secret)
	defer clear(x)
	return Verifier{SecretID: secretID, Params: params, Salt: salt, V: p.public(p.power(x))}, nil
}

// stretchedPrivate returns x with P as the KDF parameter says. For argon2id,
//
//	P = argon2id(secret, salt = SHA-256("icvpn/1 argon2id" ‖ 00 ‖ s), 64 MiB, t = 1, p = 1, 32 bytes)
//
// the label keeps the stretched value apart from other uses of s.
func stretchedPrivate(p *srp, kdf KDF, salt []byte, secretID string, secret []byte) []byte {
	if kdf == KDFNone {
		return p.private(salt, secretID, secret)
	}
	argonSalt := sha256.Sum256(append(wire.Label(labelArgonSalt), salt...))
	stretched := argon2.IDKey(secret, argonSalt[:], argonTime, argonMemory, argonThreads, hashSize)
	defer clear(stretched)
	return p.private(salt, secretID, stretched)
}

// Validate reports what is wrong with a verifier that was read from a file.
func (v Verifier) Validate() error {
	if err := v.Params.validate(); err != nil {
		return err
	}
	if err := checkSecretID(v.SecretID); err != nil {
		return err
	}
	if len(v.Salt) != SaltSize {
		return fmt.Errorf("admission: verifier of %q has a salt of %d bytes, want %d", v.SecretID, len(v.Salt), SaltSize)
	}
	if _, err := v.Params.Group.srp().element(v.V); err != nil {
		return fmt.Errorf("admission: verifier of %q is no number of group %v", v.SecretID, v.Params.Group)
	}
	return nil
}

// Prepared returns v with a table of its powers, with which a super peer computes
// v^u more than twice as fast: 256 KiB for 2048 bits. Its time is as that for an
// unknown ID only where all verifiers of the service have one: Service.Prepared.
func (v Verifier) Prepared() (Verifier, error) {
	if err := v.Validate(); err != nil {
		return v, err
	}
	p := v.Params.Group.srp()
	base, err := p.element(v.V)
	if err != nil {
		return v, err
	}
	v.powers = newFixedBase(base, p.n)
	return v, nil
}

// Equal verifiers have equal encodings.
type verifierWire struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	SecretID string
	Group    uint16
	KDF      uint8
	Salt     []byte
	V        []byte
}

// Bytes returns the verifier in deterministic CBOR, for the sealed hand-over
// from the owner to the super peers.
func (v Verifier) Bytes() []byte {
	return wire.Marshal(verifierWire{
		Version: version, SecretID: v.SecretID,
		Group: uint16(v.Params.Group), KDF: uint8(v.Params.KDF), Salt: v.Salt, V: v.V,
	})
}

// ParseVerifier reads what Bytes wrote and validates it.
func ParseVerifier(b []byte) (Verifier, error) {
	var w verifierWire
	if err := wire.Unmarshal(b, &w, limitChallenge); err != nil {
		return Verifier{}, fmt.Errorf("admission: verifier: %w", err)
	}
	if w.Version != version {
		return Verifier{}, fmt.Errorf("admission: verifier of version %d, want %d", w.Version, version)
	}
	v := Verifier{SecretID: w.SecretID, Params: Params{Group(w.Group), KDF(w.KDF)}, Salt: w.Salt, V: w.V}
	return v, v.Validate()
}

// checkSecretID allows names of 1 to 64 letters, digits, dots, dashes and
// underscores: printable, and free of the ':' that separates I from P.
func checkSecretID(s string) error {
	if len(s) == 0 || len(s) > maxSecretID {
		return fmt.Errorf("admission: secret ID of %d characters, want 1 to %d", len(s), maxSecretID)
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return fmt.Errorf("admission: secret ID %q: only letters, digits, '.', '-' and '_' are allowed", s)
		}
	}
	return nil
}

func checkSecret(secret []byte, kdf KDF) error {
	least := MinSecret
	if kdf == KDFArgon2id {
		least = MinPassphrase
	}
	if len(secret) < least || len(secret) > maxSecret {
		return fmt.Errorf("admission: enrolment secret of %d bytes, want %d to %d", len(secret), least, maxSecret)
	}
	return nil
}

// fakeVerifier answers for a secret ID that does not exist: the same from
// every super peer that shares key, different for every ID and service. Nobody
// knows its x. It is computed for known IDs too, so that the work is the same.
func fakeVerifier(key Key, service id.ID, secretID string, params Params) Verifier {
	info := append(append([]byte(nil), service[:]...), secretID...)
	v := expand(key[:], labelFakeV, params.Group.Size(), info)
	p := params.Group.srp()
	// Same bit length as N, so one subtraction reduces it; a zero would take
	// 2^2048 tries.
	n, err := bigmod.NewNat().SetOverflowingBytes(v, p.n)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	return Verifier{
		SecretID: secretID, Params: params,
		Salt: expand(key[:], labelFakeSalt, SaltSize, info), V: p.public(n),
	}
}

// expand is HKDF-Expand(SHA-256, key, label ‖ 00 ‖ parts..., n).
func expand(key []byte, label string, n int, parts ...[]byte) []byte {
	info := wire.Label(label)
	for _, b := range parts {
		info = append(info, b...)
	}
	out, err := hkdf.Expand(sha256.New, key, string(info), n)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	return out
}
