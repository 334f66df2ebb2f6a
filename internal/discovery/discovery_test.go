package discovery

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"icvpn/abe"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/service"
)

var rules = []filter.Rule{
	{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}},
	{From: filter.Selector{"role": "app"}, To: filter.Selector{"role": "db"}},
	{From: filter.Selector{"role": "ops"}, To: filter.Selector{}},
}

func TestPolicyOfFollowsTheRules(t *testing.T) {
	for role, want := range map[string]map[string]bool{
		"app": {"web": true, "ops": true, "app": false, "db": false},
		"db":  {"app": true, "ops": true, "web": false},
		"web": {"ops": true, "web": false, "app": false},
	} {
		p, ok := PolicyOf(rules, map[string]string{"role": role})
		if !ok {
			t.Fatalf("%s: no policy", role)
		}
		for reader, may := range want {
			a := abe.Attributes{Labels: Attributes(rules, map[string]string{"role": reader})}
			if got := p.Matches(a); got != may {
				t.Errorf("%s reads the contact of %s: %v, want %v (%s)", reader, role, got, may, p)
			}
		}
	}
	if p, ok := PolicyOf(rules[:2], map[string]string{"role": "web"}); ok {
		t.Errorf("nobody may reach web, yet its policy is %s", p)
	}
	if p, ok := PolicyOf([]filter.Rule{{From: filter.Selector{}, To: filter.Selector{}}}, nil); !ok || !p.Equal(Members()) {
		t.Errorf("policy of an open service: %s, %v", p, ok)
	}
}

func TestLabelsThatNoRuleAsksForGiveNoAttribute(t *testing.T) {
	got := Attributes(rules, map[string]string{"role": "web", "zone": "eu"})
	if len(got) != 2 || got["role"] != "web" || got[memberLabel] != memberValue {
		t.Errorf("Attributes = %v", got)
	}
	if got := Attributes(rules, map[string]string{memberLabel: "forged"}); got[memberLabel] != memberValue {
		t.Errorf("a label of the service became the member attribute: %v", got)
	}
}

// TestLabelsOfLeavesWhatIsGranted: what every member has needs no grant, and a
// forged value of it does.
func TestLabelsOfLeavesWhatIsGranted(t *testing.T) {
	attrs := Attributes(rules, map[string]string{"role": "web"})
	attrs["zone"] = ""
	if got := LabelsOf(attrs); len(got) != 1 || got["role"] != "web" || len(attrs) != 3 {
		t.Errorf("LabelsOf = %v of %v", got, attrs)
	}
	attrs[memberLabel] = "forged"
	if got := LabelsOf(attrs); got[memberLabel] != "forged" {
		t.Errorf("LabelsOf = %v of %v", got, attrs)
	}
}

// reader is a machine with the attribute key of a role.
func reader(t *testing.T, a *abe.Authority, epoch uint32, role string, envelopes ...[]byte) *Keys {
	t.Helper()
	slot, err := a.NewSlot(nil, Attributes(rules, map[string]string{"role": role}), 1)
	if err != nil {
		t.Fatal(err)
	}
	key, err := abe.ParseKey(slot.Key)
	if err != nil {
		t.Fatal(err)
	}
	k := NewKeys(a.Service(), key, func(id.ID) (ed25519.PublicKey, bool) { return superKey().Public().(ed25519.PublicKey), true },
		func(e uint32) (abe.Secret, bool) { return abe.Secret{9}, e == epoch })
	for _, e := range envelopes {
		if _, err := k.AddEnvelope(e, time.Now()); err != nil && !errors.Is(err, abe.ErrNoMatch) {
			t.Fatal(err)
		}
	}
	return k
}

func superKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32)) }

func TestRecordsOpenForThoseTheRulesName(t *testing.T) {
	svc := id.ID{1}
	a, err := abe.NewAuthority(abe.Secret{3}, svc)
	if err != nil {
		t.Fatal(err)
	}
	policy, _ := PolicyOf(rules, map[string]string{"role": "db"})
	target := abe.Target{Service: svc, Generation: 1, Policy: policy}
	env, err := a.Envelope(nil, superKey(), target, 1, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := a.PolicySeed(target)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := abe.DerivePolicyKey(seed, abe.Secret{9}, target, 1)
	if err != nil {
		t.Fatal(err)
	}
	st := abe.Statement{Target: target, Epoch: 1, Public: pair.Public()}
	owner := superKey().Public().(ed25519.PublicKey)
	sealed, err := Seal(st, "contact", owner, []byte("db is here"))
	if err != nil {
		t.Fatal(err)
	}
	app, web := reader(t, a, 1, "app", env), reader(t, a, 1, "web", env)
	if got, err := app.Open(sealed, "contact", owner, service.MaxRecord); err != nil || string(got) != "db is here" {
		t.Errorf("app: %q, %v", got, err)
	}
	if _, err := web.Open(sealed, "contact", owner, service.MaxRecord); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("web: %v, want ErrNotAllowed", err)
	}
	for name, open := range map[string]func() error{
		"another kind":  func() error { _, err := app.Open(sealed, "members", owner, service.MaxRecord); return err },
		"another owner": func() error { _, err := app.Open(sealed, "contact", owner[:31], service.MaxRecord); return err },
		"a wrong epoch": func() error {
			k := reader(t, a, 2, "app", env)
			_, err := k.Open(sealed, "contact", owner, 600)
			return err
		},
		"a low limit": func() error { _, err := app.Open(sealed, "contact", owner, len(sealed)-1); return err },
		"a trailing byte": func() error {
			_, err := app.Open(append(sealed[:len(sealed):len(sealed)], 0), "contact", owner, 600)
			return err
		},
	} {
		if open() == nil {
			t.Errorf("opened with %s", name)
		}
	}
	for i := range sealed {
		if _, err := app.Open(sealed[:i], "contact", owner, service.MaxRecord); err == nil {
			t.Errorf("opened a truncation to %d bytes", i)
		}
	}
	app.Wipe()
	if _, err := app.Open(sealed, "contact", owner, service.MaxRecord); err == nil {
		t.Error("opened after Wipe")
	}
}

func FuzzOpen(f *testing.F) {
	k := NewKeys(id.ID{1}, nil, nil, func(uint32) (abe.Secret, bool) { return abe.Secret{}, true })
	t := abe.Target{Service: id.ID{1}, Generation: 1, Policy: Members()}
	k.AddSeed(t, abe.Secret{1})
	pair, err := abe.DerivePolicyKey(abe.Secret{1}, abe.Secret{}, t, 1)
	if err != nil {
		f.Fatal(err)
	}
	b, err := Seal(abe.Statement{Target: t, Epoch: 1, Public: pair.Public()}, "contact", nil, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = k.Open(b, "contact", nil, service.MaxRecord) })
}
