package admission

import (
	"bytes"
	"crypto/rand"
	"testing"

	"filippo.io/bigmod"
)

func TestFixedBaseAgreesWithExp(t *testing.T) {
	exponents := [][]byte{nil, {0}, {1}, {15}, {16}, {0, 0, 7}, bytes.Repeat([]byte{0xff}, exponentSize), make([]byte, exponentSize)}
	for range 20 {
		e := make([]byte, exponentSize)
		rand.Read(e)
		exponents = append(exponents, e)
	}
	for _, g := range []Group{Group2048, Group3072, Group4096} {
		p := g.srp()
		for _, e := range exponents {
			if got, want := p.power(e), bigmod.NewNat().Exp(p.g, e, p.n); got.Equal(want) != 1 {
				t.Errorf("%v: g^%x differs", g, e)
			}
		}
	}
}

func BenchmarkPower(b *testing.B) {
	p, e := Group2048.srp(), bytes.Repeat([]byte{0xa5}, exponentSize)
	b.Run("fixed", func(b *testing.B) {
		for b.Loop() {
			p.power(e)
		}
	})
	b.Run("exp", func(b *testing.B) {
		for b.Loop() {
			bigmod.NewNat().Exp(p.g, e, p.n)
		}
	})
}
