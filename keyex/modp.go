package keyex

import (
	"encoding/hex"
	"io"
	"sync"

	"filippo.io/bigmod"
)

// The primes of RFC 3526: p = 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) pi) + k)
// with k = 124476 for n = 2048 and k = 1690314 for n = 3072. TestPrimesFollowTheirFormula
// computes them again.
const (
	prime2048 = "" +
		"ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74" +
		"020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f1437" +
		"4fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed" +
		"ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf05" +
		"98da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb" +
		"9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b" +
		"e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf695581718" +
		"3995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff"
	prime3072 = "" +
		"ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74" +
		"020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f1437" +
		"4fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed" +
		"ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf05" +
		"98da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb" +
		"9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b" +
		"e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf695581718" +
		"3995497cea956ae515d2261898fa051015728e5a8aaac42dad33170d04507a33" +
		"a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7" +
		"abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864" +
		"d87602733ec86a64521f2b18177b200cbbe117577a615d6c770988c0bad946e2" +
		"08e24fa074e5ab3143db5bfce0fd108e4b82d120a93ad2caffffffffffffffff"
)

// modp is a group of RFC 3526 with generator 2. Its names are the RFC's: p is
// the prime, x an exponent, y a public value.
type modp struct {
	p        *bigmod.Modulus
	exponent int // length of x in bytes
}

// Exponent lengths are those of docs/protocol/keyex.md, at least twice the
// strength in RFC 3526, Section 8.
var (
	modp2048 = sync.OnceValue(func() modp { return newMODP(prime2048, 256/8) })
	modp3072 = sync.OnceValue(func() modp { return newMODP(prime3072, 320/8) })
)

func newMODP(prime string, exponent int) modp {
	b, err := hex.DecodeString(prime)
	if err != nil {
		panic("keyex: internal error: " + err.Error())
	}
	p, err := bigmod.NewModulus(b)
	if err != nil {
		panic("keyex: internal error: " + err.Error())
	}
	return modp{p: p, exponent: exponent}
}

func (g modp) lengths() (a, b int) { return g.p.Size(), g.p.Size() }

// offer draws again on a public value of 0, 1 or p-1, which only x = 0 gives.
func (g modp) offer(rand io.Reader) (x, y []byte) {
	two, err := bigmod.NewNat().SetBytes([]byte{2}, g.p)
	if err != nil {
		panic("keyex: internal error: " + err.Error())
	}
	for {
		x = random(rand, g.exponent)
		n := bigmod.NewNat().Exp(two, x, g.p)
		if g.inRange(n) {
			return x, n.Bytes(g.p)
		}
	}
}

func (g modp) answer(rand io.Reader, shareA []byte) (shareB, dhR []byte, err error) {
	x, y := g.offer(rand)
	defer clear(x)
	dhR, err = g.finish(x, shareA)
	return y, dhR, err
}

// finish works in constant time in x and in the result; only whether a value is
// out of range shows.
func (g modp) finish(x, shareB []byte) ([]byte, error) {
	y, err := bigmod.NewNat().SetBytes(shareB, g.p) // refuses y >= p
	if err != nil || !g.inRange(y) {
		return nil, errShare
	}
	z := bigmod.NewNat().Exp(y, x, g.p)
	defer clear(z.Bits())
	if !g.inRange(z) {
		return nil, errShare
	}
	return z.Bytes(g.p), nil
}

// inRange says whether 2 <= n <= p-2, for n < p.
func (g modp) inRange(n *bigmod.Nat) bool {
	return n.IsZero()|n.IsOne()|n.IsMinusOne(g.p) == 0
}
