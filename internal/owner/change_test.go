package owner

import (
	"crypto/ed25519"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// opened returns the hand-over in files, and what it trusts.
func opened(t *testing.T, f SuperFiles) (service.HandOver, *service.Trust) {
	t.Helper()
	key, err := ParseKey(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := service.OpenHandOver(f.HandOver, key)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := service.Open(h.Service.Documents, h.Service.ID, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return h, tr
}

func TestAddedSuperPeerHasABlockOfItsOwnAndTheNextDescriptor(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	secret := s.Secret
	for i, endpoint := range []string{"203.0.113.1:4500", "203.0.113.2:4500"} {
		c, err := AddSuper(secret, endpoint, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		secret = c.Secret
		h, tr := opened(t, c.Files)
		pid := id.FromKey(ed25519.NewKeyFromSeed(h.Seed).Public().(ed25519.PublicKey))
		self, ok := tr.Descriptor.SuperPeer(pid)
		switch {
		case !ok || !self.Has(service.RoleAdmit) || self.Endpoints[0] != endpoint || !self.MayGrant(RoleLabel, "db"):
			t.Errorf("listed as %+v", self)
		case tr.Descriptor.Seq != uint64(i+2) || len(tr.Descriptor.SuperPeers) != i+3 || c.Number != i+2:
			t.Errorf("sequence %d, %d super peers, number %d", tr.Descriptor.Seq, len(tr.Descriptor.SuperPeers), c.Number)
		case h.Service.ID != s.ID || tr.Service != s.ID:
			t.Error("another service")
		}
		u, err := service.Open(h.Universe.Documents, h.Universe.ID, 2, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := u.Descriptor.SuperPeer(pid); !ok {
			t.Error("not in the universal overlay")
		}
	}
}

func TestRemovedSuperPeersBlockRests(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c, err := RemoveSuper(s.Secret, testOptions.SuperPeers[0], now)
	if err != nil {
		t.Fatal(err)
	}
	_, tr := opened(t, c.Files)
	if len(tr.Descriptor.SuperPeers) != 1 || tr.Descriptor.SuperPeers[0].Endpoints[0] != testOptions.SuperPeers[1] || tr.Descriptor.Seq != 2 {
		t.Errorf("descriptor %d of %+v", tr.Descriptor.Seq, tr.Descriptor.SuperPeers)
	}
	if c.Files.Endpoint != testOptions.SuperPeers[1] || c.Number != 1 {
		t.Errorf("news carried by %s, number %d", c.Files.Endpoint, c.Number)
	}
	old := s.Supers[0].Block
	soon, err := AddSuper(c.Secret, "203.0.113.1:4500", now.Add(retiredFor-time.Second))
	if err != nil || soon.Files.Block == old {
		t.Errorf("soon: %v, %v", soon.Files.Block, err)
	}
	later, err := AddSuper(c.Secret, "203.0.113.1:4500", now.Add(retiredFor))
	if err != nil || later.Files.Block != old {
		t.Errorf("later: %v, %v", later.Files.Block, err)
	}
}

func TestChangesThatCannotBeAreRefused(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	small := testOptions
	small.Prefix4, small.SuperPeers = netip.MustParsePrefix("10.42.0.0/27"), []string{"192.0.2.1:4500", "192.0.2.2:4500"}
	tight, err := Create(small)
	if err != nil {
		t.Fatal(err)
	}
	one := testOptions
	one.SuperPeers = one.SuperPeers[:1]
	single, err := Create(one)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for want, f := range map[string]func() (*Change, error){
		"already":          func() (*Change, error) { return AddSuper(s.Secret, testOptions.SuperPeers[1], now) },
		"every block":      func() (*Change, error) { return AddSuper(tight.Secret, "192.0.2.3:4500", now) },
		"no super peer at": func() (*Change, error) { return RemoveSuper(s.Secret, "192.0.2.3:4500", now) },
		"only super peer":  func() (*Change, error) { return RemoveSuper(single.Secret, one.SuperPeers[0], now) },
		"no owner.secret":  func() (*Change, error) { return AddSuper([]byte("x"), "192.0.2.3:4500", now) },
		"expired on":       func() (*Change, error) { return AddSuper(s.Secret, "192.0.2.3:4500", now.Add(2*documentLife)) },
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestOwnerSecretOfEarlierVersionsIsRead(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseOwner(s.Secret)
	if err != nil {
		t.Fatal(err)
	}
	old := wire.Marshal(ownerFile1{Version: 1, Owner: f.Owner, Supers: f.Supers, HandOver: service.FormerHandOver{
		Version: 1, Seed: f.HandOver.Seed, Service: f.HandOver.Service, Universe: f.HandOver.Universe, Policy: f.HandOver.Policy,
		ABESeed: f.HandOver.ABESeed, FakeKey: f.HandOver.FakeKey, TicketKey: f.HandOver.TicketKey, Secrets: f.HandOver.Secrets,
	}})
	if c, err := AddSuper(old, "203.0.113.1:4500", time.Now()); err != nil || c.Seq != 2 {
		t.Errorf("%v", err)
	}
	second := wire.Marshal(ownerFile2{Version: 2, Owner: f.Owner, Supers: f.Supers, Retired: []retired{{Block: "10.42.0.0/20", At: 1}}, HandOver: service.HandOver2{
		Version: 2, Seed: f.HandOver.Seed, Service: f.HandOver.Service, Universe: f.HandOver.Universe, Policy: f.HandOver.Policy,
		ABESeed: f.HandOver.ABESeed, FakeKey: f.HandOver.FakeKey, TicketKey: f.HandOver.TicketKey, Secrets: f.HandOver.Secrets, Join: []byte("x"),
	}})
	if g, err := parseOwner(second); err != nil || string(g.HandOver.Join) != "x" || len(g.Retired) != 1 {
		t.Errorf("version 2: %v", err)
	}
}

func TestChangeIsWrittenBesideTheOthers(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "shop")
	if err := s.Write(dir); err != nil {
		t.Fatal(err)
	}
	read := func() service.Token {
		b, err := os.ReadFile(filepath.Join(dir, "web.token"))
		if err != nil {
			t.Fatal(err)
		}
		tok, err := service.ParseToken(b)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	before := read()
	change := func(f func([]byte, string, time.Time) (*Change, error), endpoint string) {
		t.Helper()
		secret, err := Secret(dir)
		if err != nil {
			t.Fatal(err)
		}
		c, err := f(secret, endpoint, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	change(AddSuper, "203.0.113.1:4500")
	for _, name := range []string{"owner.secret", "super-3.handover", "super-3.key", "web.token", "web.token.yaml"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if after := read(); len(after.SuperPeers) != 3 || after.MinSeq != 1 || string(after.Secret) != string(before.Secret) {
		t.Errorf("token: %d super peers, at least %d", len(after.SuperPeers), after.MinSeq)
	}
	change(RemoveSuper, testOptions.SuperPeers[0])
	if after := read(); len(after.SuperPeers) != 2 || after.MinSeq != 3 || after.SuperPeers[0].Endpoint != testOptions.SuperPeers[1] {
		t.Errorf("token: %d super peers, at least %d", len(after.SuperPeers), after.MinSeq)
	}
	if _, err := Secret(t.TempDir()); err == nil || !strings.Contains(err.Error(), "icvpn service create") {
		t.Errorf("empty directory: %v", err)
	}
}
