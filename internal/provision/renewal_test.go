package provision

import (
	"bytes"
	"reflect"
	"testing"

	"icvpn/internal/service"
)

func whole() Grant {
	g := grant
	g.AttributeKey, g.SlotCiphertext, g.Publish, g.Envelopes = []byte{2}, []byte{3}, []byte{4}, [][]byte{{5}}
	g.Policy = service.Signed{Type: "policy", Body: []byte{6}, Sigs: []service.Signature{}}
	g.Epochs = service.Signed{Type: "epochs", Body: []byte{7}, Sigs: []service.Signature{}}
	g.Keys, g.PublishNext = []EpochKey{{Number: 2, Key: bytes.Repeat([]byte("k"), 32)}}, []byte{8}
	g.Version = version
	return g
}

// only returns g without the parts that are kept.
func only(g Grant, kept Parts) Renewed {
	return Renewed{Kept: kept, Grant: g.Without(kept)}
}

func TestRenewedOverTheOldGrantIsTheNewOne(t *testing.T) {
	want := whole()
	for kept := range AllParts + 1 {
		r, err := ParseRenewed(only(want, kept).Encode())
		if err != nil {
			t.Fatalf("kept %04b: %v", kept, err)
		}
		got, err := r.Over(want)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("kept %04b: %+v, %v", kept, got, err)
		}
		if got, err := r.Over(Grant{Epoch: 1}); err == nil && kept == 0 && !reflect.DeepEqual(got, want) {
			t.Error("a whole grant depends on the old one")
		}
	}
}

func TestRenewedPartsAreThereOrKept(t *testing.T) {
	for kept := range AllParts + 1 {
		for _, part := range []Parts{PartKey, PartPolicy, PartEpoch, PartSealing} {
			r := only(whole(), kept)
			r.Kept ^= part
			if _, err := ParseRenewed(r.Encode()); err == nil && (kept&part == 0 || part == PartKey || part == PartEpoch) {
				t.Errorf("kept %04b said to be %04b", kept, r.Kept)
			}
		}
	}
	for name, change := range map[string]func(r *Renewed){
		"keys":           func(r *Renewed) { r.Grant.Keys = whole().Keys },
		"epochs":         func(r *Renewed) { r.Grant.Epochs = whole().Epochs },
		"next statement": func(r *Renewed) { r.Grant.PublishNext = []byte{1} },
	} {
		r := only(whole(), AllParts)
		if change(&r); func() error { _, err := ParseRenewed(r.Encode()); return err }() == nil {
			t.Errorf("%s are there and kept", name)
		}
	}
	if _, err := ParseRenewed(Renewed{Kept: AllParts + 1, Grant: whole()}.Encode()); err == nil {
		t.Error("an unknown part is kept")
	}
}

func TestKeptEpochKeyIsOfTheGrantsEpoch(t *testing.T) {
	r := only(whole(), PartEpoch)
	r.Grant.Epoch++
	if _, err := r.Over(whole()); err == nil {
		t.Error("the key of epoch 1 serves epoch 2")
	}
}

func TestRenewalIsReadStrictly(t *testing.T) {
	good := Renewal{Request: request.Encode(), Holds: PartKey | PartPolicy}.Encode()
	r, q, err := ParseRenewal(good)
	if err != nil || r.Holds != PartKey|PartPolicy || q.PID != request.PID {
		t.Fatalf("%+v, %+v, %v", r, q, err)
	}
	for i := range good {
		if _, _, err := ParseRenewal(good[:i]); err == nil {
			t.Errorf("accepted a truncation to %d bytes", i)
		}
	}
	for name, b := range map[string][]byte{
		"trailing byte": append(bytes.Clone(good), 0),
		"unknown part":  Renewal{Request: request.Encode(), Holds: 0x80}.Encode(),
		"no request":    Renewal{}.Encode(),
	} {
		if _, _, err := ParseRenewal(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestGrantTurnsWithTheEpochs(t *testing.T) {
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	g := whole()
	g.Epoch, g.EpochKey, g.Keys = 4, key(4), []EpochKey{{Number: 3, Key: key(3)}, {Number: 5, Key: key(5)}}
	before := g.Encode()
	if same, changed := g.Turn(4, 3); changed || !reflect.DeepEqual(same, g) {
		t.Errorf("nothing is due: %+v", same)
	}
	if next, changed := g.Turn(4, 4); !changed || len(next.Keys) != 1 || next.Keys[0].Number != 5 {
		t.Errorf("3 is over: %+v", next.Keys)
	}
	next, changed := g.Turn(5, 4)
	if !changed || next.Epoch != 5 || !bytes.Equal(next.EpochKey, key(5)) || len(next.Keys) != 1 || !bytes.Equal(next.Key(4), key(4)) ||
		!bytes.Equal(next.Publish, g.PublishNext) || next.PublishNext != nil {
		t.Errorf("5 is in force: %+v", next)
	}
	if _, err := ParseGrant(next.Encode()); err != nil {
		t.Error(err)
	}
	if last, changed := next.Turn(5, 5); !changed || len(last.Keys) != 0 {
		t.Errorf("4 is over: %+v", last.Keys)
	}
	if same, changed := g.Turn(6, 3); changed || same.Epoch != 4 {
		t.Error("turned to an epoch without a key")
	}
	if !bytes.Equal(g.Encode(), before) {
		t.Error("Turn changed what it was called on")
	}
}
