package keyex

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"encoding/hex"
	"math/big"
	"testing"
)

func TestGroupsAgree(t *testing.T) {
	for g, a := range agreements() {
		na, nb := a.lengths()
		for i := range 5 {
			secret, shareA := a.offer(detRand("a"))
			shareB, r1, err := a.answer(detRand("b"), shareA)
			if err != nil {
				t.Fatal(g, i, err)
			}
			r2, err := a.finish(secret, shareB)
			if err != nil || !bytes.Equal(r1, r2) || len(shareA) != na || len(shareB) != nb {
				t.Fatalf("%v: %x and %x (%v), shares of %d and %d bytes", g, r1, r2, err, len(shareA), len(shareB))
			}
		}
	}
}

// pi returns floor(2^n * pi), by Machin's formula.
func pi(n uint) *big.Int {
	const guard = 64
	arctan := func(x int64) *big.Int {
		sum, xx := new(big.Int), big.NewInt(x*x)
		term := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), n+guard), big.NewInt(x))
		for k := int64(0); term.Sign() != 0; k++ {
			part := new(big.Int).Div(term, big.NewInt(2*k+1))
			if k%2 == 0 {
				sum.Add(sum, part)
			} else {
				sum.Sub(sum, part)
			}
			term.Div(term, xx)
		}
		return sum
	}
	v := new(big.Int).Mul(big.NewInt(16), arctan(5))
	v.Sub(v, new(big.Int).Mul(big.NewInt(4), arctan(239)))
	return v.Rsh(v, guard)
}

var bigPrimes = map[Group]struct {
	hex         string
	bits, shift uint
	k           int64
	exponent    int
}{
	GroupMODP2048: {prime2048, 2048, 1918, 124476, 32},
	GroupMODP3072: {prime3072, 3072, 2942, 1690314, 40},
}

// RFC 3526, Sections 3 and 4.
func TestPrimesFollowTheirFormula(t *testing.T) {
	one := big.NewInt(1)
	for g, c := range bigPrimes {
		want := new(big.Int).Lsh(one, c.bits)
		want.Sub(want, new(big.Int).Lsh(one, c.bits-64))
		want.Sub(want, one)
		tail := new(big.Int).Add(pi(c.shift), big.NewInt(c.k))
		want.Add(want, tail.Lsh(tail, 64))
		if want.Text(16) != c.hex {
			t.Errorf("%v: the prime is not RFC 3526's", g)
		}
		if q := new(big.Int).Rsh(want, 1); !want.ProbablyPrime(2) || !q.ProbablyPrime(2) {
			t.Errorf("%v: not a safe prime", g)
		}
	}
}

// The MODP groups against math/big: public values, results and paddings.
func TestMODPMatchesMathBig(t *testing.T) {
	for g, c := range bigPrimes {
		a := agreements()[g]
		p, _ := new(big.Int).SetString(c.hex, 16)
		n := int(c.bits / 8)
		for i := range 4 {
			rnd := detRand(g.String() + string(rune('0'+i)))
			xA, yA := a.offer(rnd)
			wantY := new(big.Int).Exp(big.NewInt(2), new(big.Int).SetBytes(xA), p)
			if len(xA) != c.exponent || !bytes.Equal(yA, wantY.FillBytes(make([]byte, n))) {
				t.Fatalf("%v: public value differs", g)
			}
			xB, yB := a.offer(rnd)
			z, err := a.finish(xB, yA)
			want := new(big.Int).Exp(new(big.Int).SetBytes(yA), new(big.Int).SetBytes(xB), p)
			if err != nil || !bytes.Equal(z, want.FillBytes(make([]byte, n))) {
				t.Fatalf("%v: result differs (%v)", g, err)
			}
			if z2, err := a.finish(xA, yB); err != nil || !bytes.Equal(z, z2) {
				t.Fatalf("%v: the two ends differ (%v)", g, err)
			}
		}
		// A result with leading zeros keeps its length: y = 2, x = 1, 2, ...
		x := make([]byte, c.exponent)
		x[len(x)-1] = 3
		two := make([]byte, n)
		two[n-1] = 2
		z, err := a.finish(x, two)
		if err != nil || len(z) != n || z[n-1] != 8 {
			t.Errorf("%v: 2^3 = %x (%v)", g, z, err)
		}
	}
}

