package admission

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestVerifierRoundTrip(t *testing.T) {
	for _, params := range []Params{{Group2048, KDFNone}, {Group4096, KDFArgon2id}} {
		v, err := NewVerifier("db_2.x-Y", testSecret, params)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseVerifier(v.Bytes())
		if err != nil || got.SecretID != v.SecretID || got.Params != params || !bytes.Equal(got.V, v.V) || !bytes.Equal(got.Salt, v.Salt) {
			t.Fatalf("%v, %v", got, err)
		}
		again, err := NewVerifier("db_2.x-Y", testSecret, params)
		if err != nil || bytes.Equal(again.Salt, v.Salt) || bytes.Equal(again.V, v.V) {
			t.Error("the salt is not fresh")
		}
	}
}

func TestParseVerifierRefusesBadBytes(t *testing.T) {
	good := newVerifierOnce(t)
	b := good.Bytes()
	for i := range b {
		if _, err := ParseVerifier(b[:i]); err == nil {
			t.Errorf("accepted %d bytes", i)
		}
	}
	if _, err := ParseVerifier(append(slices.Clone(b), 0)); err == nil {
		t.Error("accepted a trailing byte")
	}
	for name, change := range map[string]func(*Verifier){
		"group":     func(v *Verifier) { v.Params.Group = 1024 },
		"kdf":       func(v *Verifier) { v.Params.KDF = 9 },
		"secret ID": func(v *Verifier) { v.SecretID = "a:b" },
		"salt":      func(v *Verifier) { v.Salt = v.Salt[:15] },
		"v zero":    func(v *Verifier) { v.V = make([]byte, 256) },
		"v short":   func(v *Verifier) { v.V = v.V[:255] },
		"v is N":    func(v *Verifier) { v.V = Group2048.srp().nBytes },
	} {
		v := good
		change(&v)
		if _, err := ParseVerifier(v.Bytes()); err == nil {
			t.Errorf("bad %s accepted", name)
		}
	}
}

func TestNewVerifierRefusesWeakSecrets(t *testing.T) {
	for _, c := range []struct {
		id, secret string
		kdf        KDF
		good       bool
	}{
		{"a", strings.Repeat("x", 15), KDFNone, false},
		{"a", strings.Repeat("x", 16), KDFNone, true},
		{"a", strings.Repeat("x", 11), KDFArgon2id, false},
		{"a", strings.Repeat("x", 12), KDFArgon2id, true},
		{"a", strings.Repeat("x", maxSecret+1), KDFNone, false},
		{"", strings.Repeat("x", 16), KDFNone, false},
		{strings.Repeat("i", 65), strings.Repeat("x", 16), KDFNone, false},
		{"a b", strings.Repeat("x", 16), KDFNone, false},
		{"ü", strings.Repeat("x", 16), KDFNone, false},
		{"a", strings.Repeat("x", 16), 0, false},
	} {
		if _, err := NewVerifier(c.id, []byte(c.secret), Params{Group2048, c.kdf}); (err == nil) != c.good {
			t.Errorf("%q, %d bytes, %v: %v", c.id, len(c.secret), c.kdf, err)
		}
	}
	if _, err := NewVerifier("a", testSecret, Params{1536, KDFNone}); err == nil {
		t.Error("group of 1536 bits accepted")
	}
}

// TestArgon2idIsPinned: the parameters are part of the protocol, since both
// sides must agree without telling each other.
func TestArgon2idIsPinned(t *testing.T) {
	salt := make([]byte, SaltSize)
	x := stretchedPrivate(Group2048.srp(), KDFArgon2id, salt, "web-1", []byte("correct horse battery"))
	check(t, "x", x, unhex(t, argonX))
	plain := stretchedPrivate(Group2048.srp(), KDFNone, salt, "web-1", []byte("correct horse battery"))
	if bytes.Equal(x, plain) {
		t.Error("the secret was not stretched")
	}
}

// argonX is x of TestArgon2idIsPinned, computed with the reference library
// (libargon2's argon2id_hash_raw) and Python's hashlib.
const argonX = "d9e5b096d9828e74919d3c9e0e498e17eb947124456f9fc102f59cf4f61f90ea"
