package abe

import (
	"bytes"
	"maps"
	"sync"
	"testing"
)

var testSlot = sync.OnceValue(func() *Slot {
	s, err := testAuthority().NewSlot(testRand("slot"), labels("tier", "app"), testGeneration)
	if err != nil {
		panic(err)
	}
	return s
})

func TestSlotKeyOpensItsOwnEnvelopeAndItsLabels(t *testing.T) {
	s := testSlot()
	k, err := ParseKey(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	if k.Attributes().Slot != s.ID || s.ID == (SlotID{}) {
		t.Error("key of another slot")
	}
	if got, err := k.Unseal(s.Target, s.Ciphertext); err != nil || got != s.Secret {
		t.Errorf("own envelope: %v", err)
	}
	if !opens(k, sealTierApp()) {
		t.Error("the labels' policy does not open")
	}
	if seed, err := testAuthority().PolicySeed(s.Target); err != nil || seed != s.Secret {
		t.Error("another authority would not find the slot's secret")
	}
	if _, err := keyFor(t, attributes("tier", "app")).sk.Decrypt(s.Ciphertext); err == nil {
		t.Error("a key without the slot opens its envelope")
	}
}

func TestSlotsDiffer(t *testing.T) {
	a, err := testAuthority().NewSlot(nil, labels("tier", "app"), testGeneration)
	if err != nil {
		t.Fatal(err)
	}
	if a.ID == testSlot().ID || a.Secret == testSlot().Secret || bytes.Equal(a.Key, testSlot().Key) {
		t.Error("two slots are alike")
	}
	if _, err := testAuthority().NewSlot(bytes.NewReader(nil), labels(), testGeneration); err == nil {
		t.Error("a dry source of randomness accepted")
	}
}

func TestKeptSlotIsRestoredAsItWas(t *testing.T) {
	s := testSlot()
	b := s.Keep()
	q, err := RestoreSlot(b, testService)
	if err != nil || !bytes.Equal(q.Bytes(), s.Bytes()) || q.ID != s.ID || !q.Target.Equal(s.Target) || !maps.Equal(q.Labels(), s.Labels()) {
		t.Fatalf("RestoreSlot: %v", err)
	}
	for i := 0; i < len(b); i += 97 {
		if _, err := RestoreSlot(b[:i], testService); err == nil {
			t.Errorf("truncation to %d bytes accepted", i)
		}
	}
	if _, err := RestoreSlot(s.Bytes(), testService); err == nil {
		t.Error("the form for another super peer accepted")
	}
}

func TestSlotRoundTrip(t *testing.T) {
	s := testSlot()
	b := s.Bytes()
	q, err := ParseSlot(b)
	if err != nil || q.ID != s.ID || q.Secret != s.Secret || !q.Target.Equal(s.Target) || !maps.Equal(q.Labels(), s.Labels()) {
		t.Fatalf("ParseSlot: %v", err)
	}
	for i := 0; i < len(b); i += 97 {
		if _, err := ParseSlot(b[:i]); err == nil {
			t.Errorf("truncation to %d bytes accepted", i)
		}
	}
	if _, err := ParseSlot(append(bytes.Clone(b), 0)); err == nil {
		t.Error("trailing byte accepted")
	}
	b[len(b)-1] ^= 1
	if _, err := ParseSlot(b); err == nil {
		t.Error("another secret than the envelope's accepted")
	}
}
