// Package ownertest makes services for tests, each once for a test binary, and
// ABE keys for them, each once too. To make a key takes some 100 ms of a core,
// and a test with two super peers and three machines needs a dozen; few tests are
// about how they are made.
//
// What is shared are values that nobody changes: lists of the services of the
// same options, and of the keys of a service, as far as they were made. A test
// takes its own copies, one after the other from the beginning of each list. So
// no test depends on which ran before it; and in one test, as in life, no two
// services are the same and no key is given out twice.
package ownertest

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"icvpn/abe"
	"icvpn/internal/id"
	"icvpn/internal/owner"
)

// made is what this test binary has made, by all that it depends on.
var made struct {
	mu        sync.Mutex
	services  map[string]*owner.Service
	makers    map[string]*abe.Authority
	slots     map[string]*abe.Slot
	envelopes map[string][]byte
}

// recall returns what all has under key, made if it is not there yet.
func recall[V any](all *map[string]V, key string, make func() (V, error)) (V, error) {
	made.mu.Lock()
	defer made.mu.Unlock()
	if v, ok := (*all)[key]; ok {
		return v, nil
	}
	v, err := make()
	if err != nil {
		return v, err
	}
	if *all == nil {
		*all = map[string]V{}
	}
	(*all)[key] = v
	return v, nil
}

// taker is a test: how many it has taken of each list.
type taker struct {
	mu    sync.Mutex
	taken map[string]int
}

// takers are the tests that run, by their names.
var takers sync.Map

func takerOf(t testing.TB) *taker {
	k, running := takers.LoadOrStore(t.Name(), &taker{taken: map[string]int{}})
	if !running {
		t.Cleanup(func() { takers.Delete(t.Name()) })
	}
	return k.(*taker)
}

// next names the next one of a list for this test.
func (k *taker) next(list string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.taken[list]++
	return fmt.Sprintf("%s #%d", list, k.taken[list])
}

// Service returns a service of these options, made at the midnight before o.Now.
func Service(t testing.TB, o owner.Options) *owner.Service {
	t.Helper()
	if o.Join != nil {
		t.Fatal("ownertest: a service that joins another one is made by owner.Create")
	}
	o.Now = o.Now.UTC().Truncate(24 * time.Hour)
	s, err := recall(&made.services, takerOf(t).next(fmt.Sprintf("%+v", o)), func() (*owner.Service, error) { return owner.Create(o) })
	if err != nil {
		t.Fatal(err)
	}
	own := *s
	own.Tokens, own.Supers = slices.Clone(s.Tokens), slices.Clone(s.Supers)
	for i := range own.Tokens {
		own.Tokens[i].Token.SuperPeers = slices.Clone(own.Tokens[i].Token.SuperPeers)
	}
	return &own
}

// Maker is an abe.Authority that makes nothing anew that another test had it make.
type Maker struct {
	*abe.Authority
	test    *taker
	name    string
	service id.ID
}

// Open is abe.NewAuthority for the super peers of a test.
func Open(t testing.TB, seed abe.Secret, service id.ID) (*Maker, error) {
	name := fmt.Sprintf("%x/%x", service, seed[:])
	a, err := recall(&made.makers, name, func() (*abe.Authority, error) { return abe.NewAuthority(seed, service) })
	return &Maker{Authority: a, test: takerOf(t), name: name, service: service}, err
}

// NewSlot is Authority.NewSlot: the next one for this test.
func (m *Maker) NewSlot(random io.Reader, labels map[string]string, generation uint32) (*abe.Slot, error) {
	name := m.test.next(fmt.Sprintf("%s/%d/%v", m.name, generation, labels))
	s, err := recall(&made.slots, name, func() (*abe.Slot, error) { return m.Authority.NewSlot(random, labels, generation) })
	if err != nil {
		return nil, err
	}
	return abe.RestoreSlot(s.Keep(), m.service)
}

// Envelope is Authority.Envelope: the same one for the same arguments.
func (m *Maker) Envelope(random io.Reader, key ed25519.PrivateKey, t abe.Target, seq uint64, expiry time.Time) ([]byte, error) {
	name := fmt.Sprintf("%s/%x/%d/%s/%d/%d", m.name, key.Public(), t.Generation, t.Policy.String(), seq, expiry.Unix())
	b, err := recall(&made.envelopes, name, func() ([]byte, error) { return m.Authority.Envelope(random, key, t, seq, expiry) })
	return slices.Clone(b), err
}
