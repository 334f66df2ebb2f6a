package abe

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cloudflare/circl/abe/cpabe/tkn20"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Params are a service's ABE public parameters. The descriptor pins their
// Hash: whoever could exchange them could read what is sealed under them.
type Params struct {
	raw []byte
	pk  tkn20.PublicKey
}

// ParamsSize is the length of marshalled public parameters.
const ParamsSize = 3*(2+4) + (4*2)*g2Size + (3*2)*g1Size + (2*1)*gtSize

// ParseParams reads what Bytes wrote. It costs 1.4 ms; keep the result. Check
// HashParams(b) against the descriptor first.
func ParseParams(b []byte) (*Params, error) {
	if err := checkParams(b); err != nil {
		return nil, err
	}
	p := &Params{raw: append([]byte(nil), b...)}
	if err := p.pk.UnmarshalBinary(p.raw); err != nil {
		return nil, errParams
	}
	return p, nil
}

// Bytes returns the marshalled parameters, ParamsSize bytes.
func (p *Params) Bytes() []byte { return append([]byte(nil), p.raw...) }

// Hash returns HashParams of p's bytes.
func (p *Params) Hash() [32]byte { return HashParams(p.raw) }

// HashParams returns SHA-256("icvpn/1 abe params" ‖ 00 ‖ b), which the
// descriptor pins.
func HashParams(b []byte) [32]byte {
	return sha256.Sum256(append(wire.Label("icvpn/1 abe params"), b...))
}

// SealTo encrypts secret to the keys that match t, some 20 to 40 ms. It signs
// nothing and hides nothing but the secret: t stands in clear in the result.
// A nil random means crypto/rand.
func (p *Params) SealTo(random io.Reader, t Target, secret Secret) ([]byte, error) {
	policy, s, err := t.tkn()
	if err != nil {
		return nil, err
	}
	ct, err := p.pk.Encrypt(reader(random), policy, secret[:])
	if err != nil {
		return nil, fmt.Errorf("abe: %w", err)
	}
	// The receiver's walk is the sender's self-test: a circl release with
	// another format is found here, not at every peer.
	if err := checkCiphertext(ct, s); err != nil {
		return nil, err
	}
	return ct, nil
}

func reader(r io.Reader) io.Reader {
	if r == nil {
		return rand.Reader
	}
	return r
}

// An Authority makes keys and seeds of one service. All of it follows from a
// 32-byte seed: super peers with one seed are one authority, without talking.
type Authority struct {
	service id.ID
	prk     []byte // for PolicySeed
	params  *Params
	msk     tkn20.SystemSecretKey
}

// NewAuthority runs the set-up (8 ms) on a SHAKE256 stream of the seed. Compare
// Params().Hash() with the descriptor's: were a later release of circl to draw
// its randomness in another order, that is where it would show.
func NewAuthority(seed Secret, service id.ID) (*Authority, error) {
	if service.IsZero() {
		return nil, errors.New("abe: authority without a service")
	}
	stream := sha3.NewSHAKE256()
	stream.Write(wire.Label("icvpn/1 abe setup"))
	stream.Write(service[:])
	stream.Write(seed[:])
	pk, msk, err := tkn20.Setup(stream)
	if err != nil {
		return nil, fmt.Errorf("abe: set-up: %w", err)
	}
	raw, err := pk.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("abe: set-up: %w", err)
	}
	if err := checkParams(raw); err != nil {
		return nil, err
	}
	prk, err := hkdf.Extract(sha256.New, seed[:], service[:])
	if err != nil {
		return nil, fmt.Errorf("abe: set-up: %w", err)
	}
	return &Authority{service: service, prk: prk, params: &Params{raw: raw, pk: pk}, msk: msk}, nil
}

// Params returns the public parameters.
func (a *Authority) Params() *Params { return a.params }

// Service returns the service that a is an authority of.
func (a *Authority) Service() id.ID { return a.service }

// KeyGen makes a key, some 10 ms for each attribute. A nil random means
// crypto/rand; whatever it is, no two keys may get the same bytes from it, or
// their holders could combine them.
func (a *Authority) KeyGen(random io.Reader, attrs Attributes) (*Key, error) {
	if err := attrs.validate(); err != nil {
		return nil, err
	}
	if attrs.Service != a.service {
		return nil, errors.New("abe: attributes of another service")
	}
	sk, err := a.msk.KeyGen(reader(random), attrs.tkn())
	if err != nil {
		return nil, fmt.Errorf("abe: %w", err)
	}
	raw, err := sk.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("abe: %w", err)
	}
	if err := checkKey(raw, attrs.tknMap()); err != nil {
		return nil, err
	}
	return &Key{attrs: attrs.clone(), raw: raw, sk: &sk}, nil
}

// PolicySeed returns the seed of t, the same at every authority with this
// authority's seed: HKDF-Expand(HKDF-Extract(salt = service, IKM = authority
// seed), "icvpn/1 policy seed" ‖ service ‖ generation ‖ lp(policy), 32).
func (a *Authority) PolicySeed(t Target) (Secret, error) {
	if err := t.Err(); err != nil {
		return Secret{}, err
	}
	if t.Service != a.service {
		return Secret{}, errors.New("abe: target of another service")
	}
	info := t.appendTo(wire.Label("icvpn/1 policy seed"))
	b, err := hkdf.Expand(sha256.New, a.prk, string(info), SecretSize)
	if err != nil {
		return Secret{}, fmt.Errorf("abe: %w", err)
	}
	return Secret(b), nil
}

// Wipe erases the key that seeds are derived from. The ABE master key is in
// circl's types, which offer no erasing; it goes with the garbage collector.
func (a *Authority) Wipe() {
	clear(a.prk)
	a.msk = tkn20.SystemSecretKey{}
}

// Format writes a redaction for every verb.
func (a *Authority) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is a redaction.
func (a *Authority) LogValue() slog.Value { return slog.StringValue(redacted) }