func TestMODPRefusesValuesOutOfRange(t *testing.T) {
	for g, c := range bigPrimes {
		a := agreements()[g]
		p, _ := new(big.Int).SetString(c.hex, 16)
		n := int(c.bits / 8)
		x, _ := a.offer(detRand("x"))
		for d, want := range map[string]bool{"0": false, "1": false, "2": true, "p-2": true, "p-1": false, "p": false, "p+1": false, "max": false} {
			y := map[string]*big.Int{
				"0": big.NewInt(0), "1": big.NewInt(1), "2": big.NewInt(2),
				"p-2": new(big.Int).Sub(p, big.NewInt(2)), "p-1": new(big.Int).Sub(p, big.NewInt(1)), "p": p, "p+1": new(big.Int).Add(p, big.NewInt(1)),
				"max": new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), c.bits), big.NewInt(1)),
			}[d].FillBytes(make([]byte, n))
			if _, err := a.finish(x, y); (err == nil) != want {
				t.Errorf("%v: y = %s: %v", g, d, err)
			}
			if _, _, err := a.answer(detRand("b"), y); (err == nil) != want {
				t.Errorf("%v: answering y = %s: %v", g, d, err)
			}
		}
		// A result of 1 or p-1 is refused whatever y was: x = 0 and x = q.
		for _, x := range [][]byte{make([]byte, c.exponent), new(big.Int).Rsh(p, 1).Bytes()} {
			four := make([]byte, n)
			four[n-1] = 4
			if _, err := a.finish(x, four); err == nil {
				t.Errorf("%v: a result of 1 was accepted", g)
			}
		}
	}
}

// RFC 7748, Section 6.1.
func TestX25519Vector(t *testing.T) {
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	alice := un("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
	bob := un("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
	shared := un("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
	secret, pub := x25519{}.offer(bytes.NewReader(alice))
	if want := un("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"); !bytes.Equal(pub, want) {
		t.Errorf("public key %x", pub)
	}
	share, k, err := x25519{}.answer(bytes.NewReader(bob), pub)
	if err != nil || !bytes.Equal(k, shared) {
		t.Errorf("responder's secret %x (%v)", k, err)
	}
	if k, err = (x25519{}).finish(secret, share); err != nil || !bytes.Equal(k, shared) {
		t.Errorf("initiator's secret %x (%v)", k, err)
	}
}

// An all-zero result, and the points that give one, are refused
// (RFC 7748, Section 6.1).
func TestX25519RefusesLowOrderPoints(t *testing.T) {
	secret, _ := x25519{}.offer(detRand("x"))
	for _, h := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		y, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (x25519{}).finish(secret, y); err == nil {
			t.Errorf("accepted %s", h)
		}
		_, ek := (hybrid{}).offer(detRand("y"))
		copy(ek[mlkem.EncapsulationKeySize768:], y)
		if _, _, err := agreements()[GroupHybrid].answer(detRand("b"), ek); err == nil {
			t.Errorf("hybrid accepted %s", h)
		}
	}
}

// The hybrid group against the standard library's own key objects: order of
// the parts, and the encapsulation key check of FIPS 203, Section 7.2.
func TestHybridMatchesStandardLibrary(t *testing.T) {
	g := agreements()[GroupHybrid]
	secret, shareA := g.offer(detRand("a"))
	dk, err := mlkem.NewDecapsulationKey768(secret[:64])
	if err != nil {
		t.Fatal(err)
	}
	xa, err := ecdh.X25519().NewPrivateKey(secret[64:])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(shareA, append(dk.EncapsulationKey().Bytes(), xa.PublicKey().Bytes()...)) || len(shareA) != 1184+32 {
		t.Error("DH_A is not ek ‖ X25519")
	}
	shareB, dhR, err := g.answer(detRand("b"), shareA)
	if err != nil || len(shareB) != 1088+32 {
		t.Fatal(len(shareB), err)
	}
	ss, err := dk.Decapsulate(shareB[:1088])
	if err != nil {
		t.Fatal(err)
	}
	xb, err := ecdh.X25519().NewPublicKey(shareB[1088:])
	if err != nil {
		t.Fatal(err)
	}
	dh, err := xa.ECDH(xb)
	if err != nil || !bytes.Equal(dhR, append(ss, dh...)) {
		t.Error("DH_R is not mlkem ‖ x25519")
	}
	bad := bytes.Clone(shareA)
	bad[0], bad[1] = 0xff, 0xff // first coefficient 4095 >= q
	if _, _, err := g.answer(detRand("b"), bad); err == nil {
		t.Error("an encapsulation key that is not reduced was accepted")
	}
}
