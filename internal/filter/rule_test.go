package filter

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"icvpn/internal/wire"
)

func TestRulesInYAML(t *testing.T) {
	const text = `
- from: {role: web}
  to: {role: app, env: prod}
  proto: tcp
  ports: [443, "80", 8000-8099]
- from: {}
  to: {}
`
	want := []Rule{
		{From: Selector{"role": "web"}, To: Selector{"role": "app", "env": "prod"}, Proto: ProtoTCP, Ports: []Range{Port(443), Port(80), Ports(8000, 8099)}},
		{From: Selector{}, To: Selector{}},
	}
	var got []Rule
	if err := yaml.UnmarshalWithOptions([]byte(text), &got, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("read %+v", got)
	}
	if err := Validate(got); err != nil {
		t.Error(err)
	}
	b, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var again []Rule
	if err := yaml.UnmarshalWithOptions(b, &again, yaml.Strict()); err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("after a round trip %+v, %v\n%s", again, err, b)
	}
	for _, bad := range []string{"65536", "-1", "80-", "-80", "90-80", "http", `"80,90"`, "1.5", `""`, "0x50", "+80", "80 - 90"} {
		if err := yaml.UnmarshalWithOptions([]byte("- {from: {}, to: {}, proto: tcp, ports: ["+bad+"]}"), &got, yaml.Strict()); err == nil && Validate(got) == nil {
			t.Errorf("the port %s was read as %v", bad, got[0].Ports)
		}
	}
	if err := yaml.UnmarshalWithOptions([]byte("- {from: {}, to: {}, port: 80}"), &got, yaml.Strict()); err == nil {
		t.Error("an unknown key was read")
	}
	for _, missing := range []string{"- {from: {}}", "- {to: {}}", "- {from: {}, to: }", "- {from: ~, to: {}}"} {
		var r []Rule
		if err := yaml.UnmarshalWithOptions([]byte(missing), &r, yaml.Strict()); err == nil && Validate(r) == nil {
			t.Errorf("%s allows everybody", missing)
		}
	}
}

