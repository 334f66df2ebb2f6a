package admission

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"hash"
	"math/big"
	"strings"
	"testing"

	"filippo.io/bigmod"
)

// unhex reads the RFC's notation, with spaces and line breaks.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func check(t testing.TB, name string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s = %x, want %x", name, got, want)
	}
}

// The 1024-bit group of RFC 5054, Appendix A: for the vectors only, and only
// in this file.
const prime1024 = "EEAF0AB9ADB38DD69C33F80AFA8FC5E86072618775FF3C0B9EA2314C9C256576" +
	"D674DF7496EA81D3383B4813D692C6E0E0D5D8E250B98BE48E495C1D6089DAD1" +
	"5DC7D7B46154D6B6CE8EF4AD69B15D4982559B297BCF1885C529F566660E57EC" +
	"68EDBC3C05726CC02FD4CBF4976EAA9AFD5138FE8376435B9FC61D2FC0EB06E3"

func TestRFC5054AppendixB(t *testing.T) {
	p := newSRP(newGroup(prime1024, 2), sha1.New)
	salt := unhex(t, "BEB25379 D1A8581E B5A72767 3A2441EE")
	a := unhex(t, "60975527 035CF2AD 1989806F 0407210B C81EDC04 E2762A56 AFD529DD DA2D4393")
	b := unhex(t, "E487CB59 D31AC550 471E81F0 0F6928E0 1DDA08E9 74A004F4 9E61F5D1 05284D20")
	wantV := unhex(t, `7E273DE8 696FFC4F 4E337D05 B4B375BE B0DDE156 9E8FA00A 9886D812
		9BADA1F1 822223CA 1A605B53 0E379BA4 729FDC59 F105B478 7E5186F5
		C671085A 1447B52A 48CF1970 B4FB6F84 00BBF4CE BFBB1681 52E08AB5
		EA53D15C 1AFF87B2 B9DA6E04 E058AD51 CC72BFC9 033B564E 26480D78
		E955A5E2 9E7AB245 DB2BE315 E2099AFB`)
	wantA := unhex(t, `61D5E490 F6F1B795 47B0704C 436F523D D0E560F0 C64115BB 72557EC4
		4352E890 3211C046 92272D8B 2D1A5358 A2CF1B6E 0BFCF99F 921530EC
		8E393561 79EAE45E 42BA92AE ACED8251 71E1E8B9 AF6D9C03 E1327F44
		BE087EF0 6530E69F 66615261 EEF54073 CA11CF58 58F0EDFD FE15EFEA
		B349EF5D 76988A36 72FAC47B 0769447B`)
	wantB := unhex(t, `BD0C6151 2C692C0C B6D041FA 01BB152D 4916A1E7 7AF46AE1 05393011
		BAF38964 DC46A067 0DD125B9 5A981652 236F99D9 B681CBF8 7837EC99
		6C6DA044 53728610 D0C6DDB5 8B318885 D7D82C7F 8DEB75CE 7BD4FBAA
		37089E6F 9C6059F3 88838E7A 00030B33 1EB76840 910440B1 B27AAEAE
		EB4012B7 D7665238 A8E3FB00 4B117B58`)
	wantS := unhex(t, `B0DC82BA BCF30674 AE450C02 87745E79 90A3381F 63B387AA F271A10D
		233861E3 59B48220 F7C4693C 9AE12B0A 6F67809F 0876E2D0 13800D6C
		41BB59B6 D5979B5C 00A172B4 A2A5903A 0BDCAF8A 709585EB 2AFAFA8F
		3499B200 210DCC1F 10EB3394 3CD67FC8 8A2F39A4 BE5BEC4E C0A3212D
		C346D7E4 74B29EDE 8A469FFE CA686E5A`)

	x := p.private(salt, "alice", []byte("password123"))
	v := p.power(x)
	aPub := p.public(p.power(a))
	bPub, err := p.challenge(v, p.power(b))
	if err != nil {
		t.Fatal(err)
	}
	u, err := p.scramble(aPub, bPub)
	if err != nil {
		t.Fatal(err)
	}
	clientS, err := p.clientSecret(bPub, x, a, u)
	if err != nil {
		t.Fatal(err)
	}
	serverS, err := p.serverSecret(aPub, v, b, u)
	if err != nil {
		t.Fatal(err)
	}
	check(t, "k", p.kBytes, unhex(t, "7556AA04 5AEF2CDD 07ABAF0F 665C3E81 8913186F"))
	check(t, "x", x, unhex(t, "94B7555A ABE9127C C58CCF49 93DB6CF8 4D16C124"))
	check(t, "v", p.public(v), wantV)
	check(t, "A", aPub, wantA)
	check(t, "B", bPub, wantB)
	check(t, "u", u, unhex(t, "CE38B959 3487DA98 554ED47D 70A7AE5F 462EF019"))
	check(t, "client S", clientS, wantS)
	check(t, "server S", serverS, wantS)
}

