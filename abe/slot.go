package abe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// A Slot is what one newcomer gets, made before he is known: a key for a label
// set with a random slot attribute, and the ABE envelope of that slot, by which
// its holder can be sealed to. It is given out once.
type Slot struct {
	ID         SlotID
	Key        []byte // Key.Bytes
	Ciphertext []byte // Params.SealTo of Secret to Target
	Secret     Secret // the authority's PolicySeed of Target: any authority finds it again
	Target     Target // ForSlot(ID)
	Expires    int64  // Unix seconds: not to be given out from then on; 0 = never

	labels map[string]string
}

// NewSlot makes a slot for a label set (WithLabels), some 100 to 200 ms. A nil
// random means crypto/rand.
func (a *Authority) NewSlot(random io.Reader, labels map[string]string, generation uint32) (*Slot, error) {
	random = reader(random)
	var slot SlotID
	if _, err := io.ReadFull(random, slot[:]); err != nil {
		return nil, fmt.Errorf("abe: slot: %w", err)
	}
	key, err := a.KeyGen(random, Attributes{Service: a.service, Generation: generation, Slot: slot, Labels: labels})
	if err != nil {
		return nil, err
	}
	t := Target{Service: a.service, Generation: generation, Policy: ForSlot(slot)}
	secret, err := a.PolicySeed(t)
	if err != nil {
		return nil, err
	}
	ct, err := a.params.SealTo(random, t, secret)
	if err != nil {
		return nil, err
	}
	return &Slot{
		ID: slot, Key: key.Bytes(), Ciphertext: ct, Secret: secret, Target: t, labels: maps.Clone(labels),
	}, nil
}

// Labels returns the label set that s was made for.
func (s *Slot) Labels() map[string]string { return maps.Clone(s.labels) }

// slotWire is how an authority hands a slot to a super peer that has no seed.
type slotWire struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Key        []byte
	Ciphertext []byte
	Secret     [SecretSize]byte
}

// Bytes marshals s. It is as secret as the key in it.
func (s *Slot) Bytes() []byte {
	return wire.Marshal(slotWire{Version: 1, Key: s.Key, Ciphertext: s.Ciphertext, Secret: s.Secret})
}

var errSlot = errors.New("abe: malformed slot")

// ParseSlot reads what Bytes wrote and checks that the key opens the envelope
// to the secret, so that a bad slot is not found by a newcomer.
func ParseSlot(b []byte) (*Slot, error) {
	var w slotWire
	if err := wire.Unmarshal(b, &w, maxSlotSize); err != nil || w.Version != 1 {
		return nil, errSlot
	}
	key, err := ParseKey(w.Key)
	if err != nil {
		return nil, err
	}
	a := key.attrs
	t := Target{Service: a.Service, Generation: a.Generation, Policy: ForSlot(a.Slot)}
	secret, err := key.Unseal(t, w.Ciphertext)
	if err != nil {
		return nil, err
	}
	if secret != w.Secret {
		return nil, errSlot
	}
	return &Slot{
		ID: a.Slot, Key: w.Key, Ciphertext: w.Ciphertext, Secret: secret, Target: t, labels: a.Labels,
	}, nil
}

// keptSlot is how whoever made a slot keeps it for himself.
type keptSlot struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	ID         SlotID
	Generation uint32
	Labels     map[string]string
	Key        []byte
	Ciphertext []byte
	Secret     [SecretSize]byte
	Expires    int64
}

// Keep marshals s for RestoreSlot. It is as secret as the key in it.
func (s *Slot) Keep() []byte {
	return wire.Marshal(keptSlot{
		Version: 2, ID: s.ID, Generation: s.Target.Generation, Labels: s.labels,
		Key: s.Key, Ciphertext: s.Ciphertext, Secret: s.Secret, Expires: s.Expires,
	})
}

// RestoreSlot reads what Keep wrote, and believes it: unlike ParseSlot it opens
// nothing, which takes 10 ms. The caller has kept it where nobody else writes.
func RestoreSlot(b []byte, service id.ID) (*Slot, error) {
	var k keptSlot
	if err := wire.Unmarshal(b, &k, maxKeptSlot); err != nil || k.Version != 2 {
		return nil, errSlot
	}
	t := Target{Service: service, Generation: k.Generation, Policy: ForSlot(k.ID)}
	return &Slot{ID: k.ID, Key: k.Key, Ciphertext: k.Ciphertext, Secret: k.Secret, Target: t, Expires: k.Expires, labels: k.Labels}, nil
}

// clone returns a copy that shares no bytes with s.
func (s *Slot) clone() *Slot {
	c := *s
	c.Key, c.Ciphertext = bytes.Clone(s.Key), bytes.Clone(s.Ciphertext)
	return &c
}

// Wipe erases key and secret.
func (s *Slot) Wipe() {
	clear(s.Key)
	s.Secret.Wipe()
}

// Format writes a redaction for every verb.
func (s Slot) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is a redaction.
func (s Slot) LogValue() slog.Value { return slog.StringValue(redacted) }
