package abe

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"

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

// Wipe erases key and secret.
func (s *Slot) Wipe() {
	clear(s.Key)
	s.Secret.Wipe()
}

// Format writes a redaction for every verb.
func (s Slot) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is a redaction.
func (s Slot) LogValue() slog.Value { return slog.StringValue(redacted) }

// Pool keeps slots ready, so that no admission waits for ABE: 20 keys a second
// and core is all that KeyGen gives. It makes nothing itself: in idle time its
// owner asks Need, calls NewSlot and gives the result to Add. Safe for
// concurrent use.
type Pool struct {
	depth int

	mu         sync.Mutex
	generation uint32
	sets       map[string]*poolSet // by labelSet
}

type poolSet struct {
	labels map[string]string
	slots  []*Slot
}

// NewPool returns a pool that wants depth slots of each label set, all of one
// generation.
func NewPool(depth int, generation uint32) *Pool {
	return &Pool{depth: max(depth, 0), generation: generation, sets: make(map[string]*poolSet)}
}

// Want names a label set to keep ready; its caller bounds how many there are.
func (p *Pool) Want(labels map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(labels)
}

func (p *Pool) setLocked(labels map[string]string) *poolSet {
	name := labelSet(labels)
	s := p.sets[name]
	if s == nil {
		s = &poolSet{labels: maps.Clone(labels)}
		p.sets[name] = s
	}
	return s
}

// Need returns the label set that lacks most slots, and the generation to make
// one for; false when every set is full.
func (p *Pool) Need() (labels map[string]string, generation uint32, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fewest, name := p.depth, ""
	for n, s := range p.sets {
		// Ties go by name, so that what is made does not depend on map order.
		if len(s.slots) < fewest || ok && len(s.slots) == fewest && n < name {
			fewest, name, labels, ok = len(s.slots), n, s.labels, true
		}
	}
	return maps.Clone(labels), p.generation, ok
}

// Add takes s, and wipes it if the pool is of another generation, does not
// want its label set or has enough of it.
func (p *Pool) Add(s *Slot) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[labelSet(s.labels)]
	if set == nil || s.Target.Generation != p.generation || len(set.slots) >= p.depth {
		s.Wipe()
		return false
	}
	set.slots = append(set.slots, s)
	return true
}

// Take returns a slot for labels and forgets it, oldest first; false when none
// is ready.
func (p *Pool) Take(labels map[string]string) (*Slot, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sets[labelSet(labels)]
	if set == nil || len(set.slots) == 0 {
		return nil, false
	}
	s := set.slots[0]
	set.slots[0] = nil
	set.slots = set.slots[1:]
	return s, true
}

// Len returns how many slots are ready for labels.
func (p *Pool) Len(labels map[string]string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sets[labelSet(labels)]; s != nil {
		return len(s.slots)
	}
	return 0
}

// Reset moves to another generation and wipes all slots of the old one; label
// sets stay wanted.
func (p *Pool) Reset(generation uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation = generation
	for _, set := range p.sets {
		for _, s := range set.slots {
			s.Wipe()
		}
		set.slots = nil
	}
}
