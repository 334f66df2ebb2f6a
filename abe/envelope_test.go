package abe

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"sync"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

var testEnvelope = sync.OnceValue(func() []byte {
	b, err := testAuthority().Envelope(testRand("envelope"), issuerKey, target(tierApp), 5, testExpiry)
	if err != nil {
		panic(err)
	}
	return b
})

func TestEnvelopeRoundTrip(t *testing.T) {
	b := testEnvelope()
	want, err := testAuthority().PolicySeed(target(tierApp))
	if err != nil {
		t.Fatal(err)
	}
	e, seed, err := OpenEnvelope(b, keyFor(t, attributes("tier", "app")), testVerifier, testNow)
	if err != nil || seed != want {
		t.Fatalf("OpenEnvelope: %v", err)
	}
	if !e.Target.Equal(target(tierApp)) || e.Issuer != issuerPID || e.Seq != 5 || !e.Expiry.Equal(testExpiry) {
		t.Errorf("read %+v", e)
	}
	t.Logf("%d bytes", len(b))
}

func TestEnvelopeSaysWhyItDoesNotOpen(t *testing.T) {
	next := attributes("tier", "app")
	next.Generation++
	if _, seed, err := OpenEnvelope(testEnvelope(), keyFor(t, next), testVerifier, testNow); !errors.Is(err, ErrGeneration) || seed != (Secret{}) {
		t.Errorf("next generation: %v", err)
	}
	if _, seed, err := OpenEnvelope(testEnvelope(), keyFor(t, attributes("tier", "web")), testVerifier, testNow); !errors.Is(err, ErrNoMatch) || seed != (Secret{}) {
		t.Errorf("another tier: %v", err)
	}
	for _, now := range []time.Time{testExpiry, testExpiry.Add(time.Hour)} {
		if _, err := VerifyEnvelope(testEnvelope(), testService, testVerifier, now); !errors.Is(err, ErrExpired) {
			t.Errorf("at %v: %v", now, err)
		}
	}
	if _, err := VerifyEnvelope(testEnvelope(), testService, testVerifier, testExpiry.Add(-time.Second)); err != nil {
		t.Errorf("in its last second: %v", err)
	}
}

func TestEnvelopeOfStrangersIsRefused(t *testing.T) {
	nobody := func(id.ID) (ed25519.PublicKey, bool) { return nil, false }
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)).Public().(ed25519.PublicKey)
	swapped := func(id.ID) (ed25519.PublicKey, bool) { return other, true }
	short := func(id.ID) (ed25519.PublicKey, bool) { return other[:31], true }
	for name, v := range map[string]Verifier{"nobody": nobody, "swapped": swapped, "short": short} {
		if _, err := VerifyEnvelope(testEnvelope(), testService, v, testNow); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := VerifyEnvelope(testEnvelope(), testPID, testVerifier, testNow); err == nil {
		t.Error("accepted for another service")
	}
	// A good signature by a listed key, under the name of somebody else.
	lax := func(id.ID) (ed25519.PublicKey, bool) { return issuerKey.Public().(ed25519.PublicKey), true }
	b := resign(envelopeWire{
		Version: 1, Type: typeEnvelope, Service: testService, Policy: tierApp.String(), Generation: testGeneration,
		Issuer: testPID, Seq: 1, Expiry: uint64(testExpiry.Unix()), Ciphertext: sealTierApp(),
	})
	if _, err := VerifyEnvelope(b, testService, lax, testNow); err == nil {
		t.Error("accepted under another issuer's name")
	}
}

func TestEnvelopeTruncationsFlipsAndTrailingBytes(t *testing.T) {
	b := testEnvelope()
	for i := range b {
		if _, err := VerifyEnvelope(b[:i], testService, testVerifier, testNow); err == nil {
			t.Fatalf("truncation to %d bytes accepted", i)
		}
		evil := bytes.Clone(b)
		evil[i] ^= 1
		if _, err := VerifyEnvelope(evil, testService, testVerifier, testNow); err == nil {
			t.Fatalf("flip of byte %d accepted", i)
		}
	}
	if _, err := VerifyEnvelope(append(bytes.Clone(b), 0), testService, testVerifier, testNow); err == nil {
		t.Error("trailing byte accepted")
	}
	if _, err := VerifyEnvelope(make([]byte, maxEnvelopeSize+1), testService, testVerifier, testNow); err == nil {
		t.Error("more than the limit accepted")
	}
}

// What an authority signs may still be wrong: it must not panic or open.
func TestSignedNonsenseIsRefused(t *testing.T) {
	good := envelopeWire{
		Version: 1, Type: typeEnvelope, Service: testService, Policy: tierApp.String(), Generation: testGeneration,
		Issuer: issuerPID, Seq: 1, Expiry: uint64(testExpiry.Unix()), Ciphertext: sealTierApp(),
	}
	if _, _, err := OpenEnvelope(resign(good), keyFor(t, attributes("tier", "app")), testVerifier, testNow); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*envelopeWire){
		"version":               func(w *envelopeWire) { w.Version = 2 },
		"type":                  func(w *envelopeWire) { w.Type = typeStatement },
		"service":               func(w *envelopeWire) { w.Service = testPID },
		"policy":                func(w *envelopeWire) { w.Policy = "l:tier=app) or (l:a=b" },
		"another policy":        func(w *envelopeWire) { w.Policy = Or(tierApp, tierWeb).String() },
		"policy not canonical":  func(w *envelopeWire) { w.Policy = "or(l:tier=app)" },
		"generation":            func(w *envelopeWire) { w.Generation++ },
		"issuer":                func(w *envelopeWire) { w.Issuer = testPID },
		"expiry":                func(w *envelopeWire) { w.Expiry = 0 },
		"no ciphertext":         func(w *envelopeWire) { w.Ciphertext = nil },
		"truncated ciphertext":  func(w *envelopeWire) { w.Ciphertext = w.Ciphertext[:3000] },
		"ciphertext of 65 kB":   func(w *envelopeWire) { w.Ciphertext = make([]byte, 1<<16) },
		"ciphertext all zeroes": func(w *envelopeWire) { w.Ciphertext = make([]byte, len(w.Ciphertext)) },
	} {
		w := good
		change(&w)
		if _, _, err := OpenEnvelope(resign(w), keyFor(t, attributes("tier", "app")), testVerifier, testNow); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	far := good
	far.Expiry = 1<<64 - 1
	if e, err := VerifyEnvelope(resign(far), testService, testVerifier, testNow); err != nil || !e.Expiry.After(testNow) {
		t.Errorf("expiry at the end of time: %v", err)
	}
	statement := wire.Sign(issuerKey, "icvpn/1 "+typeStatement, wire.Marshal(good))
	if _, err := VerifyEnvelope(append(wire.Marshal(good), statement...), testService, testVerifier, testNow); err == nil {
		t.Error("a signature for another type accepted")
	}
}

