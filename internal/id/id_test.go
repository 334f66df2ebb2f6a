package id

import (
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
)

func TestFromKeyIsDomainSeparatedHash(t *testing.T) {
	key := make(ed25519.PublicKey, ed25519.PublicKeySize)
	key[0] = 7
	sum := sha256.Sum256(append([]byte("icvpn/1 pid\x00"), key...))
	if got := FromKey(key); got != ID(sum[:Size]) {
		t.Fatalf("FromKey = %v, want %x", got, sum[:Size])
	}
}

func TestParseRoundTripAndRefusals(t *testing.T) {
	a := Hash("test", []byte("x"))
	b, err := Parse(a.String())
	if err != nil || a != b {
		t.Fatalf("Parse(%v) = %v, %v", a, b, err)
	}
	for _, bad := range []string{"", "zz", a.String()[:38], a.String() + "00", a.String()[:39] + "g"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) accepted", bad)
		}
	}
}

func TestDistance(t *testing.T) {
	a, b := Hash("test", []byte("a")), Hash("test", []byte("b"))
	if a.Distance(b) != b.Distance(a) {
		t.Error("distance is not symmetric")
	}
	if n := a.Distance(a).LeadingZeros(); n != 160 {
		t.Errorf("LeadingZeros of zero = %d, want 160", n)
	}
	if n := (ID{0, 0x10}).LeadingZeros(); n != 11 {
		t.Errorf("LeadingZeros = %d, want 11", n)
	}
}