func TestRulesInCBOR(t *testing.T) {
	want := []Rule{rule("web", "app", ProtoTCP, Ports(1, 2)), {From: Selector{}, To: Selector{}}}
	var got []Rule
	if err := wire.Unmarshal(wire.Marshal(want), &got, 1000); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestValidateNamesTheRule(t *testing.T) {
	labels := func(n int) Selector {
		s := Selector{}
		for i := range n {
			s[fmt.Sprint("k", i)] = "v"
		}
		return s
	}
	for want, bad := range map[string]Rule{
		"from: missing":                                 {To: Selector{}},
		"to: missing":                                   {From: Selector{}},
		"from: 17 labels":                               {From: labels(17), To: Selector{}},
		"to: label \"role\": \"\"":                      {From: Selector{}, To: Selector{"role": ""}},
		"to: label \"\"":                                {From: Selector{}, To: Selector{"": "x"}},
		"from: label \"a=b\"":                           {From: Selector{"a=b": "x"}, To: Selector{}},
		"from: label \"icvpn-x\"":                       {From: Selector{"icvpn-x": "x"}, To: Selector{}},
		"proto: \"sctp\"":                               {From: Selector{}, To: Selector{}, Proto: "sctp"},
		"ports: only tcp and udp":                       {From: Selector{}, To: Selector{}, Ports: []Range{Port(1)}},
		"ports: 33 ranges":                              {From: Selector{}, To: Selector{}, Proto: ProtoTCP, Ports: make([]Range, 33)},
		"ports: the range 5-4":                          {From: Selector{}, To: Selector{}, Proto: ProtoTCP, Ports: []Range{Ports(5, 4)}},
		"to: label \"k\": \"" + strings.Repeat("v", 65): {From: Selector{}, To: Selector{"k": strings.Repeat("v", 65)}},
	} {
		err := Validate([]Rule{rule("a", "b", ""), bad})
		if err == nil || !strings.Contains(err.Error(), "access rule 2: "+want) {
			t.Errorf("Validate = %v, want %q", err, want)
		}
	}
	if err := Validate(make([]Rule, 257)); err == nil || !strings.Contains(err.Error(), "257 access rules") {
		t.Errorf("257 rules: %v", err)
	}
	if err := Validate([]Rule{{From: labels(16), To: Selector{"a.b/c:d_e-f": "V.1"}, Proto: ProtoUDP, Ports: []Range{allPorts}}}); err != nil {
		t.Error(err)
	}
}

func TestSelectorNeedsEveryLabel(t *testing.T) {
	for _, c := range []struct {
		s, labels Selector
		want      bool
	}{
		{Selector{}, nil, true},
		{Selector{"a": "1"}, nil, false},
		{Selector{"a": "1"}, Selector{"a": "1", "b": "2"}, true},
		{Selector{"a": "1", "b": "2"}, Selector{"a": "1"}, false},
		{Selector{"a": "1"}, Selector{"a": "2"}, false},
		{Selector{"a": ""}, Selector{}, false}, // a missing label is not an empty one
	} {
		if got := c.s.Matches(c.labels); got != c.want {
			t.Errorf("%v matches %v: %v", c.s, c.labels, got)
		}
	}
}

func TestDiscoverySelectorsAreCanonical(t *testing.T) {
	db := Selector{"role": "db", "env": "prod"}
	rules := []Rule{
		rule("web", "app", ""),
		rule("ops", "db", ProtoTCP, Port(5432)),
		rule("app", "db", ProtoTCP, Port(5432)),
		{From: Selector{"role": "app", "env": "prod"}, To: Selector{"env": "prod"}}, // covered by role=app
		rule("app", "db", ProtoUDP),                                                 // said before
		{From: Selector{"env": "prod", "team": "x"}, To: Selector{}},
		{From: Selector{}, To: nil}, // bad: must not let everybody in
	}
	want := []Selector{{"role": "app"}, {"role": "ops"}, {"env": "prod", "team": "x"}}
	got := DiscoverySelectors(rules, db)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i := range rules {
		turned := append(append([]Rule(nil), rules[i:]...), rules[:i]...)
		if again := DiscoverySelectors(turned, db); !reflect.DeepEqual(again, want) {
			t.Errorf("in another order: %v", again)
		}
	}
	everybody := append(rules, Rule{From: Selector{}, To: role("db")})
	if got := DiscoverySelectors(everybody, db); !reflect.DeepEqual(got, []Selector{{}}) {
		t.Errorf("everybody: %v", got)
	}
	if got := DiscoverySelectors(rules[:3], role("web")); len(got) != 0 {
		t.Errorf("nobody: %v", got)
	}
	got[0]["role"] = "changed"
	if rules[2].From["role"] != "app" {
		t.Error("the result shares the rule's map")
	}
}

// TestDiscoveryAgreesWithInitiation: who may discover is who may open flows.
func TestDiscoveryAgreesWithInitiation(t *testing.T) {
	rules := []Rule{rule("web", "app", ""), rule("app", "db", ProtoTCP), {From: Selector{"env": "test"}, To: Selector{}}}
	machines := []Selector{role("web"), role("app"), role("db"), {"role": "db", "env": "test"}, {}}
	for _, a := range machines {
		for _, b := range machines {
			discovers := false
			for _, s := range DiscoverySelectors(rules, b) {
				discovers = discovers || s.Matches(a)
			}
			if may := Compile(rules, a, b).MayInitiate(); may != discovers {
				t.Errorf("%v to %v: may initiate %v, may discover %v", a, b, may, discovers)
			}
			if Compile(rules, b, a).MayBeReached() != discovers {
				t.Errorf("%v from %v: the other end disagrees", b, a)
			}
		}
	}
}

func TestExplain(t *testing.T) {
	rules := []Rule{
		rule("web", "app", ProtoTCP, Port(443), Ports(8000, 8099), Ports(8050, 8100)), rule("web", "app", ProtoUDP),
		rule("app", "db", ""), rule("ops", "app", ProtoICMP),
	}
	web := maps.Clone(role("web"))
	web["vm"] = "i-123" // no rule asks for it
	for _, c := range []struct {
		own, peer map[string]string
		d         Direction
		want      string
	}{
		{web, role("db"), ToPeer, "no access rule lets role=web reach role=db"},
		{web, role("db"), FromPeer, "no access rule lets role=db reach role=web"},
		{web, role("app"), ToPeer, "role=web may reach role=app: tcp 443 8000-8100, all udp, ping"},
		{web, role("app"), FromPeer, "no access rule lets role=app reach role=web; only answers to what role=web asks pass"},
		{role("db"), role("app"), FromPeer, "role=app may reach role=db: everything"},
		{role("ops"), role("app"), ToPeer, "role=ops may reach role=app: ping"},
		{nil, Selector{"vm": "i-1", "a": "b"}, ToPeer, "no access rule lets a machine without labels reach a=b,vm=i-1"},
	} {
		if got := Explain(rules, c.own, c.peer, c.d); got != c.want {
			t.Errorf("Explain = %q, want %q", got, c.want)
		}
	}
}

func TestPortsMergeToWhatTheyCover(t *testing.T) {
	p := ports{Ports(10, 20), Ports(65000, 65535), Ports(21, 25), Ports(15, 18), Ports(0, 0), Ports(30, 30)}.merged()
	if got, want := p.String(), "0 10-25 30 65000-65535"; got != want {
		t.Errorf("merged = %q, want %q", got, want)
	}
}
