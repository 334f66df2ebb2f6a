package release

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func of(t *service.Trust) func() *service.Trust { return func() *service.Trust { return t } }

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(n)), ed25519.SeedSize)))
}

// trustIn is the chain of a service whose policy names release keys.
func trustIn(t *testing.T, keys ...ed25519.PrivateKey) *service.Trust {
	t.Helper()
	owners := []ed25519.PrivateKey{key(1)}
	root, err := service.NewRoot("shop", owners, 1, t0, t0.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	r := service.Root{Owners: []ed25519.PublicKey{key(1).Public().(ed25519.PublicKey)}, Threshold: 1}
	trust := &service.Trust{Service: service.RootID(root), Root: r, Descriptor: &service.Descriptor{}}
	p := service.Policy{Sequence: 1, Expires: t0.AddDate(1, 0, 0)}
	for _, k := range keys {
		p.Updates.Channel = "stable"
		p.Updates.Keys = append(p.Updates.Keys, service.ReleaseKeyText(k.Public().(ed25519.PublicKey)))
	}
	s, err := service.NewPolicy(p, trust.Service, owners)
	if err == nil {
		trust, err = trust.WithPolicy(s, t0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// manifest is signed by k, with a version as minimum and newest, and ends a day after t0.
func manifest(t *testing.T, s id.ID, seq uint64, minimum, newest string, k ed25519.PrivateKey) service.Signed {
	t.Helper()
	signed, err := service.NewRelease(service.Release{
		Service: s, Seq: seq, Issued: t0.Unix(), Expires: t0.Unix() + 86400, Channel: "stable", Version: newest, Minimum: minimum,
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

func TestStatusSaysWhatAManifestMeans(t *testing.T) {
	trust := trustIn(t, key(2))
	s := NewShelf(nil, nil)
	if got := s.Status(trustIn(t), "1.0.0", t0); got != nil {
		t.Errorf("without release keys: %+v", got)
	}
	if got := s.Status(trust, "1.0.0", t0); got.Version != "" || got.Note != "no release manifest of this channel is known" {
		t.Errorf("before the first: %+v", got)
	}
	if _, err := s.Take(of(trust), manifest(t, trust.Service, 1, "1.0.0", "1.2.0", key(2)), t0); err != nil {
		t.Fatal(err)
	}
	const ended = "the manifest has expired, so newer releases may be kept from this process"
	later := t0.AddDate(0, 0, 1)
	for binary, want := range map[string]string{
		"1.2.0": "", "1.10.0": "",
		"1.1.9": "this process runs 1.1.9, and 1.2.0 is out",
		"1.0.0": "this process runs 1.0.0, and 1.2.0 is out",
		"0.9.0": "this process runs 0.9.0, which is below the minimum 1.0.0",
		"devel": `this process is of version "devel", which cannot be compared with 1.2.0`,
		"":      `this process is of version "", which cannot be compared with 1.2.0`,
	} {
		if got := s.Status(trust, binary, later.Add(-time.Second)); got.Note != want || got.Version != "1.2.0" || got.Artefacts[0].OS != "linux" {
			t.Errorf("%s: %+v", binary, got)
		}
		if want != "" {
			want = "; " + want
		}
		if got := s.Status(trust, binary, later); got.Note != ended+want {
			t.Errorf("%s, when it has ended: %+v", binary, got)
		}
	}
}

func TestShelfNeverGoesBackWhileAManifestCounts(t *testing.T) {
	trust := trustIn(t, key(2), key(3))
	var disk []byte
	s := NewShelf(nil, func(b []byte) error { disk = b; return nil })
	take := func(s *Shelf, trust *service.Trust, seq uint64, k ed25519.PrivateKey) error {
		_, err := s.Take(of(trust), manifest(t, trust.Service, seq, "1.0.0", "1.2.0", k), t0)
		return err
	}
	if err := take(s, trust, 1<<62, key(2)); err != nil {
		t.Fatal(err)
	}
	again := NewShelf(disk, nil) // after a restart
	for name, of := range map[string]*Shelf{"running": s, "restarted": again} {
		if err := take(of, trust, 7, key(3)); !errors.Is(err, service.ErrRollback) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Whoever stole key 2 put the number as high as it goes. Without that key the
	// others go on from where they were.
	without := trustIn(t, key(3))
	if r, _ := s.Current(without); r != nil {
		t.Error("what the former key signed still counts")
	}
	if got := s.Status(without, "1.2.0", t0); got.Version != "" {
		t.Errorf("%+v", got)
	}
	if err := take(s, without, 7, key(3)); err != nil {
		t.Error(err)
	}
	if err := take(s, without, 6, key(3)); !errors.Is(err, service.ErrRollback) {
		t.Errorf("from there: %v", err)
	}
	if r, _ := NewShelf(disk, nil).Current(without); r == nil || r.Seq != 7 {
		t.Errorf("on disk is %+v", r)
	}
}

// TestMoreSignaturesAreKept: the owner may want more of them one day.
func TestMoreSignaturesAreKept(t *testing.T) {
	trust := trustIn(t, key(2), key(3))
	var disk []byte
	s := NewShelf(nil, func(b []byte) error { disk = b; return nil })
	one := manifest(t, trust.Service, 5, "1.0.0", "1.2.0", key(2))
	if _, err := s.Take(of(trust), one, t0); err != nil {
		t.Fatal(err)
	}
	two, err := one.SignRelease(key(3))
	if err != nil {
		t.Fatal(err)
	}
	for _, signed := range []service.Signed{two, one} {
		if _, err := s.Take(of(trust), signed, t0); !errors.Is(err, service.ErrStale) {
			t.Errorf("the same manifest is news: %v", err)
		}
		if _, has := NewShelf(disk, nil).Current(trust); len(has.Sigs) != 2 {
			t.Errorf("%d signatures are on disk", len(has.Sigs))
		}
	}
}

func TestManifestThatIsNotOnDiskIsNotKnown(t *testing.T) {
	trust, full := trustIn(t, key(2)), errors.New("no space left")
	s := NewShelf([]byte("nothing of the kind"), func([]byte) error { return full })
	if _, err := s.Take(of(trust), manifest(t, trust.Service, 1, "1.0.0", "1.2.0", key(2)), t0); !errors.Is(err, full) {
		t.Error(err)
	}
	if r, _ := s.Current(trust); r != nil {
		t.Errorf("%+v", r)
	}
}
