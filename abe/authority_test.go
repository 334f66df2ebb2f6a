package abe

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"icvpn/internal/id"
)

// Pinned: a release of circl or Go that draws set-up randomness otherwise would
// split a service whose super peers run different binaries. Made with circl
// v1.6.5 and Go 1.26.
const pinnedParams = "45a46666e70da8db8d14b1b0a2f83412c2231fa9ad5b6a6aba631ebef8c2a36e"

func TestSetupIsDeterministic(t *testing.T) {
	a := testAuthority()
	b, err := NewAuthority(testSeed, testService)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Params().Bytes(), b.Params().Bytes()) || len(b.Params().Bytes()) != ParamsSize {
		t.Fatal("one seed, two sets of public parameters")
	}
	if h := b.Params().Hash(); hex.EncodeToString(h[:]) != pinnedParams {
		t.Errorf("parameters of the test seed have hash %x", h)
	}
	// What one seals the other's keys open, and the seeds are the same.
	key, err := b.KeyGen(nil, attributes("tier", "app"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Unseal(target(tierApp), sealTierApp()); err != nil || got != testSecret {
		t.Errorf("the second authority's key: %v", err)
	}
	s1, err1 := a.PolicySeed(target(tierApp))
	s2, err2 := b.PolicySeed(target(tierApp))
	if err1 != nil || err2 != nil || s1 != s2 {
		t.Error("two authorities, two seeds")
	}
}

func TestOtherSeedOrServiceIsAnotherAuthority(t *testing.T) {
	a := testAuthority()
	for name, b := range map[string]func() (*Authority, error){
		"seed":    func() (*Authority, error) { return NewAuthority(Secret{1}, testService) },
		"service": func() (*Authority, error) { return NewAuthority(testSeed, testPID) },
	} {
		b, err := b()
		if err != nil {
			t.Fatal(err)
		}
		if a.Params().Hash() == b.Params().Hash() {
			t.Errorf("another %s has the same parameters", name)
		}
		attrs := attributes("tier", "app")
		attrs.Service = b.Service()
		key, err := b.KeyGen(nil, attrs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := key.sk.Decrypt(sealTierApp()); err == nil {
			t.Errorf("a key of another %s opens", name)
		}
	}
	if _, err := NewAuthority(testSeed, id.ID{}); err == nil {
		t.Error("authority of no service")
	}
}

func TestPolicySeedSeparatesTargets(t *testing.T) {
	a := testAuthority()
	seen := map[Secret]Target{}
	for _, tt := range []Target{target(tierApp), target(tierWeb), target(And(tierApp, envProd)), {testService, 8, tierApp}} {
		s, err := a.PolicySeed(tt)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := seen[s]; ok {
			t.Errorf("%v shares a seed", tt)
		}
		seen[s] = tt
	}
	if _, err := a.PolicySeed(Target{testPID, testGeneration, tierApp}); err == nil {
		t.Error("a seed for another service")
	}
	if _, err := a.PolicySeed(Target{}); err == nil {
		t.Error("a seed for no target")
	}
}

func TestKeyGenRefuses(t *testing.T) {
	a := testAuthority()
	foreign, many, badKey := attributes(), attributes(), attributes("", "x")
	foreign.Service = testPID
	for i := range maxLabels {
		many.Labels[fmt.Sprint(i)] = "x"
	}
	vm := attributes()
	vm.VM = "\xff"
	for name, attrs := range map[string]Attributes{
		"zero": {}, "foreign": foreign, "too many labels": many, "empty label key": badKey, "vm": vm,
	} {
		if _, err := a.KeyGen(nil, attrs); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := a.KeyGen(bytes.NewReader(nil), attributes()); err == nil {
		t.Error("a dry source of randomness accepted")
	}
}

// Each of these tests asks the pairing itself, not Unseal, which asks Matches
// first.
func opens(k *Key, ct []byte) bool {
	plain, err := k.sk.Decrypt(ct)
	return err == nil && bytes.Equal(plain, testSecret[:])
}

func TestWrongGenerationDoesNotOpen(t *testing.T) {
	attrs := attributes("tier", "app")
	attrs.Generation++
	k := keyFor(t, attrs)
	if opens(k, sealTierApp()) {
		t.Error("a key of the next generation opens")
	}
	if _, err := k.Unseal(target(tierApp), sealTierApp()); !errors.Is(err, ErrGeneration) {
		t.Errorf("Unseal: %v, want ErrGeneration", err)
	}
}

func TestWrongValueOrMissingLabelDoesNotOpen(t *testing.T) {
	for _, attrs := range []Attributes{
		attributes("tier", "web"), attributes(), {Service: testService, Generation: testGeneration},
		attributes("env", "app"),
	} {
		k := keyFor(t, attrs)
		if opens(k, sealTierApp()) {
			t.Errorf("%v opens tier=app", attrs.Labels)
		}
		if _, err := k.Unseal(target(tierApp), sealTierApp()); !errors.Is(err, ErrNoMatch) {
			t.Errorf("Unseal: %v, want ErrNoMatch", err)
		}
	}
}

func TestOneValuePerLabel(t *testing.T) {
	ct := seal(t, And(tierApp, tierWeb))
	for _, v := range []string{"app", "web"} {
		if opens(keyFor(t, attributes("tier", v)), ct) {
			t.Errorf("tier=%s opens tier=app and tier=web", v)
		}
	}
}

func TestUnsealRefusesAnotherTargetsCiphertext(t *testing.T) {
	k := keyFor(t, attributes("tier", "app", "env", "prod"))
	if _, err := k.Unseal(target(envProd), sealTierApp()); err == nil {
		t.Error("a ciphertext for tier=app passed for one for env=prod")
	}
	if _, err := k.Unseal(target(And(tierApp, envProd)), sealTierApp()); err == nil {
		t.Error("a ciphertext for tier=app passed for a stricter one")
	}
	if _, err := k.Unseal(target(Or(tierApp, envProd)), seal(t, And(tierApp, envProd))); err == nil {
		t.Error("and passed for or")
	}
}

// The property: the pairing opens exactly when the dumb twin says so.
func TestOpensIffMatches(t *testing.T) {
	n := 8
	if brief() {
		n = 2
	}
	var holders []Attributes
	for _, tier := range []string{"", "app", "web"} {
		for _, env := range []string{"", "prod"} {
			holders = append(holders, attributes("tier", tier, "env", env))
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range n {
		p := randomPolicy(r, 3)
		ct := seal(t, p)
		for _, attrs := range holders {
			k, want := keyFor(t, attrs), p.Matches(attrs)
			if got := opens(k, ct); got != want {
				t.Errorf("%v with %v: opens %v, matches %v", p, attrs.Labels, got, want)
			}
			if _, err := k.Unseal(target(p), ct); (err == nil) != want {
				t.Errorf("%v with %v: Unseal: %v, matches %v", p, attrs.Labels, err, want)
			}
		}
	}
}

func randomPolicy(r *rand.Rand, depth int) Policy {
	if depth == 0 || r.IntN(4) == 0 {
		pairs := []Policy{tierApp, tierWeb, envProd, Label("env", "test"), ForSlot(SlotID{1}), Label("zone", "a")}
		return pairs[r.IntN(len(pairs))]
	}
	var kids []Policy
	for range 2 + r.IntN(2) {
		kids = append(kids, randomPolicy(r, depth-1))
	}
	p := And(kids...)
	if r.IntN(2) == 0 {
		p = Or(kids...)
	}
	if p.Err() != nil { // out of bounds
		return tierApp
	}
	return p
}

func TestLargestPolicySealsAndOpens(t *testing.T) {
	if brief() {
		t.Skip("half a second and more")
	}
	var ps []Policy
	for i := range maxConditions {
		ps = append(ps, Label("tier", string(rune('a'+i))))
	}
	p := Or(ps...)
	ct := seal(t, p)
	if got, err := keyFor(t, attributes("tier", "p")).Unseal(target(p), ct); err != nil || got != testSecret {
		t.Error(err)
	}
	if len(ct) > maxEnvelopeSize-1024 {
		t.Errorf("%d bytes do not fit an envelope", len(ct))
	}
	t.Logf("%d bytes", len(ct))
}

func TestKeysAndParamsAreSafeForConcurrentUse(t *testing.T) {
	k := keyFor(t, attributes("tier", "app"))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := k.Unseal(target(tierApp), sealTierApp()); err != nil {
				t.Error(err)
			}
			if _, err := testAuthority().Params().SealTo(nil, target(tierApp), testSecret); err != nil {
				t.Error(err)
			}
			if _, err := testAuthority().KeyGen(nil, Attributes{Service: testService}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestKeyRoundTrip(t *testing.T) {
	attrs := attributes("tier", "app")
	attrs.Slot, attrs.SuperPeer, attrs.VM = SlotID{1}, testPID, "vm"
	for _, attrs := range []Attributes{attrs, {Service: testService}} {
		k := keyFor(t, attrs)
		b := k.Bytes()
		q, err := ParseKey(b)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(q.Attributes().tknMap()) != fmt.Sprint(attrs.tknMap()) || !bytes.Equal(q.Bytes(), b) {
			t.Errorf("attributes %v came back as %v", attrs, q.Attributes())
		}
		if opens(q, sealTierApp()) != target(tierApp).Matches(attrs) {
			t.Error("the parsed key opens otherwise")
		}
		t.Logf("%d attributes: %d bytes", len(attrs.tknMap()), len(b))
		for i := range b {
			if _, err := ParseKey(b[:i]); err == nil {
				t.Fatalf("truncation to %d bytes accepted", i)
			}
		}
		if _, err := ParseKey(append(b, 0)); err == nil {
			t.Error("trailing byte accepted")
		}
	}
}

func TestWipedKeyOpensNothing(t *testing.T) {
	k, err := ParseKey(keyFor(t, attributes("tier", "app")).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	k.Wipe()
	if _, err := k.Unseal(target(tierApp), sealTierApp()); err == nil {
		t.Error("opened")
	}
	if bytes.ContainsFunc(k.raw, func(r rune) bool { return r != 0 }) {
		t.Error("key bytes are still there")
	}
}

func TestParamsRoundTrip(t *testing.T) {
	b := testAuthority().Params().Bytes()
	p, err := ParseParams(b)
	if err != nil || !bytes.Equal(p.Bytes(), b) || p.Hash() != HashParams(b) {
		t.Fatal(err)
	}
	ct, err := p.SealTo(nil, target(tierApp), testSecret)
	if err != nil || !opens(keyFor(t, attributes("tier", "app")), ct) {
		t.Errorf("sealed under parsed parameters: %v", err)
	}
	for i := range b {
		if _, err := ParseParams(b[:i]); err == nil {
			t.Fatalf("truncation to %d bytes accepted", i)
		}
	}
	if _, err := ParseParams(append(b, 0)); err == nil {
		t.Error("trailing byte accepted")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	secret := Secret(sha256.Sum256([]byte("x")))
	pk, err := DerivePolicyKey(secret, secret, target(tierApp), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{
		secret, &secret, testAuthority(), keyFor(t, attributes()), pk, Slot{Key: []byte("secret key")}, &Slot{},
		struct{ S Secret }{secret},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			s := fmt.Sprintf(verb, v)
			if s != redacted && s != "{"+redacted+"}" && s != "{S:"+redacted+"}" && s != "struct { S abe.Secret }{S:"+redacted+"}" {
				t.Errorf("%s of %T prints %.80s", verb, v, s)
			}
		}
	}
}
