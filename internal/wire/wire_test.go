package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"testing"
)

type sample struct {
	_    struct{} `cbor:",toarray"`
	Ver  uint8
	Name string
	Raw  []byte
	M    map[string]string
}

func sampleBytes(t testing.TB) []byte {
	b := Marshal(sample{Ver: 1, Name: "ab", Raw: []byte{1, 2}, M: map[string]string{"a": "1", "bb": "2"}})
	return b
}

func TestMarshalIsDeterministic(t *testing.T) {
	want, err := hex.DecodeString("8401626162420102a261616131626262613" + "2")
	if err != nil {
		t.Fatal(err)
	}
	if got := sampleBytes(t); !bytes.Equal(got, want) {
		t.Fatalf("Marshal = %x, want %x", got, want)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	good := sampleBytes(t)
	var s sample
	if err := Unmarshal(good, &s, 100); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if err := Unmarshal(good[:i], new(sample), 100); err == nil {
			t.Errorf("accepted a truncation to %d bytes", i)
		}
	}
	for name, h := range map[string]string{
		"trailing byte":     hex.EncodeToString(good) + "00",
		"long form integer": "841801626162420102a0",
		"map out of order":  "8401626162420102a2626262613261616131",
		"duplicate key":     "8401626162420102a2616161316161" + "6132",
		"indefinite array":  "9f01626162420102a0ff",
		"tag":               "84c101626162420102a0",
		"missing element":   "8301626162420102",
		"extra element":     "8501626162420102a000",
		"wrong type":        "8461316162420102a0",
		"bad UTF-8":         "840162fffe420102a0",
	} {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(name, err)
		}
		if err := Unmarshal(b, new(sample), 100); err == nil {
			t.Errorf("%s: accepted %x", name, b)
		}
	}
	if err := Unmarshal(good, &s, len(good)-1); err == nil {
		t.Error("accepted more bytes than the limit")
	}
}

func TestSignIsDomainSeparated(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sig := Sign(key, "a", []byte("x"))
	if !Verify(pub, sig, "a", []byte("x")) {
		t.Error("own signature refused")
	}
	if Verify(pub, sig, "b", []byte("x")) || Verify(pub, sig, "a", []byte("y")) || Verify(pub[:31], sig, "a", []byte("x")) || Verify(pub, sig[:63], "a", []byte("x")) {
		t.Error("foreign signature accepted")
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(sampleBytes(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sample
		if Unmarshal(b, &s, 1<<16) == nil && !bytes.Equal(Marshal(s), b) {
			t.Errorf("accepted a second encoding: %x", b)
		}
	})
}
