package superpeer

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/service"
)

// releaseOf is a manifest of a service that ends an hour from now.
func releaseOf(t *testing.T, s id.ID, seq uint64, version string, k ed25519.PrivateKey) service.Signed {
	t.Helper()
	now := time.Now()
	signed, err := service.NewRelease(service.Release{
		Service: s, Seq: seq, Issued: now.Unix(), Expires: now.Add(time.Hour).Unix(), Channel: "stable", Version: version, Minimum: "1.0.0",
		Artefacts: []service.Artefact{{OS: "linux", Arch: "amd64", Size: 1, SHA256: make([]byte, 32)}},
	})
	if err == nil {
		signed, err = signed.SignRelease(k)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// nameKey has the owner name one release key, and tells a super peer.
func nameKey(t *testing.T, s *SuperPeer, svc *owner.Service, k ed25519.PrivateKey) {
	t.Helper()
	u := service.Updates{Channel: "stable", Keys: []string{service.ReleaseKeyText(k.Public().(ed25519.PublicKey))}}
	n, err := owner.SetUpdates(svc.Secret, u, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	svc.Secret = n.Secret
	if _, err := s.Update(t.Context(), n.Update.Encode()); err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestReleaseManifestIsTakenByItsKeysAlone: a person hears why one is refused, and
// what is taken outlives a restart.
func TestReleaseManifestIsTakenByItsKeysAlone(t *testing.T) {
	svc, store := newTestService(t, "shop"), new(ledger.Memory)
	s := superOf(t, svc, 0, store)
	first, second := newKey(t), newKey(t)
	give := func(m service.Signed, want string) {
		t.Helper()
		u, err := s.Update(t.Context(), m.EncodeRelease())
		switch {
		case want == "" && (err != nil || len(u.Documents) != 1 || !u.Documents[0].Newer || u.Documents[0].Type != "release"):
			t.Errorf("%+v, %v", u, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%v, want %q", err, want)
		}
	}
	shows := func(what string, s *SuperPeer, version string) {
		t.Helper()
		st, err := s.Status(t.Context())
		if err != nil || st.Release == nil || st.Release.Version != version {
			t.Errorf("%s: %+v, %v", what, st.Release, err)
		}
	}
	give(releaseOf(t, svc.ID, 5, "1.2.0", first), "names no release keys")
	nameKey(t, s, svc, first)
	shows("before the first", s, "")
	give(releaseOf(t, svc.ID, 5, "1.2.0", second), "carries 0 valid release key signatures, 1 are needed")
	give(releaseOf(t, id.ID{9}, 5, "1.2.0", first), "is of service 09000000, which this super peer does not serve")
	good := releaseOf(t, svc.ID, 5, "1.2.0", first)
	give(good, "")
	if u, err := s.Update(t.Context(), good.EncodeRelease()); err != nil || u.Documents[0].Newer {
		t.Errorf("given again: %+v, %v", u, err)
	}
	give(releaseOf(t, svc.ID, 4, "1.1.0", first), "rolled back: release manifest has sequence number 4, 5 is known")
	shows("running", s, "1.2.0")
	again := superOf(t, svc, 0, store)
	shows("restarted", again, "1.2.0")
	release := again.signedRelease()
	if signed, seq := release.inForce(again.service.standing.Load()); seq != 5 || string(signed.Body) != string(good.Body) {
		t.Errorf("number %d is handed on", seq)
	}
	// What the other super peers have may be older, and is no error.
	if newer, err := release.learn(releaseOf(t, svc.ID, 4, "1.1.0", first).Encode(), time.Now()); newer || err != nil {
		t.Errorf("an older one in the overlay: %v, %v", newer, err)
	}
	if _, err := release.learn(make([]byte, 100), time.Now()); err == nil || errors.Is(err, service.ErrRollback) {
		t.Errorf("nonsense in the overlay: %v", err)
	}
	nameKey(t, s, svc, second)
	shows("when the key is not named any more", s, "")
	if signed, seq := s.signedRelease().inForce(s.service.standing.Load()); seq != 0 || len(signed.Body) != 0 {
		t.Error("it is handed on")
	}
	give(good, "carries 0 valid release key signatures")
	give(releaseOf(t, svc.ID, 1, "1.2.1", second), "")
	shows("of the new key", s, "1.2.1")
}

// TestWhatFormerKeysSignedIsNotPutUnderTheNewOnes: the policy may change while documents
// are being put.
func TestWhatFormerKeysSignedIsNotPutUnderTheNewOnes(t *testing.T) {
	svc, store := newTestService(t, "shop"), new(ledger.Memory)
	s := superOf(t, svc, 0, store)
	first, second := newKey(t), newKey(t)
	nameKey(t, s, svc, first)
	if _, err := s.Update(t.Context(), releaseOf(t, svc.ID, math.MaxInt64, "9.9.9", first).EncodeRelease()); err != nil {
		t.Fatal(err)
	}
	before, d := s.service.standing.Load(), s.signedRelease()
	under := d.salt(before)
	nameKey(t, s, svc, second)
	after := s.service.standing.Load()
	if signed, _ := d.inForce(before); len(signed.Body) == 0 || !bytes.Equal(d.salt(before), under) {
		t.Error("a put that began with the former policy goes on with another")
	}
	if signed, seq := d.inForce(after); len(signed.Body) != 0 || seq != 0 || bytes.Equal(d.salt(after), under) {
		t.Errorf("number %d is in force under the new keys", seq)
	}
}
