package seal

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func testRatchet(t testing.TB, epoch uint32) (*Ratchet, *MasterKey) {
	t.Helper()
	m, err := ParseMasterKey(epoch, bytes.Repeat([]byte{7}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	n := *m
	return NewRatchet(&n), m
}

// TestRatchetsAgreeHoweverTheyGotThere: one step a time, or many at once after a
// long absence.
func TestRatchetsAgreeHoweverTheyGotThere(t *testing.T) {
	steps, m := testRatchet(t, 1)
	jump, _ := testRatchet(t, 1)
	for e := uint32(2); e <= 9; e++ {
		if err := steps.Advance(e, e-1); err != nil {
			t.Fatal(err)
		}
		steps.Forget(e - 1)
	}
	if err := jump.Advance(9, 8); err != nil {
		t.Fatal(err)
	}
	if !steps.Equal(jump) {
		t.Error("two ratchets of one service differ")
	}
	for _, e := range []uint32{8, 9} {
		want, err := m.Member(e)
		got, ok := jump.Key(e)
		if err != nil || !ok || !got.Equal(want) {
			t.Errorf("epoch %d: %v, %v", e, ok, err)
		}
	}
	if _, ok := jump.Key(7); ok {
		t.Error("a key that nobody needs was kept")
	}
	if _, ok := jump.Key(10); ok {
		t.Error("a key was given out before it was announced")
	}
}

// TestRatchetForgetsForGood: what is on disk after Forget opens nothing before.
func TestRatchetForgetsForGood(t *testing.T) {
	r, m := testRatchet(t, 3)
	if err := r.Advance(4, 3); err != nil {
		t.Fatal(err)
	}
	k, _ := m.Member(3)
	if bytes.Contains(r.Bytes(), m.Bytes()) {
		t.Error("M of the epoch before is kept")
	}
	if !bytes.Contains(r.Bytes(), k.Bytes()) {
		t.Error("K of the epoch before is not")
	}
	if !r.Forget(4) || r.Forget(4) {
		t.Error("Forget does not say what it did")
	}
	if bytes.Contains(r.Bytes(), k.Bytes()) || r.Epoch() != 4 {
		t.Errorf("%v keeps K of the epoch before", r)
	}
}

func TestRatchetNeitherGoesBackNorTooFar(t *testing.T) {
	r, _ := testRatchet(t, 5)
	if err := r.Advance(3, 1); err != nil || r.Epoch() != 5 {
		t.Errorf("at %d: %v", r.Epoch(), err)
	}
	if err := r.Advance(5+maxAhead+1, 5); !errors.Is(err, ErrEpochFar) || r.Epoch() != 5 {
		t.Errorf("at %d: %v", r.Epoch(), err)
	}
	if err := r.Advance(5+maxEpochs+1, 5); !errors.Is(err, ErrEpochCount) {
		t.Errorf("%d keys: %v", maxEpochs+1, err)
	}
}

func TestRatchetRoundTrip(t *testing.T) {
	r, _ := testRatchet(t, 1)
	if err := r.Advance(3, 1); err != nil {
		t.Fatal(err)
	}
	b := r.Bytes()
	back, err := ParseRatchet(b)
	if err != nil || !back.Equal(r) {
		t.Fatalf("%v, %v", back, err)
	}
	for i := range b {
		if _, err := ParseRatchet(b[:i]); err == nil {
			t.Errorf("%d bytes of %d are accepted", i, len(b))
		}
	}
	if _, err := ParseRatchet(append(bytes.Clone(b), 0)); err == nil {
		t.Error("a trailing byte is accepted")
	}
	if text := fmt.Sprintf("%v %+v %#v %x", r, r, r, r); bytes.Contains([]byte(text), []byte("0707")) {
		t.Errorf("keys in %s", text)
	}
	r.Wipe()
	if k, ok := r.Key(2); ok {
		t.Errorf("a wiped ratchet has %v", k)
	}
}

func FuzzParseRatchet(f *testing.F) {
	r, _ := testRatchet(f, 1)
	if err := r.Advance(3, 1); err != nil {
		f.Fatal(err)
	}
	f.Add(r.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRatchet(b)
		if err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Errorf("%x reads as %x", b, r.Bytes())
		}
	})
}