// TestGroupsAreSafePrimes guards the constants without trusting anybody's copy.
func TestGroupsAreSafePrimes(t *testing.T) {
	for _, g := range []Group{Group2048, Group3072, Group4096} {
		n := new(big.Int).SetBytes(g.srp().nBytes)
		if n.BitLen() != int(g) || g.srp().size != g.Size() {
			t.Errorf("%v has %d bits", g, n.BitLen())
		}
		q := new(big.Int).Rsh(n, 1)
		if !n.ProbablyPrime(1) || !q.ProbablyPrime(1) {
			t.Errorf("%v is no safe prime", g)
		}
	}
}

// TestArithmeticEqualsMathBig compares with the formulas written down plainly.
func TestArithmeticEqualsMathBig(t *testing.T) {
	for _, g := range []Group{Group2048, Group3072, Group4096} {
		p := g.srp()
		n, base := new(big.Int).SetBytes(p.nBytes), new(big.Int).SetBytes(p.gPadded)
		num := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
		for range 3 {
			x, a, b, u := make([]byte, 32), make([]byte, 32), make([]byte, 32), make([]byte, 32)
			for _, r := range [][]byte{x, a, b, u} {
				rand.Read(r)
			}
			// All ones: a + u*x is as long as it can be.
			if u[0]&1 == 0 {
				for i := range u {
					x[i], a[i], u[i] = 0xff, 0xff, 0xff
				}
			}
			v := new(big.Int).Exp(base, num(x), n)
			wantA := new(big.Int).Exp(base, num(a), n)
			wantB := new(big.Int).Exp(base, num(b), n)
			wantB.Add(wantB, new(big.Int).Mul(num(p.kBytes), v)).Mod(wantB, n)
			wantS := new(big.Int).Exp(v, num(u), n)
			wantS.Mul(wantS, wantA).Exp(wantS, num(b), n)

			aPub := p.public(p.power(a))
			check(t, "A", aPub, wantA.FillBytes(make([]byte, p.size)))
			bPub, err := p.challenge(p.power(x), p.power(b))
			if err != nil {
				t.Fatal(err)
			}
			check(t, "B", bPub, wantB.FillBytes(make([]byte, p.size)))
			clientS, err := p.clientSecret(bPub, x, a, u)
			if err != nil {
				t.Fatal(err)
			}
			serverS, err := p.serverSecret(aPub, p.power(x), b, u)
			if err != nil {
				t.Fatal(err)
			}
			check(t, "client S", clientS, wantS.FillBytes(make([]byte, p.size)))
			check(t, "server S", serverS, wantS.FillBytes(make([]byte, p.size)))
		}
	}
}

// badElements are A and B that RFC 5054 says MUST abort, and relatives.
func badElements(g Group) map[string][]byte {
	p := g.srp()
	n := new(big.Int).SetBytes(p.nBytes)
	times := func(k int64) []byte { return new(big.Int).Mul(n, big.NewInt(k)).Bytes() }
	return map[string][]byte{
		"0":        make([]byte, p.size),
		"empty":    {},
		"N":        times(1),
		"2N":       times(2),
		"N + 1":    new(big.Int).Add(n, big.NewInt(1)).Bytes(),
		"2^bits-1": bytes.Repeat([]byte{0xff}, p.size),
		"short":    make([]byte, p.size-1),
		"long":     append(make([]byte, p.size), 1),
		"bare 1":   {1},
	}
}

