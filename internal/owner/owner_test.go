package owner

import (
	"bytes"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"icvpn/internal/filter"
	"icvpn/internal/service"
)

var testOptions = Options{
	Name: "shop", Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"web", "db"},
	SuperPeers: []string{"192.0.2.1:4500", "198.51.100.1:4600"}, Now: time.Now(),
	Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "db"}}},
}

// TestLabelScopeIsGrantedByEverySecret: what the owner allows beside the role must
// be within the scope of secrets, and of super peers, who sign for it.
func TestLabelScopeIsGrantedByEverySecret(t *testing.T) {
	o := testOptions
	o.LabelScope = map[string][]string{"zone": {"eu", "us"}, "rack": {service.AnyValue}}
	s, err := Create(o)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(s.Supers[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := service.OpenHandOver(s.Supers[0].HandOver, key)
	if err != nil {
		t.Fatal(err)
	}
	for i, secret := range h.Secrets {
		role := o.Roles[i]
		got, err := secret.Grants(map[string]string{"zone": "eu", "rack": "r-17"})
		if want := map[string]string{"role": role, "zone": "eu", "rack": "r-17"}; err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: granted %v, %v, want %v", role, got, err, want)
		}
		if got, err := secret.Grants(nil); err != nil || !maps.Equal(got, map[string]string{"role": role}) {
			t.Errorf("%s: granted %v, %v, though nothing was asked for", role, got, err)
		}
		for _, asked := range []map[string]string{{"zone": "asia"}, {"tier": "gold"}, {"role": "other"}} {
			if got, err := secret.Grants(asked); err == nil {
				t.Errorf("%s: granted %v", role, got)
			}
		}
	}
	tr, err := service.Open(h.Service.Documents, s.ID, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, sp := range tr.Descriptor.SuperPeers {
		if !sp.MayGrant("zone", "us") || !sp.MayGrant("rack", "any") || !sp.MayGrant(RoleLabel, "db") || sp.MayGrant("zone", "asia") {
			t.Errorf("super peer has scope %v", sp.Scope)
		}
	}
}

func TestDescriptorThatNobodyCouldReadIsNotMade(t *testing.T) {
	o := testOptions
	o.LabelScope = map[string][]string{}
	for _, key := range "abcdefghijklmno" {
		for i := range 32 {
			o.LabelScope[string(key)] = append(o.LabelScope[string(key)], strings.Repeat("x", 60)+string(rune('a'+i%26)))
		}
	}
	if _, err := Create(o); err == nil || !strings.Contains(err.Error(), "--label-scope") {
		t.Errorf("got %v", err)
	}
}

func TestCreateMakesAVerifiableService(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Tokens) != 2 || len(s.Supers) != 2 {
		t.Fatalf("%d tokens, %d super peers", len(s.Tokens), len(s.Supers))
	}
	for i, f := range s.Supers {
		key, err := ParseKey(f.Key)
		if err != nil {
			t.Fatal(err)
		}
		h, err := service.OpenHandOver(f.HandOver, key)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := service.Open(h.Service.Documents, s.ID, 1, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if tr, err = tr.WithPolicy(h.Policy, time.Now()); err != nil || len(tr.Policy.Rules) != 1 {
			t.Fatalf("policy: %v", err)
		}
		if _, err := service.Open(h.Universe.Documents, h.Universe.ID, 1, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := tr.Descriptor.SuperPeers[i].Block4; got != f.Block.String() {
			t.Errorf("block %s, want %s", got, f.Block)
		}
	}
	for _, rt := range s.Tokens {
		got, err := service.ParseToken([]byte(rt.Token.Text()))
		if err != nil || got.Service != s.ID {
			t.Errorf("token of %s: %v", rt.Role, err)
		}
	}
}

func TestWriteRefusesToOverwriteAndKeepsSecretsPrivate(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := s.Write(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"owner.secret", "web.token", "db.token.yaml", "super-1.handover", "super-2.key"} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if err := s.Write(dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("second write: %v", err)
	}
	var out bytes.Buffer
	s.Explain(&out, dir)
	for _, want := range []string{"icvpn super --config super-1.yaml", "icvpn up --token-file web.token", "owner.secret"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("explanation lacks %q", want)
		}
	}
	for _, rt := range s.Tokens {
		if strings.Contains(out.String(), rt.Token.Text()) {
			t.Error("explanation shows a token")
		}
	}
}

func TestBlocksAreDisjointAndLeaveRoom(t *testing.T) {
	for _, tc := range []struct {
		prefix string
		n      int
		first  string
		fails  bool
	}{
		{"10.42.0.0/16", 2, "10.42.0.0/20", false},
		{"10.42.0.0/26", 2, "10.42.0.0/27", false},
		{"10.42.0.0/16", 40, "10.42.0.0/22", false},
		{"10.42.0.0/28", 2, "", true},
	} {
		bs, err := Blocks(netip.MustParsePrefix(tc.prefix), tc.n)
		if (err != nil) != tc.fails {
			t.Errorf("%s for %d: %v", tc.prefix, tc.n, err)
		}
		if tc.fails {
			continue
		}
		if bs[0].String() != tc.first {
			t.Errorf("%s for %d: first block %s, want %s", tc.prefix, tc.n, bs[0], tc.first)
		}
		for i := range bs {
			for j := range i {
				if bs[i].Overlaps(bs[j]) {
					t.Errorf("%s overlaps %s", bs[i], bs[j])
				}
			}
		}
	}
}

func TestPolicyFileIsSigned(t *testing.T) {
	o := testOptions
	o.Policy = []byte("mesh: full\nsa_lifetime: 20m\nrules:\n- from: {role: web}\n  to: {role: db}\n  proto: tcp\n  ports: [5432]\n")
	s, err := Create(o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(s.Policy, []byte("mesh: full")) {
		t.Errorf("policy:\n%s", s.Policy)
	}
	o.Policy = []byte("mash: full\n")
	if _, err := Create(o); err == nil || !strings.Contains(err.Error(), "mash") {
		t.Errorf("unknown key: %v", err)
	}
}
