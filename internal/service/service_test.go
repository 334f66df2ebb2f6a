package service

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/wire"
)

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// testKey returns the Ed25519 key whose seed is 32 times n.
func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(n)), 32)))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// fixture is a service with one owner and two super peers, the second of
// which may not admit.
type fixture struct {
	owner, admit, store ed25519.PrivateKey
	id                  id.ID
	docs                Documents
	policy              Signed
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	f := fixture{owner: testKey(1), admit: testKey(2), store: testKey(3)}
	root, err := NewRoot("shop", []ed25519.PrivateKey{f.owner}, 1, t0, t0.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	f.id = RootID(root)
	f.docs = Documents{Roots: []Signed{root}, Descriptor: f.descriptor(t, nil)}
	f.policy, err = NewPolicy(Policy{Sequence: 1, Issued: t0, Expires: t0.AddDate(1, 0, 0), Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}}}}, f.id, []ed25519.PrivateKey{f.owner})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f fixture) descriptor(t testing.TB, change func(*Descriptor)) Signed {
	t.Helper()
	end := t0.AddDate(0, 1, 0).Unix()
	d := Descriptor{
		Service: f.id, Seq: 3, Issued: t0.Unix(), Expires: end, Name: "shop", Prefix4: "10.42.0.0/16",
		SuperPeers: []SuperPeer{
			{Key: public(f.admit), Endpoints: []string{"192.0.2.1:4500"}, Roles: []string{RoleAdmit, RoleAuthority}, Scope: map[string][]string{"role": {"web", "app"}}, Block4: "10.42.0.0/20", Expires: end},
			{Key: public(f.store), Endpoints: []string{"192.0.2.2:4500"}, Roles: []string{RoleStore}, Block4: "10.42.16.0/20", Expires: end},
		},
	}
	if change != nil {
		change(&d)
	}
	s, err := NewDescriptor(d, []ed25519.PrivateKey{f.owner})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (f fixture) trust(t testing.TB) *Trust {
	t.Helper()
	tr, err := Open(f.docs, f.id, 0, t0)
	if err != nil {
		t.Fatal(err)
	}
	if tr, err = tr.WithPolicy(f.policy, t0); err != nil {
		t.Fatal(err)
	}
	return tr
}

func (f fixture) credential(change func(*Credential)) Credential {
	c := Credential{
		Service: f.id, Key: public(testKey(9)), Name: "web-1", VM: "i-1", Labels: map[string]string{"role": "web"},
		Slot: make([]byte, 16), Address4: []byte{10, 42, 0, 5}, SecretID: "web-x", AdmittedAt: t0.Unix(),
		NotBefore: t0.Unix(), NotAfter: t0.Add(time.Hour).Unix(), Epoch: 1,
	}
	if change != nil {
		change(&c)
	}
	return c
}

func TestOpenVerifiesTheChain(t *testing.T) {
	f := newFixture(t)
	tr := f.trust(t)
	if tr.Descriptor.Name != "shop" || tr.Policy == nil {
		t.Fatalf("trust = %+v", tr)
	}
	for name, change := range map[string]func(*Documents) (id.ID, uint64, time.Time){
		"another service":     func(*Documents) (id.ID, uint64, time.Time) { return id.ID{1}, 0, t0 },
		"rolled back":         func(*Documents) (id.ID, uint64, time.Time) { return f.id, 4, t0 },
		"expired descriptor":  func(*Documents) (id.ID, uint64, time.Time) { return f.id, 0, t0.AddDate(0, 2, 0) },
		"expired root":        func(*Documents) (id.ID, uint64, time.Time) { return f.id, 0, t0.AddDate(2, 0, 0) },
		"no root":             func(d *Documents) (id.ID, uint64, time.Time) { d.Roots = nil; return f.id, 0, t0 },
		"unsigned descriptor": func(d *Documents) (id.ID, uint64, time.Time) { d.Descriptor.Sigs = nil; return f.id, 0, t0 },
		"policy as descriptor": func(d *Documents) (id.ID, uint64, time.Time) {
			d.Descriptor = f.policy
			return f.id, 0, t0
		},
		"descriptor signed by another": func(d *Documents) (id.ID, uint64, time.Time) {
			d.Descriptor = sign(typeDescriptor, d.Descriptor.Body, []ed25519.PrivateKey{f.admit})
			return f.id, 0, t0
		},
		"type not signed": func(d *Documents) (id.ID, uint64, time.Time) {
			d.Descriptor.Sigs = sign(typePolicy, d.Descriptor.Body, []ed25519.PrivateKey{f.owner}).Sigs
			return f.id, 0, t0
		},
	} {
		docs := f.docs
		service, seq, now := change(&docs)
		if _, err := Open(docs, service, seq, now); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOneOwnerSignatureDoesNotCountTwice(t *testing.T) {
	owners := []ed25519.PrivateKey{testKey(1), testKey(2)}
	root, err := NewRoot("shop", owners, 2, t0, t0.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openRoots([]Signed{root}, RootID(root), t0); err != nil {
		t.Fatal(err)
	}
	root.Sigs[1] = root.Sigs[0]
	if _, err := openRoots([]Signed{root}, RootID(root), t0); err == nil {
		t.Error("accepted one owner's signature given twice")
	}
}

func TestRootRotationNeedsBothThresholds(t *testing.T) {
	old, next := testKey(1), testKey(2)
	first, err := NewRoot("shop", []ed25519.PrivateKey{old}, 1, t0, t0.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	var r Root
	if err := wire.Unmarshal(first.Body, &r, MaxSigned); err != nil {
		t.Fatal(err)
	}
	r.Seq, r.Owners = 2, []ed25519.PublicKey{public(next)}
	body := wire.Marshal(r)
	both := sign(typeRoot, body, []ed25519.PrivateKey{next, old})
	if got, err := openRoots([]Signed{first, both}, RootID(first), t0); err != nil || got.Seq != 2 {
		t.Fatalf("rotation refused: %v", err)
	}
	for name, s := range map[string]Signed{
		"new owner only": sign(typeRoot, body, []ed25519.PrivateKey{next}),
		"old owner only": sign(typeRoot, body, []ed25519.PrivateKey{old}),
	} {
		if _, err := openRoots([]Signed{first, s}, RootID(first), t0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := openRoots([]Signed{both}, RootID(first), t0); err == nil {
		t.Error("accepted a chain without its first root")
	}
}

func TestVerifyCredential(t *testing.T) {
	f := newFixture(t)
	tr := f.trust(t)
	good, err := SignCredential(f.credential(nil), f.admit)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tr.VerifyCredential(t0, good, 1)
	if err != nil || c.Name != "web-1" || c.Addr6() != Address6(f.id, c.PID()) {
		t.Fatalf("VerifyCredential = %+v, %v", c, err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if _, err := tr.VerifyCredential(t0, bad, 1); err == nil {
			t.Fatalf("accepted with byte %d changed", i)
		}
		if _, err := tr.VerifyCredential(t0, good[:i], 1); err == nil {
			t.Fatalf("accepted a truncation to %d bytes", i)
		}
	}
	if _, err := tr.VerifyCredential(t0, append(good, 0), 1); err == nil {
		t.Error("accepted a trailing byte")
	}
	for name, tc := range map[string]struct {
		change func(*Credential)
		key    ed25519.PrivateKey
		at     time.Time
		epoch  uint32
		want   string
	}{
		"foreign service":      {change: func(c *Credential) { c.Service = id.ID{7} }, want: "another service"},
		"issuer not listed":    {key: testKey(8), want: "may not admit"},
		"issuer without role":  {key: f.store, want: "may not admit"},
		"expired":              {at: t0.Add(time.Hour), want: "expired"},
		"not yet valid":        {at: t0.Add(-time.Hour), want: "not valid before"},
		"issuer expired":       {at: t0.AddDate(0, 1, 1), change: func(c *Credential) { c.NotAfter = t0.AddDate(1, 0, 0).Unix() }, want: "issuer"},
		"old epoch":            {epoch: 3, want: "epoch"},
		"future generation":    {change: func(c *Credential) { c.Generation += 2 }, want: "generation"},
		"future epoch":         {change: func(c *Credential) { c.Epoch = 4 }, want: "epoch"},
		"label out of scope":   {change: func(c *Credential) { c.Labels["role"] = "db" }, want: "scope"},
		"unknown label":        {change: func(c *Credential) { c.Labels["admin"] = "yes" }, want: "scope"},
		"address out of block": {change: func(c *Credential) { c.Address4 = []byte{10, 42, 16, 1} }, want: "block"},
	} {
		if tc.key == nil {
			tc.key = f.admit
		}
		if tc.at.IsZero() {
			tc.at = t0
		}
		if tc.epoch == 0 {
			tc.epoch = 1
		}
		b, err := SignCredential(f.credential(tc.change), tc.key)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := tr.VerifyCredential(tc.at, b, tc.epoch); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
}

func TestRevocation(t *testing.T) {
	f := newFixture(t)
	c := f.credential(nil)
	b, err := SignCredential(c, f.admit)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		r    Revoked
		want bool
	}{
		"peer":         {Revoked{Peers: []string{c.PID().String()}}, false},
		"other peer":   {Revoked{Peers: []string{id.ID{}.String()}}, true},
		"secret":       {Revoked{Secrets: []RevokedSecret{{ID: "web-x", Since: t0}}}, false},
		"secret later": {Revoked{Secrets: []RevokedSecret{{ID: "web-x", Since: t0.Add(time.Second)}}}, true},
	} {
		p, err := NewPolicy(Policy{Sequence: 2, Expires: t0.AddDate(1, 0, 0), Out: tc.r}, f.id, []ed25519.PrivateKey{f.owner})
		if err != nil {
			t.Fatal(err)
		}
		tr, err := f.trust(t).WithPolicy(p, t0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.VerifyCredential(t0, b, 1); (err == nil) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPolicyDoesNotRollBack(t *testing.T) {
	f := newFixture(t)
	newer, err := NewPolicy(Policy{Sequence: 2, Expires: t0.AddDate(1, 0, 0)}, f.id, []ed25519.PrivateKey{f.owner})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := f.trust(t).WithPolicy(newer, t0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.WithPolicy(f.policy, t0); !errors.Is(err, ErrRollback) {
		t.Errorf("error %v, want ErrRollback", err)
	}
	if _, err := tr.WithPolicy(newer, t0.AddDate(1, 0, 0)); err == nil {
		t.Error("accepted an expired policy")
	}
}

func TestDescriptorRefusesOverlappingBlocks(t *testing.T) {
	f := newFixture(t)
	var d Descriptor
	if err := wire.Unmarshal(f.docs.Descriptor.Body, &d, MaxSigned); err != nil {
		t.Fatal(err)
	}
	d.SuperPeers[1].Block4 = "10.42.8.0/21"
	if _, err := NewDescriptor(d, []ed25519.PrivateKey{f.owner}); err == nil || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("error %v, want overlap", err)
	}
	d.SuperPeers[1].Block4 = "10.43.0.0/20"
	if _, err := NewDescriptor(d, []ed25519.PrivateKey{f.owner}); err == nil {
		t.Error("accepted a block outside the prefix")
	}
}

func testToken() Token {
	return Token{Version: 1, Service: id.ID{1, 2}, Name: "shop", MinSeq: 1, SecretID: "web-1a2b", Secret: []byte("0123456789abcdef"),
		SuperPeers: []TokenSuperPeer{{Endpoint: "192.0.2.1:4500", Key: public(testKey(2))}, {Endpoint: "[2001:db8::1]:4500", Key: public(testKey(3))}}}
}

func TestTokenRoundTripBothForms(t *testing.T) {
	want := testToken()
	for _, text := range []string{want.Text(), " " + want.Text() + "\n", string(want.YAML())} {
		got, err := ParseToken([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got.Text() != want.Text() {
			t.Errorf("round trip of %.20q differs", text)
		}
	}
}

func TestTokenErrorsSayWhatIsWrongAndHideTheSecret(t *testing.T) {
	good := testToken().Text()
	swap := map[byte]byte{'A': 'B'}
	altered := []byte(good)
	altered[40] = 'A'
	if good[40] == 'A' {
		altered[40] = swap['A']
	}
	for name, tc := range map[string]struct{ text, want string }{
		"empty":         {"", "empty"},
		"truncated":     {good[:len(good)-7], "truncated or altered"},
		"altered":       {string(altered), "truncated or altered"},
		"other version": {"icvpn2:" + good[7:], "version"},
		"no token":      {"hello", "not an icvpn token"},
		"a big file":    {strings.Repeat("x", 10000), "right file"},
		"yaml version":  {strings.Replace(string(testToken().YAML()), "icvpn_token: 1", "icvpn_token: 9", 1), "version 9"},
		"yaml key":      {string(testToken().YAML()) + "colour: red\n", "(line 12, column 1)"},
		"yaml secret":   {strings.Replace(string(testToken().YAML()), "secret: MDEy", "secret: '***MDEy", 1), "cannot be read"},
		"yaml service":  {strings.Replace(string(testToken().YAML()), testToken().Service.String(), "zz", 1), `"service"`},
	} {
		_, err := ParseToken([]byte(tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
		if err != nil && (strings.Contains(err.Error(), "MDEyMzQ1") || strings.Contains(err.Error(), "0123456789abcdef") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: error shows the secret or spans lines: %v", name, err)
		}
	}
	for i := range good {
		if _, err := ParseToken([]byte(good[:i])); err == nil {
			t.Errorf("accepted a truncation to %d characters", i)
		}
	}
}

func TestSecretsAreRedacted(t *testing.T) {
	tok := testToken()
	h := HandOver{Seed: []byte("0123456789abcdef0123456789abcdef")}
	for _, s := range []string{fmt.Sprint(tok), fmt.Sprintf("%v %+v %#v", tok, tok, tok), tok.LogValue().String(), fmt.Sprintf("%v %+v %#v", h, h, h), h.LogValue().String()} {
		if strings.Contains(s, "0123456789") || strings.Contains(s, "48, 49") || strings.Contains(s, "0x30") {
			t.Errorf("secret shown: %s", s)
		}
	}
}

func TestContactRoundTripAndFiltering(t *testing.T) {
	eps := []netip.AddrPort{
		netip.MustParseAddrPort("198.51.100.7:4500"), netip.MustParseAddrPort("127.0.0.1:4500"), netip.MustParseAddrPort("169.254.169.254:80"),
		netip.MustParseAddrPort("[fe80::1]:4500"), netip.MustParseAddrPort("[2001:db8::5]:4500"), netip.MustParseAddrPort("224.0.0.1:4500"), netip.MustParseAddrPort("192.0.2.1:0"),
	}
	c := NewContact(id.ID{1}, 1, 7, t0.Add(time.Hour), eps)
	got, err := OpenContact(c.Encode(), id.ID{1}, 7, t0)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Endpoints) != 2 || got.Endpoints[0] != eps[0] || got.Endpoints[1] != eps[4] {
		t.Errorf("endpoints = %v", got.Endpoints)
	}
	for name, err := range map[string]error{
		"other service": second(OpenContact(c.Encode(), id.ID{2}, 7, t0)),
		"other seq":     second(OpenContact(c.Encode(), id.ID{1}, 8, t0)),
		"expired":       second(OpenContact(c.Encode(), id.ID{1}, 7, t0.Add(time.Hour))),
		"another type":  second(OpenContact(Contact{Type: "directory", Service: id.ID{1}, Seq: 7, Expires: t0.Add(time.Hour).Unix()}.Encode(), id.ID{1}, 7, t0)),
		"trailing byte": second(OpenContact(append(c.Encode(), 0), id.ID{1}, 7, t0)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestContactNamesRelays: at most two, by PID, and a contact without any is what it was
// before there were relays.
func TestContactNamesRelays(t *testing.T) {
	c := NewContact(id.ID{1}, 1, 7, t0.Add(time.Hour), []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:4500")})
	if b := c.Encode(); b[0] != 0x87 {
		t.Errorf("without relays it begins with %x, an array of another length", b[0])
	}
	relay := ContactRelay{PID: id.ID{2}, Allocation: make([]byte, 8)}
	c.Relays = []ContactRelay{relay, relay}
	got, err := OpenContact(c.Encode(), id.ID{1}, 7, t0)
	if err != nil || len(got.Relays) != 2 || got.Relays[1].PID != relay.PID {
		t.Fatalf("%+v, %v", got, err)
	}
	full := NewContact(id.ID{1}, 1, 7, t0.Add(time.Hour), slices.Repeat([]netip.AddrPort{netip.MustParseAddrPort("[2001:db8::5]:4500")}, 8))
	full.Relays = c.Relays
	if n := len(full.Encode()); n > MaxRecord-100 {
		t.Errorf("the largest contact has %d bytes, which leaves no room for its seal", n)
	}
	c.Relays = []ContactRelay{relay, relay, relay}
	bad := map[string][]byte{"three": c.Encode()}
	c.Relays = []ContactRelay{{PID: id.ID{2}, Allocation: make([]byte, 9)}}
	bad["a long allocation"] = c.Encode()
	c.Relays = []ContactRelay{}
	bad["none in the long form"] = wire.Marshal(c)
	for name, b := range bad {
		if _, err := OpenContact(b, id.ID{1}, 7, t0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestVouchedLeavesOutWhatItsIssuerMayNotGrant(t *testing.T) {
	f := newFixture(t)
	tr := f.trust(t)
	issuer := tr.Descriptor.SuperPeers[0]
	m := func(change func(*Credential)) Member { c := f.credential(change); return c.Member() }
	all := []Member{
		m(nil),
		m(func(c *Credential) { c.Labels = map[string]string{"role": "db"} }),
		m(func(c *Credential) { c.Address4 = []byte{10, 42, 16, 1} }),
		m(func(c *Credential) { c.NotAfter = t0.Unix() }),
	}
	if got := Vouched(issuer, all, t0); len(got) != 1 || got[0].Name != "web-1" {
		t.Errorf("Vouched = %+v", got)
	}
	if got := Vouched(tr.Descriptor.SuperPeers[1], all, t0); len(got) != 0 {
		t.Errorf("a super peer that may not admit vouches for %+v", got)
	}
	if got := Vouched(issuer, all, time.Unix(issuer.Expires, 0)); len(got) != 0 {
		t.Errorf("a super peer whose right has ended vouches for %+v", got)
	}
	forEver := m(func(c *Credential) { c.NotAfter = 1 << 62 })
	if got := Vouched(issuer, []Member{forEver}, t0); len(got) != 0 {
		t.Errorf("listed for ever: %+v", got)
	}
	ahead := func(s int64) []Member { return []Member{m(func(c *Credential) { c.NotBefore = t0.Unix() + s })} }
	if got := Vouched(issuer, ahead(claimSlack+1), t0); len(got) != 0 {
		t.Errorf("admitted in the future: %+v", got)
	}
	if got := Vouched(issuer, ahead(claimSlack), t0); len(got) != 1 {
		t.Error("an admission within the slack of clocks is left out")
	}
}

// TestClaimHoldsForOneProcessAtOneSuperPeer: a claim that another super peer got,
// or that was made for an earlier admission, pushes nobody out.
func TestClaimHoldsForOneProcessAtOneSuperPeer(t *testing.T) {
	key, svc, sp := testKey(9), id.ID{1}, id.ID{2}
	old := Member{Key: public(key), Issued: t0.Unix() - 3600, Instance: Instance{1}}
	m := Member{Key: public(key), Issued: t0.Unix(), Instance: Instance{2}}
	m.Claim = SignClaim(key, svc, sp, m.Instance, t0)
	if !m.Supersedes(old, svc, sp) {
		t.Fatal("a later admission with its claim does not count")
	}
	for name, change := range map[string]func(m *Member) (service, superPeer id.ID){
		"no claim":           func(m *Member) (id.ID, id.ID) { m.Claim = nil; return svc, sp },
		"another super peer": func(*Member) (id.ID, id.ID) { return svc, id.ID{3} },
		"another service":    func(*Member) (id.ID, id.ID) { return id.ID{4}, sp },
		"another process":    func(m *Member) (id.ID, id.ID) { m.Instance = Instance{5}; return svc, sp },
		"a later admission":  func(m *Member) (id.ID, id.ID) { m.Issued += 3600; return svc, sp },
		"an earlier one": func(m *Member) (id.ID, id.ID) {
			m.Issued = old.Issued - 1
			m.Claim = SignClaim(key, svc, sp, m.Instance, time.Unix(m.Issued, 0))
			return svc, sp
		},
		"another's signature": func(m *Member) (id.ID, id.ID) {
			m.Claim = SignClaim(testKey(8), svc, sp, m.Instance, t0)
			return svc, sp
		},
	} {
		c := m
		service, superPeer := change(&c)
		if c.Supersedes(old, service, superPeer) {
			t.Errorf("%s: it pushes the machine out", name)
		}
	}
	moved := m // an admission that broke off, and went through elsewhere in the same second
	moved.Claim = SignClaim(key, svc, id.ID{3}, m.Instance, t0.Add(time.Millisecond))
	if !moved.Supersedes(m, svc, id.ID{3}) || m.Supersedes(moved, svc, sp) {
		t.Error("the process's last admission is not the one that counts")
	}
	same := m
	same.Claim = nil
	same.Issued, same.Instance = old.Issued, Instance{0, 9}
	if old.LaterThan(same) == same.LaterThan(old) {
		t.Error("two admissions within a second are not in order")
	}
}

func TestLeaveIsTheMachinesOwnWord(t *testing.T) {
	key, svc := testKey(9), id.ID{1}
	b := SignLeave(key, svc, Instance{2}, t0)
	l, ok := ParseLeave(b, t0.Add(time.Minute))
	if !ok || !l.Verify(svc) || !l.Key.Equal(public(key)) || len(b) > MaxLeave {
		t.Fatalf("own goodbye refused: %+v, %d bytes", l, len(b))
	}
	for i := range b {
		if _, ok := ParseLeave(b[:i], t0); ok {
			t.Errorf("accepted a truncation to %d bytes", i)
		}
	}
	if _, ok := ParseLeave(append(b, 0), t0); ok {
		t.Error("accepted a trailing byte")
	}
	if _, ok := ParseLeave(b, t0.Add(3*time.Minute)); ok {
		t.Error("accepted an old one")
	}
	other := l
	other.Instance = Instance{3}
	late := l
	late.At++
	if l.Verify(id.ID{2}) || other.Verify(svc) || late.Verify(svc) {
		t.Error("accepted for another service, process or time")
	}
}

func TestHandOverOpensOnlyWithItsKey(t *testing.T) {
	key := []byte(strings.Repeat("k", 32))
	k := make([]byte, 32)
	h := HandOver{Seed: k, Service: Membership{Master: k}, Universe: Membership{Master: k}, ABESeed: k, FakeKey: k, TicketKey: k,
		Secrets: []EnrolmentSecret{{ID: "web", Verifier: []byte{1}, Grant: map[string]string{"role": "web"}}}}
	b, err := h.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenHandOver(b, key)
	if err != nil || got.Secrets[0].ID != "web" {
		t.Fatalf("OpenHandOver = %v, %v", got, err)
	}
	for i := range b {
		bad := append([]byte(nil), b...)
		bad[i] ^= 0x40
		if _, err := OpenHandOver(bad, key); err == nil {
			t.Fatalf("accepted with byte %d changed", i)
		}
		if _, err := OpenHandOver(b[:i], key); err == nil {
			t.Fatalf("accepted a truncation to %d bytes", i)
		}
	}
	if _, err := OpenHandOver(b, []byte(strings.Repeat("x", 32))); err == nil {
		t.Error("opened with another key")
	}
	for n, ok := range map[int]bool{0: true, 31: false, 32: true} { // no authority: no master key
		h.ABESeed = make([]byte, n)
		if b, err = h.Seal(key); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenHandOver(b, key); (err == nil) != ok {
			t.Errorf("an ABE master key of %d bytes: %v", n, err)
		}
	}
}

func TestHandOversOfEarlierVersionsAreRead(t *testing.T) {
	k := make([]byte, 32)
	m := Membership{Master: k}
	for version, plain := range map[int][]byte{
		1: wire.Marshal(FormerHandOver{Version: 1, Seed: k, Service: m, Universe: m, ABESeed: k, FakeKey: k, TicketKey: k}),
		2: wire.Marshal(HandOver2{Version: 2, Seed: k, Service: m, Universe: m, ABESeed: k, FakeKey: k, TicketKey: k, Join: []byte("x")}),
	} {
		h, err := openFormer(plain, errors.New("not of today"))
		if err == nil {
			err = h.Validate()
		}
		if err != nil || len(h.Join) != version-1 {
			t.Errorf("version %d: %v, %v", version, h, err)
		}
	}
	if _, err := openFormer([]byte{0x80}, errors.New("not of today")); err == nil {
		t.Error("an empty array was read")
	}
}

func TestGrantsStayInScope(t *testing.T) {
	s := EnrolmentSecret{ID: "web-1", Grant: map[string]string{"role": "web"}, Scope: map[string][]string{"zone": {AnyValue}, "tier": {"a", "b"}}}
	got, err := s.Grants(map[string]string{"zone": "eu", "tier": "b", "role": "web"})
	if err != nil || len(got) != 3 || got["zone"] != "eu" {
		t.Fatalf("Grants = %v, %v", got, err)
	}
	for _, asked := range []map[string]string{{"role": "db"}, {"tier": "c"}, {"admin": "yes"}} {
		var scope *ScopeError
		if _, err := s.Grants(asked); !errors.As(err, &scope) {
			t.Errorf("Grants(%v) error %v, want a ScopeError", asked, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add([]byte(testToken().Text()))
	f.Add(testToken().YAML())
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := ParseToken(b)
		if err == nil {
			if again, err := ParseToken([]byte(tok.Text())); err != nil || again.Text() != tok.Text() {
				t.Errorf("accepted token does not round trip: %v", err)
			}
		}
	})
}

func FuzzVerifyCredential(f *testing.F) {
	fx := newFixture(f)
	tr := fx.trust(f)
	b, err := SignCredential(fx.credential(nil), fx.admit)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := tr.VerifyCredential(t0, in, 1); err == nil && string(in) != string(b) {
			t.Errorf("accepted foreign bytes %x", in)
		}
	})
}

func FuzzDocuments(f *testing.F) {
	fx := newFixture(f)
	f.Add(wire.Marshal(fx.docs))
	f.Add(fx.policy.Encode())
	tr := fx.trust(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		var docs Documents
		if wire.Unmarshal(in, &docs, MaxSigned) == nil {
			Open(docs, fx.id, 0, t0)
		}
		var s Signed
		if wire.Unmarshal(in, &s, MaxSigned) == nil {
			tr.WithPolicy(s, t0)
		}
		ParsePolicy(in)
		if l, ok := ParseLeave(in, t0); ok {
			l.Verify(fx.id)
		}
		OpenContact(in, fx.id, 1, t0)
	})
}

// 100::/64 is the discard prefix (RFC 6666): nobody has an address in it, and machines use
// it for what is none.
func TestDiscardPrefixIsNoEndpoint(t *testing.T) {
	if e := netip.MustParseAddrPort("[100::102:304:506:708]:4500"); UsableEndpoint(e) {
		t.Errorf("%v is an endpoint", e)
	}
	if e := netip.MustParseAddrPort("[100:0:0:1::1]:4500"); !UsableEndpoint(e) {
		t.Errorf("%v is no endpoint", e)
	}
}