func TestElementRefusesZeroAndOverflow(t *testing.T) {
	for _, g := range []Group{Group2048, Group3072, Group4096} {
		for name, b := range badElements(g) {
			if _, err := g.srp().element(b); !errors.Is(err, errDegenerate) {
				t.Errorf("%v: %s accepted", g, name)
			}
		}
		// Another group's values never fit.
		for _, other := range []Group{Group2048, Group3072, Group4096} {
			one := make([]byte, other.Size())
			one[len(one)-1] = 1
			if _, err := g.srp().element(one); (err == nil) != (g == other) {
				t.Errorf("%v took an element of %v: %v", g, other, err)
			}
		}
	}
}

// zeroHash answers with zeros: the only way to see u = 0.
type zeroHash struct{ hash.Hash }

func (zeroHash) Sum(b []byte) []byte { return append(b, make([]byte, hashSize)...) }

func zeroSHA256() hash.Hash { return zeroHash{newSHA256()} }

func TestScrambleRefusesZero(t *testing.T) {
	p := *Group2048.srp()
	p.newHash = zeroSHA256
	if _, err := p.scramble(p.gPadded, p.gPadded); !errors.Is(err, errDegenerate) {
		t.Fatalf("u = 0 accepted: %v", err)
	}
}

func TestChallengeRefusesZero(t *testing.T) {
	p := Group2048.srp()
	v := p.power([]byte{3})
	negative := bigmod.NewNat().ExpandFor(p.n).Sub(p.times(p.k, v), p.n) // -k*v
	if _, err := p.challenge(v, negative); !errors.Is(err, errDegenerate) {
		t.Fatalf("B = 0 sent: %v", err)
	}
}

func TestPoolGivesEachPairOnce(t *testing.T) {
	pool := NewEphemeralPool(Group2048, 2)
	if !pool.Precompute() || !pool.Precompute() || pool.Precompute() || pool.Len() != 2 {
		t.Fatalf("a pool of 2 holds %d", pool.Len())
	}
	seen := map[string]bool{}
	for range 3 { // the third is made on the spot
		e, err := pool.take(Group2048, rand.Reader)
		if err != nil || seen[string(e.b)] {
			t.Fatalf("pair given twice, or %v", err)
		}
		seen[string(e.b)] = true
		check(t, "g^b", Group2048.srp().public(e.gb), Group2048.srp().public(Group2048.srp().power(e.b)))
	}
	pool.Precompute()
	if e, err := pool.take(Group3072, rand.Reader); err != nil || pool.Len() != 1 || len(Group3072.srp().public(e.gb)) != 384 {
		t.Fatal("a pool served another group")
	}
	pool.Wipe()
	if pool.Len() != 0 {
		t.Fatal("pairs left after Wipe")
	}
	if _, err := (*EphemeralPool)(nil).take(Group2048, rand.Reader); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkServerLogin(b *testing.B) {
	for _, g := range []Group{Group2048, Group3072, Group4096} {
		p := g.srp()
		e, err := newEphemeral(p, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		v, a := p.power([]byte("a private key of 32 bytes length")), p.public(p.power([]byte("another one")))
		powers := newFixedBase(v, p.n)
		b.Run("group="+g.String()+"/prepared", func(b *testing.B) {
			for b.Loop() {
				bPub, _ := p.challenge(v, e.gb)
				u, _ := p.scramble(a, bPub)
				if _, err := p.serverSecretOf(a, powers.power(u, p.n), e.b); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, pooled := range []bool{true, false} {
			b.Run("group="+g.String()+"/pooled="+map[bool]string{true: "yes", false: "no"}[pooled], func(b *testing.B) {
				for b.Loop() {
					eph := e
					if !pooled {
						eph, _ = newEphemeral(p, rand.Reader)
					}
					bPub, _ := p.challenge(v, eph.gb)
					u, _ := p.scramble(a, bPub)
					if _, err := p.serverSecret(a, v, eph.b, u); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkClientLogin(b *testing.B) {
	for _, g := range []Group{Group2048, Group3072, Group4096} {
		p := g.srp()
		bPub := p.public(p.power([]byte("any")))
		e := bytes.Repeat([]byte{0xa5}, 32)
		b.Run("group="+g.String(), func(b *testing.B) {
			for b.Loop() {
				p.power(e)
				if _, err := p.clientSecret(bPub, e, e, e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
