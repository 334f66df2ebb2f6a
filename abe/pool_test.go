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

// fakeSlot is enough for the pool, which opens nothing.
func fakeSlot(n byte, labels map[string]string, generation uint32) *Slot {
	return &Slot{
		ID: SlotID{n}, Key: []byte{n}, Secret: Secret{n},
		Target: Target{testService, generation, ForSlot(SlotID{n})}, labels: labels,
	}
}

func TestPoolFillsTheEmptiestSet(t *testing.T) {
	p := NewPool(2, testGeneration)
	if _, _, ok := p.Need(); ok {
		t.Error("an empty pool needs something")
	}
	p.Want(labels("tier", "app"))
	p.Want(labels("tier", "web"))
	p.Want(labels("tier", "web"))
	made := map[string]int{}
	for range 4 {
		want, generation, ok := p.Need()
		if !ok || generation != testGeneration {
			t.Fatal("a pool that is not full needs nothing")
		}
		made[want["tier"]]++
		if !p.Add(fakeSlot(1, want, generation)) {
			t.Error("refused what it needed")
		}
		if a, b := p.Len(labels("tier", "app")), p.Len(labels("tier", "web")); a-b > 1 || b-a > 1 {
			t.Errorf("filled unevenly: %d, %d", a, b)
		}
	}
	if made["app"] != 2 || made["web"] != 2 {
		t.Errorf("made %v", made)
	}
	if _, _, ok := p.Need(); ok {
		t.Error("a full pool needs something")
	}
}

func TestPoolGivesEachSlotOnceAndOldestFirst(t *testing.T) {
	p, app := NewPool(3, testGeneration), labels("tier", "app")
	p.Want(app)
	for n := range byte(3) {
		p.Add(fakeSlot(n+1, app, testGeneration))
	}
	for n := range byte(3) {
		if s, ok := p.Take(app); !ok || s.ID != (SlotID{n + 1}) {
			t.Errorf("take %d: %v", n, ok)
		}
	}
	if _, ok := p.Take(app); ok {
		t.Error("a slot was given twice")
	}
	if _, ok := p.Take(labels("tier", "db")); ok || p.Len(labels("tier", "db")) != 0 {
		t.Error("a slot for labels that nobody wanted")
	}
}

func TestPoolWipesWhatItDoesNotKeep(t *testing.T) {
	p, app := NewPool(1, testGeneration), labels("tier", "app")
	p.Want(app)
	kept := fakeSlot(1, app, testGeneration)
	p.Add(kept)
	for name, s := range map[string]*Slot{
		"surplus":        fakeSlot(2, app, testGeneration),
		"old generation": fakeSlot(2, app, testGeneration-1),
		"unwanted":       fakeSlot(2, labels("tier", "db"), testGeneration),
	} {
		if p.Add(s) || s.Secret != (Secret{}) || s.Key[0] != 0 {
			t.Errorf("%s: kept or not wiped", name)
		}
	}
	p.Take(app) // room again: now only the generation speaks against it
	if p.Add(fakeSlot(3, app, testGeneration-1)) {
		t.Error("a slot of the old generation was kept")
	}
	kept = fakeSlot(4, app, testGeneration)
	p.Add(kept)
	p.Reset(testGeneration + 1)
	if kept.Secret != (Secret{}) || p.Len(app) != 0 {
		t.Error("slots of the old generation survive")
	}
	if _, generation, ok := p.Need(); !ok || generation != testGeneration+1 {
		t.Error("the new generation is not needed")
	}
}