func resign(w envelopeWire) []byte {
	return appendSignature(wire.Marshal(w), typeEnvelope, issuerKey)
}

func TestIssuingRefusesBadArguments(t *testing.T) {
	a := testAuthority()
	if _, err := a.Envelope(nil, issuerKey[:10], target(tierApp), 1, testExpiry); err == nil {
		t.Error("short key")
	}
	if _, err := a.Envelope(nil, issuerKey, target(tierApp), 1, time.Time{}); err == nil {
		t.Error("no expiry")
	}
	if _, err := a.Envelope(nil, issuerKey, target(Policy{}), 1, testExpiry); err == nil {
		t.Error("no policy")
	}
	if _, err := a.Envelope(nil, issuerKey, Target{testPID, 1, tierApp}, 1, testExpiry); err == nil {
		t.Error("another service")
	}
	if _, err := (Statement{Expiry: testExpiry}).Sign(issuerKey); err == nil {
		t.Error("statement about no target")
	}
}

func testStatement() Statement {
	return Statement{Target: target(tierApp), Epoch: 3, Public: [32]byte{9}, Issuer: issuerPID, Seq: 4, Expiry: testExpiry}
}

func TestStatementRoundTrip(t *testing.T) {
	s := testStatement()
	b, err := s.Sign(issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyStatement(b, testService, testVerifier, testNow)
	if err != nil || !got.Target.Equal(s.Target) || got.Epoch != 3 || got.Public != s.Public ||
		got.Issuer != issuerPID || got.Seq != 4 || !got.Expiry.Equal(s.Expiry) {
		t.Fatalf("read %+v, %v", got, err)
	}
	if _, err := VerifyStatement(b, testService, testVerifier, testExpiry); !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	if _, err := VerifyStatement(b, testPID, testVerifier, testNow); err == nil {
		t.Error("accepted for another service")
	}
	for i := range b {
		evil := bytes.Clone(b)
		evil[i] ^= 1
		if _, err := VerifyStatement(evil, testService, testVerifier, testNow); err == nil {
			t.Errorf("flip of byte %d accepted", i)
		}
		if _, err := VerifyStatement(b[:i], testService, testVerifier, testNow); err == nil {
			t.Errorf("truncation to %d bytes accepted", i)
		}
	}
	if _, err := VerifyStatement(append(b, 0), testService, testVerifier, testNow); err == nil {
		t.Error("trailing byte accepted")
	}
	if _, err := VerifyEnvelope(b, testService, testVerifier, testNow); err == nil {
		t.Error("a statement passed for an envelope")
	}
}

func TestLargestStatementFitsARecord(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 59)
	s := testStatement()
	s.Target.Policy = And(Label("a", string(long)), Label("b", string(long)), Label("c", string(long)), Label("d", string(long)), Label("e", string(long)))
	s.Target.Generation, s.Epoch, s.Seq = 1<<32-1, 1<<32-1, 1<<64-1
	if n := len(s.Target.Policy.String()); n < maxPolicyText-64 {
		t.Fatalf("policy of only %d bytes", n)
	}
	b, err := s.Sign(issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	if spare := maxStatement - len(b); spare < maxPolicyText-len(s.Target.Policy.String()) {
		t.Errorf("%d bytes: a policy of %d would not fit", len(b), maxPolicyText)
	}
}

func FuzzVerifyEnvelope(f *testing.F) {
	good := testEnvelope()
	f.Add(uint16(0), []byte{0x8a})
	f.Add(uint16(40), []byte("or("))
	f.Add(uint16(200), []byte{})
	key := keyFor(f, attributes("tier", "app"))
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		b := patched(good, at, patch)
		if _, err := VerifyEnvelope(b, testService, testVerifier, testNow); err == nil && !bytes.Equal(b, good) {
			t.Error("accepted what nobody signed")
		}
		// The same with a good signature: what a rogue authority may send.
		body := b[:max(0, len(b)-ed25519.SignatureSize)]
		OpenEnvelope(appendSignature(body, typeEnvelope, issuerKey), key, testVerifier, testNow)
	})
}

func FuzzVerifyStatement(f *testing.F) {
	b, err := testStatement().Sign(issuerKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-64])
	f.Fuzz(func(t *testing.T, b []byte) {
		body := bytes.Clone(b)
		s, err := VerifyStatement(appendSignature(body, typeStatement, issuerKey), testService, testVerifier, testNow)
		if err != nil {
			return
		}
		again, err := s.Sign(issuerKey)
		if err != nil || !bytes.Equal(again[:len(again)-64], b) {
			t.Errorf("%x was accepted and is written %x, %v", b, again, err)
		}
	})
}
