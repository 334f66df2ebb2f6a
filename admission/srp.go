package admission

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"

	"filippo.io/bigmod"
)

// This file is SRP-6a with the names of RFC 5054, Sections 2.5 and 2.6:
//
//	k = H(N | PAD(g))            u = H(PAD(A) | PAD(B))
//	x = H(s | H(I ":" P))        v = g^x
//	A = g^a                      B = k*v + g^b
//	S = (B - k*g^x)^(a + u*x) = (A * v^u)^b            all modulo N
//
// Every group element is handled padded to the length of N.

// errDegenerate is returned where RFC 5054 says MUST abort: A, B or u is zero
// modulo N. Values not below N, or of another length, count as malformed too.
var errDegenerate = errors.New("admission: SRP value is zero, too large or of wrong length")

func newSHA256() hash.Hash { return sha256.New() }

// srp is a group and a hash. The protocol has SHA-256 only; the parameter is
// there for the SHA-1 vectors of RFC 5054, Appendix B.
type srp struct {
	*group
	newHash func() hash.Hash
	kBytes  []byte // k as hashed: also H(N, g) of the proofs
	k       *bigmod.Nat
	powers  *fixedBase // of g
}

func newSRP(g *group, newHash func() hash.Hash) *srp {
	p := &srp{group: g, newHash: newHash}
	p.kBytes = p.hash(g.nBytes, g.gPadded)
	p.k = p.small(p.kBytes)
	p.powers = newFixedBase(g.g, g.n)
	return p
}

func (p *srp) hash(parts ...[]byte) []byte {
	h := p.newHash()
	for _, b := range parts {
		h.Write(b)
	}
	return h.Sum(nil)
}

// small returns a number that is shorter than N by construction: a hash or an
// exponent.
func (p *srp) small(b []byte) *bigmod.Nat {
	n, err := bigmod.NewNat().SetBytes(b, p.n)
	if err != nil {
		panic("admission: internal error: hash longer than the group")
	}
	return n
}

// element reads a padded group element in 1..N-1.
func (p *srp) element(b []byte) (*bigmod.Nat, error) {
	if len(b) != p.size {
		return nil, errDegenerate
	}
	n, err := bigmod.NewNat().SetBytes(b, p.n)
	if err != nil || n.IsZero() == 1 {
		return nil, errDegenerate
	}
	return n, nil
}

// private returns x. The caller wipes it.
func (p *srp) private(salt []byte, secretID string, secret []byte) []byte {
	inner := p.hash([]byte(secretID), []byte{':'}, secret)
	defer clear(inner)
	return p.hash(salt, inner)
}

// power returns g^e: v for x, A for a, the costly half of B for b.
func (p *srp) power(e []byte) *bigmod.Nat { return p.powers.power(e, p.n) }

// public returns PAD(n).
func (p *srp) public(n *bigmod.Nat) []byte { return n.Bytes(p.n) }

// scramble returns u for values that element has accepted.
func (p *srp) scramble(aPub, bPub []byte) ([]byte, error) {
	u := p.hash(aPub, bPub)
	// u is shorter than N, so zero modulo N means all bytes are zero.
	if p.small(u).IsZero() == 1 {
		return nil, errDegenerate
	}
	return u, nil
}

// challenge returns PAD(B) for a verifier v and g^b. It fails only when B is
// zero, in which case the server takes another b (RFC 5054, Section 2.5.3).
func (p *srp) challenge(v, gb *bigmod.Nat) ([]byte, error) {
	b := bigmod.NewNat().ExpandFor(p.n).Add(gb, p.n)
	kv := p.times(p.k, v)
	defer wipeNat(kv)
	b.Add(kv, p.n)
	if b.IsZero() == 1 {
		return nil, errDegenerate
	}
	return p.public(b), nil
}

// times returns x*y without changing either.
func (p *srp) times(x, y *bigmod.Nat) *bigmod.Nat {
	return bigmod.NewNat().ExpandFor(p.n).Add(x, p.n).Mul(y, p.n)
}

// clientSecret returns PAD(S) from the server's PAD(B). The caller wipes it.
func (p *srp) clientSecret(bPub, x, a, u []byte) ([]byte, error) {
	base, err := p.element(bPub)
	if err != nil {
		return nil, err
	}
	gx := p.power(x)
	kgx := p.times(p.k, gx)
	base.Sub(kgx, p.n)
	// N has 1024 bits or more, a + u*x at most 513: reducing modulo N keeps the
	// exact integer, and bigmod computes it in constant time.
	e := p.small(u)
	e.Mul(p.small(x), p.n).Add(p.small(a), p.n)
	exponent := e.Bytes(p.n)
	used := max(len(u)+len(x), len(a)) + 1
	s := bigmod.NewNat().Exp(base, exponent[p.size-used:], p.n)
	defer wipeNat(gx, kgx, base, e, s)
	defer clear(exponent)
	return p.public(s), nil
}

// serverSecret returns PAD(S) from the client's PAD(A). The caller wipes it.
func (p *srp) serverSecret(aPub []byte, v *bigmod.Nat, b, u []byte) ([]byte, error) {
	return p.serverSecretOf(aPub, bigmod.NewNat().Exp(v, u, p.n), b)
}

// serverSecretOf is serverSecret for v^u, which it overwrites.
func (p *srp) serverSecretOf(aPub []byte, vu *bigmod.Nat, b []byte) ([]byte, error) {
	defer wipeNat(vu)
	base, err := p.element(aPub)
	if err != nil {
		return nil, err
	}
	base.Mul(vu, p.n)
	s := bigmod.NewNat().Exp(base, b, p.n)
	defer wipeNat(base, s)
	return p.public(s), nil
}

// newExponent returns a fresh a or b.
func newExponent(random io.Reader) ([]byte, error) {
	e := make([]byte, exponentSize)
	_, err := io.ReadFull(random, e)
	return e, err
}

// wipeNat overwrites numbers derived from secrets.
func wipeNat(ns ...*bigmod.Nat) {
	for _, n := range ns {
		clear(n.Bits())
	}
}
