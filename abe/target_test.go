package abe

import (
	"strings"
	"testing"

	"github.com/cloudflare/circl/abe/cpabe/tkn20"
)

// The trap of FACTS: what follows the first complete expression is dropped.
func TestTknParserTruncatesSilentlyAndWeSeeIt(t *testing.T) {
	const evil = "a: b) and c: d"
	var p tkn20.Policy
	if err := p.FromString(evil); err == nil && p.String() != "a:b" {
		t.Logf("circl now reads %q as %q", evil, p.String())
	}
	for _, text := range []string{evil, "a:b)", "a:b) and c:d", "(a:b and c:d) x:y", "a:b garbage", "(a:b or c:d))"} {
		if p, err := parseTkn(text); err == nil {
			t.Errorf("%q accepted as %q", text, p.String())
		}
	}
}

func TestPolicyInjectionStaysAValue(t *testing.T) {
	evil := "b) or (tier: app"
	for _, p := range []Policy{Label("a", evil), Label(evil, "a"), ForVM(evil), Label("a", "b or c:d"), Label("not a", "b")} {
		policy, s, err := target(p).tkn()
		if err != nil {
			t.Fatal(err)
		}
		if pairs := policy.ExtractAttributeValuePairs(); len(pairs) != 3 || s.conditions != 3 {
			t.Errorf("%v became %v", p, policy.String())
		}
		if p.Matches(attributes("tier", "app")) {
			t.Errorf("%v matches tier=app", p)
		}
	}
}

func TestTknTextHasOnlySafeTokens(t *testing.T) {
	p := And(Label("ключ", "знач ение"), Or(Label("and", "or"), Label("not", "v_")), ForVM("a:b"))
	policy, _, err := target(p).tkn()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range policy.String() {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789_:() ", r) {
			t.Errorf("%q in %s", r, policy.String())
		}
	}
}

func TestAttributesEncodeWithoutCollisions(t *testing.T) {
	a := attributes("tier", "none", "env", "")
	a.Labels["s_slot"], a.Labels["6162"], a.Labels["ab"] = "x", "1", "2"
	m := a.tknMap()
	if len(m) != 5+5 {
		t.Errorf("%d attributes from 5 and 5: %v", len(m), m)
	}
	if m[tknLabel("tier")] == tknNone || m[tknLabel("env")] != tknNone || m[tknSlot] != tknNone || m[tknVM] != tknNone {
		t.Errorf("no value and the value none are confused: %v", m)
	}
}

func TestTargetIDNamesEverything(t *testing.T) {
	a := target(tierApp)
	seen := map[string]bool{a.ID().String(): true}
	for _, b := range []Target{
		{testService, testGeneration + 1, tierApp}, {testPID, testGeneration, tierApp}, target(tierWeb),
	} {
		if seen[b.ID().String()] || a.Equal(b) {
			t.Errorf("%v has the name of another", b)
		}
		seen[b.ID().String()] = true
	}
	if a.ID() != target(And(tierApp)).ID() || !a.Equal(target(Or(tierApp, tierApp))) {
		t.Error("one target, two names")
	}
}

func TestWithLabelsIssuesEveryLabel(t *testing.T) {
	a := Attributes{Service: testService}
	b, err := a.WithLabels([]string{"tier", "env", "zone"}, map[string]string{"tier": "app"})
	if err != nil || len(b.Labels) != 3 || b.Labels["tier"] != "app" || b.tknMap()[tknLabel("zone")] != tknNone {
		t.Errorf("WithLabels = %v, %v", b.Labels, err)
	}
	if _, err := a.WithLabels([]string{"env"}, map[string]string{"tier": "app"}); err == nil {
		t.Error("a label outside the schema accepted")
	}
	if _, err := a.WithLabels([]string{"env"}, map[string]string{"env": strings.Repeat("x", 64)}); err == nil {
		t.Error("a value over the limit accepted")
	}
}
