package abe

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"icvpn/internal/id"
)

// The fixture: one service, one authority, keys made once, since each costs
// 10 ms an attribute.
var (
	testService = id.Hash("test service", []byte("shop"))
	testNow     = time.Unix(1_800_000_000, 0)
	testExpiry  = testNow.Add(24 * time.Hour)
	testSeed    = Secret(sha256.Sum256([]byte("test authority")))

	issuerKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	issuerPID = id.FromKey(issuerKey.Public().(ed25519.PublicKey))
)

const testGeneration = 7

var testAuthority = sync.OnceValue(func() *Authority {
	a, err := NewAuthority(testSeed, testService)
	if err != nil {
		panic(err)
	}
	return a
})

func testVerifier(pid id.ID) (ed25519.PublicKey, bool) {
	return issuerKey.Public().(ed25519.PublicKey), pid == issuerPID
}

// labels returns a complete label set from key, value, key, value ...
func labels(kv ...string) map[string]string {
	m := map[string]string{"tier": "", "env": ""}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func attributes(kv ...string) Attributes {
	return Attributes{Service: testService, Generation: testGeneration, Labels: labels(kv...)}
}

func target(p Policy) Target {
	return Target{Service: testService, Generation: testGeneration, Policy: p}
}

var (
	keysMu sync.Mutex
	keys   = map[string]*Key{}
)

// keyFor returns the key for attrs, made at most once.
func keyFor(t testing.TB, attrs Attributes) *Key {
	t.Helper()
	keysMu.Lock()
	defer keysMu.Unlock()
	name := fmt.Sprint(attrs.tknMap())
	if k := keys[name]; k != nil {
		return k
	}
	k, err := testAuthority().KeyGen(testRand(name), attrs)
	if err != nil {
		t.Fatal(err)
	}
	keys[name] = k
	return k
}

var testSecret = Secret(sha256.Sum256([]byte("test secret")))

var sealTierApp = sync.OnceValue(func() []byte {
	ct, err := testAuthority().Params().SealTo(testRand("tier=app"), target(Label("tier", "app")), testSecret)
	if err != nil {
		panic(err)
	}
	return ct
})

func seal(t testing.TB, p Policy) []byte {
	t.Helper()
	ct, err := testAuthority().Params().SealTo(nil, target(p), testSecret)
	if err != nil {
		t.Fatal(err)
	}
	return ct
}

// testRand is a reproducible source, so that what a fuzzer finds can be found
// again.
func testRand(seed string) *rand.ChaCha8 { return rand.NewChaCha8(sha256.Sum256([]byte(seed))) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// raceEnabled is set by race_test.go. The race detector makes pairings ten times
// slower and has nothing to find in loops over hostile bytes.
var raceEnabled bool

// brief says to do fewer of the same.
func brief() bool { return testing.Short() || raceEnabled }

func TestMatchingKeyOpens(t *testing.T) {
	ct := sealTierApp()
	got, err := keyFor(t, attributes("tier", "app")).Unseal(target(Label("tier", "app")), ct)
	if err != nil || got != testSecret {
		t.Fatalf("Unseal = %x, %v", got[:], err)
	}
	t.Logf("%d bytes of ciphertext", len(ct))
}
