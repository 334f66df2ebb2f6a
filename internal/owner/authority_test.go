package owner

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"icvpn/internal/service"
)

func mustParse(t *testing.T, secret []byte) ownerFile {
	t.Helper()
	f, err := parseOwner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func tokenIn(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "web.token"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// withMaster returns the endpoints of the super peers that a descriptor makes
// authorities.
func withMaster(d *service.Descriptor) (all []string) {
	for _, sp := range d.SuperPeers {
		if sp.Has(service.RoleAuthority) {
			all = append(all, sp.Endpoints[0])
		}
	}
	return all
}

func TestOnlyAuthoritiesGetTheMasterKey(t *testing.T) {
	o := testOptions
	o.SuperPeers, o.Authorities = []string{"192.0.2.1:4500", "192.0.2.2:4500", "192.0.2.3:4500"}, 2
	s, err := Create(o)
	if err != nil {
		t.Fatal(err)
	}
	master := mustParse(t, s.Secret).HandOver.ABESeed
	for i, f := range s.Supers {
		h, tr := opened(t, f)
		if got := withMaster(tr.Descriptor); !slices.Equal(got, o.SuperPeers[:2]) {
			t.Errorf("authorities are %v", got)
		}
		if has := bytes.Equal(h.ABESeed, master); has != (i < 2) || f.Authority != has || !has && len(h.ABESeed) > 0 {
			t.Errorf("super peer %d has the master key: %v", i+1, has)
		}
	}
	var said strings.Builder
	s.Explain(&said, "shop")
	if !strings.Contains(said.String(), "192.0.2.1:4500 and 192.0.2.2:4500 can make attribute keys") {
		t.Errorf("said %s", said.String())
	}
	o.Authorities = 0
	if s, err = Create(o); err != nil {
		t.Fatal(err)
	}
	if _, tr := opened(t, s.Supers[2]); len(withMaster(tr.Descriptor)) != 3 {
		t.Error("0 is not all")
	}
}

// TestAddedSuperPeerHasTheMasterKeyOnlyAsTheSecond: either of two may fail; more
// need not be trusted with it.
func TestAddedSuperPeerHasTheMasterKeyOnlyAsTheSecond(t *testing.T) {
	o := testOptions
	o.SuperPeers = o.SuperPeers[:1]
	s, err := Create(o)
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
		if h, tr := opened(t, c.Files); len(withMaster(tr.Descriptor)) != 2 || (len(h.ABESeed) > 0) != (i == 0) {
			t.Errorf("%s: %d authorities, %d bytes of master key", endpoint, len(withMaster(tr.Descriptor)), len(h.ABESeed))
		}
	}
}

func TestMasterKeyIsGivenAndTaken(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	one, two, now := testOptions.SuperPeers[0], testOptions.SuperPeers[1], time.Now()
	taken, err := TakeMaster(s.Secret, one, now)
	if err != nil {
		t.Fatal(err)
	}
	h, tr := opened(t, taken.Files)
	if len(h.ABESeed) != 0 || tr.Descriptor.Seq != 2 || !slices.Equal(withMaster(tr.Descriptor), []string{two}) || taken.Number != 0 {
		t.Errorf("taken: %d bytes, sequence %d, authorities %v", len(h.ABESeed), tr.Descriptor.Seq, withMaster(tr.Descriptor))
	}
	given, err := GiveMaster(taken.Secret, one, now)
	if err != nil {
		t.Fatal(err)
	}
	if h, tr := opened(t, given.Files); !bytes.Equal(h.ABESeed, mustParse(t, s.Secret).HandOver.ABESeed) || len(withMaster(tr.Descriptor)) != 2 {
		t.Error("given: the hand-over has another master key, or the descriptor does not say so")
	}
	removed, err := RemoveSuper(taken.Secret, one, now)
	if err != nil {
		t.Fatal(err)
	}
	if h, _ := opened(t, removed.Files); len(h.ABESeed) != 32 {
		t.Error("the one that stays lost the master key")
	}
	for want, f := range map[string]func() (*Change, error){
		"already":                    func() (*Change, error) { return GiveMaster(s.Secret, one, now) },
		"has no ABE master key":      func() (*Change, error) { return TakeMaster(taken.Secret, one, now) },
		"with the ABE master key":    func() (*Change, error) { return TakeMaster(taken.Secret, two, now) },
		"give it to another first":   func() (*Change, error) { return RemoveSuper(taken.Secret, two, now) },
		"has no super peer at 1.2.3": func() (*Change, error) { return GiveMaster(s.Secret, "1.2.3.4:4500", now) },
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestTokensDoNotChangeWithTheMasterKey: machines do not care who makes keys.
func TestTokensDoNotChangeWithTheMasterKey(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.Write(dir); err != nil {
		t.Fatal(err)
	}
	before := tokenIn(t, dir)
	c, err := TakeMaster(s.Secret, testOptions.SuperPeers[1], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	if after := tokenIn(t, dir); after != before {
		t.Errorf("token %s, was %s", after, before)
	}
	var said strings.Builder
	c.Explain(&said, dir)
	if !strings.Contains(said.String(), "has the ABE master key no more") || !strings.Contains(said.String(), "super-2.handover") {
		t.Errorf("said %s", said.String())
	}
}
