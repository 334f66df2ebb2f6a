package abe

import (
	"fmt"
	"testing"
)

func BenchmarkNewAuthority(b *testing.B) {
	for b.Loop() {
		if _, err := NewAuthority(testSeed, testService); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKeyGen(b *testing.B) {
	for _, n := range []int{0, 1, 3} {
		attrs := Attributes{Service: testService, Labels: map[string]string{}}
		for i := range n {
			attrs.Labels[fmt.Sprint(i)] = "x"
		}
		b.Run(fmt.Sprintf("labels=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := testAuthority().KeyGen(nil, attrs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSealTo(b *testing.B) {
	for _, p := range []Policy{tierApp, And(tierApp, envProd)} {
		b.Run(fmt.Sprintf("conditions=%d", p.root.conditions), func(b *testing.B) {
			for b.Loop() {
				if _, err := testAuthority().Params().SealTo(nil, target(p), testSecret); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnseal(b *testing.B) {
	k, ct := keyFor(b, attributes("tier", "app")), sealTierApp()
	for b.Loop() {
		if _, err := k.Unseal(target(tierApp), ct); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseKey(b *testing.B) {
	raw := keyFor(b, attributes("tier", "app")).Bytes()
	for b.Loop() {
		if _, err := ParseKey(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDerivePolicyKey(b *testing.B) {
	for b.Loop() {
		testPolicyKey(b)
	}
}

func BenchmarkSeal(b *testing.B) {
	public := testPolicyKey(b).Public()
	plain := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Seal(public, nil, nil, plain); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	k := testPolicyKey(b)
	ct, err := Seal(k.Public(), nil, nil, make([]byte, 200))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(nil, nil, ct); err != nil {
			b.Fatal(err)
		}
	}
}
