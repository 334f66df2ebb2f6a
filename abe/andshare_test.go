package abe

import (
	"bytes"
	"testing"

	"github.com/cloudflare/circl/abe/cpabe/tkn20"
	"github.com/cloudflare/circl/ecc/bls12381"
	"golang.org/x/crypto/blake2b"
)

// circl up to v1.6.3 gave one operand of every "and" the whole secret and the
// other nothing. Its Decrypt still refused a key that does not match, since it
// asks the policy first, in the clear: so no honest use shows the bug, while an
// attacker who does the pairings himself opens everything with any key. This
// file is that attacker. It works on marshalled bytes with the pairing library
// only, so that nothing in tkn20 can refuse on his behalf.

// attackParts is what the attacker reads out of a ciphertext and a key.
type attackParts struct {
	id, env []byte
	c1      []bls12381.G2
	c2      [][]bls12381.G2
	c3      [][]bls12381.G1
	k1      []bls12381.G2
	k2      []bls12381.G1
	k3      map[string][]bls12381.G1
	k3wild  []bls12381.G1
}

func g1s(t *testing.T, w *walker) []bls12381.G1 {
	f := w.field()
	f.take(4)
	ps := make([]bls12381.G1, len(f.rest)/g1Size)
	for i := range ps {
		if err := ps[i].SetBytes(f.take(g1Size)); err != nil {
			t.Fatal(err)
		}
	}
	return ps
}

func g2s(t *testing.T, w *walker) []bls12381.G2 {
	f := w.field()
	f.take(4)
	ps := make([]bls12381.G2, len(f.rest)/g2Size)
	for i := range ps {
		if err := ps[i].SetBytes(f.take(g2Size)); err != nil {
			t.Fatal(err)
		}
	}
	return ps
}

func readParts(t *testing.T, ct, key []byte) (p attackParts) {
	w := walker{rest: ct}
	w.want([]byte(tknVersion))
	id := w.field()
	p.id = id.rest
	body := w.longField()
	header, env := body.longField(), body.longField()
	p.env = env.rest
	header.field() // the policy: the attacker knows it
	p.c1 = g2s(t, &header)
	for range header.u16() {
		p.c2 = append(p.c2, g2s(t, &header))
	}
	for range header.u16() {
		p.c3 = append(p.c3, g1s(t, &header))
	}

	k := walker{rest: key}
	k.field() // attributes
	p.k1, p.k2 = g2s(t, &k), g1s(t, &k)
	p.k3 = make(map[string][]bls12381.G1)
	for range k.u16() {
		label := k.field()
		p.k3[string(label.rest)] = g1s(t, &k)
	}
	k.u16()
	k.field()
	p.k3wild = g1s(t, &k)
	if w.bad || body.bad || header.bad || k.bad {
		t.Fatal("the attacker cannot read ciphertext or key")
	}
	return p
}

// attackWire is one leaf of the policy that the attacker puts into the pairing:
// its index in the ciphertext (the internal one is the last), and its label.
type attackWire struct {
	index int
	label string
}

// attack is decapsulate of tkn20's tk.go for the given wires, whatever the
// policy says, and then DecryptCCA of its bk.go. Every label stands in the
// policy once, so all wires use c2[0].
func (p *attackParts) attack(t *testing.T, wires []attackWire) ([]byte, bool) {
	left, right := make([]bls12381.G1, 3), make([]bls12381.G1, 4)
	for i := range left {
		left[i].SetIdentity()
	}
	for i := range right {
		right[i].SetIdentity()
	}
	for _, w := range wires {
		for i := range left {
			left[i].Add(&left[i], &p.c3[w.index][i])
		}
		for i := range right {
			add := p.k3[w.label][i]
			if w.label == tknInternalLabel { // a wildcard: y·k3 + k3wild
				var y bls12381.Scalar
				y.SetBytes(p.id)
				add.ScalarMult(&y, &add)
				add.Add(&add, &p.k3wild[i])
			}
			right[i].Add(&right[i], &add)
		}
	}
	var as []*bls12381.G1
	var bs []*bls12381.G2
	var signs []int
	pair := func(g1 []bls12381.G1, g2 []bls12381.G2, sign int) {
		for i := range g1 {
			as, bs, signs = append(as, &g1[i]), append(bs, &g2[i]), append(signs, sign)
		}
	}
	pair(right, p.c2[0], 1)
	pair(left, p.k1, -1)
	pair(p.k2, p.c1, 1)
	point, err := bls12381.ProdPairFrac(as, bs, signs).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}

	key := blake2b.Sum256(point)
	xof, err := blake2b.NewXOF(blake2b.OutputLengthUnknown, key[:])
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, len(p.env))
	if _, err := xof.Read(plain); err != nil {
		t.Fatal(err)
	}
	for i := range plain {
		plain[i] ^= p.env[i]
	}
	id := blake2b.Sum256(append([]byte("id computation hash"), plain[:tknSeedSize]...))
	return plain[tknSeedSize:], bytes.Equal(id[:], p.id)
}

