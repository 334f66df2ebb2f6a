package abe

import (
	"bytes"
	"testing"
)

func testPolicyKey(t testing.TB) *PolicyKey {
	t.Helper()
	k, err := DerivePolicyKey(testSecret, Secret{1}, target(tierApp), 3)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// RFC 9180, Appendix A.2.1 (base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305),
// first encryption: ikmR, enc and ct.
const (
	rfcIKM  = "1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df"
	rfcEnc  = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
	rfcCT   = "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
	rfcInfo = "4f6465206f6e2061204772656369616e2055726e"
	rfcAAD  = "436f756e742d30"
)

func TestOpenRFC9180Vector(t *testing.T) {
	k, err := keyFromIKM(unhex(t, rfcIKM))
	if err != nil {
		t.Fatal(err)
	}
	public := k.Public()
	if want := unhex(t, "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a"); !bytes.Equal(public[:], want) {
		t.Fatalf("pkRm = %x", public)
	}
	sealed, info, aad := unhex(t, rfcEnc+rfcCT), unhex(t, rfcInfo), unhex(t, rfcAAD)
	got, err := k.Open(info, aad, sealed)
	if err != nil || string(got) != "Beauty is truth, truth beauty" {
		t.Fatalf("Open = %q, %v", got, err)
	}
}

// Computed from the formulas of docs/protocol/abe.md by another implementation
// (Python's hmac and a textbook X25519), for service H("test service" ‖
// "shop")[:20] in the sense of id.Hash, generation 7, l:tier=app, authority seed
// SHA-256("test authority"), epoch key 01 00 ... 00, epoch 3.
func TestDerivationsFollowThePage(t *testing.T) {
	tt := target(tierApp)
	if got := tt.ID().String(); got != "191109ba15e8a4d15bda4addef4145ef13efac99" {
		t.Errorf("short name %s", got)
	}
	seed, err := testAuthority().PolicySeed(tt)
	if err != nil || !bytes.Equal(seed[:], unhex(t, "22ad862a01027e5b66cfa209750bc7dfa6f9f35c7ab6f7830fa8c926f98dcf88")) {
		t.Errorf("seed of the target: %x, %v", seed[:], err)
	}
	k, err := DerivePolicyKey(seed, Secret{1}, tt, 3)
	if err != nil {
		t.Fatal(err)
	}
	if public := k.Public(); !bytes.Equal(public[:], unhex(t, "f011a5ce8f5e9ee8f211f29dc58d8a394cdad714c57f881cc1af855225581f74")) {
		t.Errorf("policy key %x", public)
	}
}

func TestSealOpenRoundTrip(t *testing.T) {
	k := testPolicyKey(t)
	info, aad := []byte("icvpn/1 contact"), []byte("aad")
	for _, n := range []int{0, 1, 552, maxSealed - Overhead} {
		plain := bytes.Repeat([]byte{7}, n)
		ct, err := Seal(k.Public(), info, aad, plain)
		if err != nil || len(ct) != n+Overhead {
			t.Fatalf("Seal of %d: %d bytes, %v", n, len(ct), err)
		}
		if got, err := k.Open(info, aad, ct); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("Open of %d: %v", n, err)
		}
	}
	if _, err := Seal(k.Public(), info, aad, make([]byte, maxSealed-Overhead+1)); err == nil {
		t.Error("more than the limit sealed")
	}
	if _, err := k.Open(info, aad, make([]byte, maxSealed+1)); err == nil {
		t.Error("more than the limit opened")
	}
}

func TestOpenRefusesEverythingElse(t *testing.T) {
	k := testPolicyKey(t)
	info, aad := []byte("info"), []byte("aad")
	ct, err := Seal(k.Public(), info, aad, []byte("contact"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range ct {
		evil := bytes.Clone(ct)
		// This includes the top bit of enc: X25519 ignores it (RFC 7748,
		// Section 5), but HPKE hashes enc as sent.
		evil[i] ^= 0x80
		if _, err := k.Open(info, aad, evil); err == nil {
			t.Errorf("flip of byte %d opened", i)
		}
		if _, err := k.Open(info, aad, ct[:i]); err == nil {
			t.Errorf("truncation to %d bytes opened", i)
		}
	}
	if _, err := k.Open(info, aad, append(bytes.Clone(ct), 0)); err == nil {
		t.Error("trailing byte opened")
	}
	if _, err := k.Open([]byte("other"), aad, ct); err == nil {
		t.Error("opened under another info")
	}
	if _, err := k.Open(info, []byte("other"), ct); err == nil {
		t.Error("opened under another aad")
	}
	if _, err := k.Open(info, aad, make([]byte, 100)); err == nil {
		t.Error("enc of small order accepted")
	}
	if _, err := Seal([32]byte{}, info, aad, nil); err == nil {
		t.Error("sealed to a public key of small order")
	}
}

func TestPolicyKeyDependsOnEverything(t *testing.T) {
	base := testPolicyKey(t).Public()
	if again := testPolicyKey(t).Public(); again != base {
		t.Fatal("not deterministic")
	}
	seen := map[[32]byte]string{base: "base"}
	other := target(tierApp)
	for name, derive := range map[string]func() (*PolicyKey, error){
		"seed":      func() (*PolicyKey, error) { return DerivePolicyKey(Secret{2}, Secret{1}, other, 3) },
		"epoch key": func() (*PolicyKey, error) { return DerivePolicyKey(testSecret, Secret{2}, other, 3) },
		"epoch":     func() (*PolicyKey, error) { return DerivePolicyKey(testSecret, Secret{1}, other, 4) },
		"policy":    func() (*PolicyKey, error) { return DerivePolicyKey(testSecret, Secret{1}, target(tierWeb), 3) },
		"service": func() (*PolicyKey, error) {
			return DerivePolicyKey(testSecret, Secret{1}, Target{testPID, testGeneration, tierApp}, 3)
		},
		"generation": func() (*PolicyKey, error) {
			return DerivePolicyKey(testSecret, Secret{1}, Target{testService, 8, tierApp}, 3)
		},
		"swapped": func() (*PolicyKey, error) { return DerivePolicyKey(Secret{1}, testSecret, other, 3) },
	} {
		k, err := derive()
		if err != nil {
			t.Fatal(err)
		}
		if same, ok := seen[k.Public()]; ok {
			t.Errorf("%s: the key of %s", name, same)
		}
		seen[k.Public()] = name
	}
	if _, err := DerivePolicyKey(testSecret, Secret{1}, Target{}, 3); err == nil {
		t.Error("a key for no target")
	}
}

// Seal cannot be made reproducible, so this runs on the RFC's ciphertext.
func FuzzOpen(f *testing.F) {
	k, err := keyFromIKM(unhex(f, rfcIKM))
	if err != nil {
		f.Fatal(err)
	}
	ct, info, aad := unhex(f, rfcEnc+rfcCT), unhex(f, rfcInfo), unhex(f, rfcAAD)
	f.Add(ct)
	f.Add(ct[:encSize+tagSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := k.Open(info, aad, b); err == nil && !bytes.Equal(b, ct) {
			t.Error("opened what nobody sealed")
		}
	})
}
