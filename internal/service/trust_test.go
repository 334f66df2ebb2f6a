package service

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// TestAuthorityIsGrantedUntilItsEnd: by the descriptor alone, whatever a super
// peer says of itself.
func TestAuthorityIsGrantedUntilItsEnd(t *testing.T) {
	f := newFixture(t)
	tr := f.trust(t)
	end := t0.AddDate(0, 1, 0)
	for _, c := range []struct {
		key  ed25519.PrivateKey
		at   time.Time
		want bool
	}{{f.admit, t0, true}, {f.admit, end.Add(-time.Second), true}, {f.admit, end, false}, {f.store, t0, false}, {testKey(8), t0, false}} {
		if _, ok := tr.AuthorityKey(id.FromKey(public(c.key)), c.at); ok != c.want {
			t.Errorf("authority of %s at %v: %v", id.FromKey(public(c.key)).Short(), c.at, ok)
		}
	}
}

// TestCredentialEndsWithItsIssuersScope: the next descriptor takes the super peer
// away, and with it what it vouched for; an issuer that a descriptor does not
// know is told from every other fault.
func TestCredentialEndsWithItsIssuersScope(t *testing.T) {
	f := newFixture(t)
	b, err := SignCredential(f.credential(nil), f.admit)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.trust(t).VerifyCredential(t0, b, 1); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Descriptor){
		"removed":    func(d *Descriptor) { d.SuperPeers = d.SuperPeers[1:] },
		"role taken": func(d *Descriptor) { d.SuperPeers[0].Roles = []string{RoleStore} },
	} {
		next := Documents{Roots: f.docs.Roots, Descriptor: f.descriptor(t, func(d *Descriptor) { d.Seq++; change(d) })}
		tr, err := Open(next, f.id, 4, t0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.VerifyCredential(t0, b, 1); !errors.Is(err, ErrIssuer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.trust(t).VerifyCredential(t0.AddDate(2, 0, 0), b, 1); err == nil || errors.Is(err, ErrIssuer) {
		t.Errorf("expired: %v", err)
	}
}

// TestFormerHandOverIsRead: a state directory may hold one.
func TestFormerHandOverIsRead(t *testing.T) {
	f := newFixture(t)
	key := slices.Repeat([]byte{5}, 32)
	m := Membership{ID: f.id, Documents: f.docs, Epoch: 1, Master: key}
	plain := wire.Marshal(FormerHandOver{Version: 1, Seed: key, Service: m, Universe: m, Policy: f.policy, ABESeed: key, FakeKey: key, TicketKey: key})
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, aead.NonceSize())
	sealed := aead.Seal(append(slices.Clone(handOverMagic), nonce...), nonce, plain, handOverMagic)
	h, err := OpenHandOver(sealed, key)
	if err != nil || h.Service.ID != f.id || len(h.Join) != 0 {
		t.Errorf("%v, %v", h, err)
	}
}