func TestAndGivesNoOperandTheWholeSecret(t *testing.T) {
	a := testAuthority()
	policies := []string{
		"(tier:app and env:prod)",
		"tier:app",
		"((tier:app and env:prod) and zone:a)",
		"(tier:app and (env:prod and zone:a))",
	}
	if brief() {
		policies = policies[:1]
	}
	for _, text := range policies {
		policy, err := parseTkn(text)
		if err != nil {
			t.Fatal(err)
		}
		ct, err := a.params.pk.Encrypt(reader(nil), policy, testSecret[:])
		if err != nil {
			t.Fatal(err)
		}
		all := []attackWire{{0, "tier"}, {1, "env"}, {2, "zone"}}[:len(policy.ExtractAttributeValuePairs())]
		wires := append(all[:len(all):len(all)], attackWire{len(all), tknInternalLabel})

		var attrs tkn20.Attributes
		attrs.FromMap(map[string]string{"tier": "app", "env": "prod", "zone": "a"})
		sk, err := a.msk.KeyGen(reader(nil), attrs)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := sk.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		parts := readParts(t, ct, raw)
		if got, ok := parts.attack(t, wires); !ok || !bytes.Equal(got, testSecret[:]) {
			t.Fatalf("%s: the attacker cannot even open with every leaf: the attack does not attack", text)
		}
		// Every proper subset of the leaves, the internal one alone included,
		// which every key has: none may be enough.
		for set := 1; set < 1<<len(wires)-1; set++ {
			var subset []attackWire
			for i, w := range wires {
				if set>>i&1 == 1 {
					subset = append(subset, w)
				}
			}
			if _, ok := parts.attack(t, subset); ok {
				t.Errorf("%s opens with %v alone: circl has the AND-share bug of v1.6.3", text, subset)
			}
		}
	}
}

func TestTwoKeysDoNotAddUp(t *testing.T) {
	a := testAuthority()
	policy, err := parseTkn("(tier:app and env:prod)")
	if err != nil {
		t.Fatal(err)
	}
	ct, err := a.params.pk.Encrypt(reader(nil), policy, testSecret[:])
	if err != nil {
		t.Fatal(err)
	}
	keyOf := func(m map[string]string) []byte {
		var attrs tkn20.Attributes
		attrs.FromMap(m)
		sk, err := a.msk.KeyGen(reader(nil), attrs)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := sk.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	one := readParts(t, ct, keyOf(map[string]string{"tier": "app", "env": "test"}))
	two := readParts(t, ct, keyOf(map[string]string{"tier": "db", "env": "prod"}))
	all := []attackWire{{0, "tier"}, {1, "env"}, {2, tknInternalLabel}}
	one.k3["env"] = two.k3["env"] // each has what the other lacks
	if _, ok := one.attack(t, all); ok {
		t.Error("components of two keys opened together")
	}
	one.k1, one.k3wild, one.k3[tknInternalLabel] = two.k1, two.k3wild, two.k3[tknInternalLabel]
	if _, ok := one.attack(t, all); ok {
		t.Error("components of two keys opened together")
	}
}
