package abe

import (
	"strings"
	"testing"

	"icvpn/internal/id"
)

var (
	tierApp = Label("tier", "app")
	tierWeb = Label("tier", "web")
	envProd = Label("env", "prod")
	testPID = id.Hash("test", []byte("pid"))
)

func TestPolicyHasOneText(t *testing.T) {
	const want = "and(l:env=prod,or(l:tier=app,l:tier=web))"
	for _, p := range []Policy{
		And(envProd, Or(tierApp, tierWeb)),
		And(Or(tierWeb, tierApp), envProd),
		And(And(envProd), And(Or(Or(tierWeb), Or(tierApp), tierWeb))),
		And(envProd, envProd, And(envProd, Or(tierApp, tierWeb, tierApp))),
	} {
		if p.Err() != nil || p.String() != want {
			t.Errorf("%v, %v, want %v", p, p.Err(), want)
		}
	}
}

func TestParsePolicyRoundTrip(t *testing.T) {
	for _, p := range []Policy{
		tierApp,
		Label("app.kubernetes.io/name", "a b=c,(d)%é"),
		ForSlot(SlotID{1, 2}), ForSuperPeer(testPID), ForVM("i-0abc:x"),
		Or(tierApp, And(envProd, tierWeb), ForSlot(SlotID{9})),
		Or(And(Or(And(tierApp, envProd), tierWeb), envProd), ForVM("x")),
	} {
		if p.Err() != nil {
			t.Fatal(p.Err())
		}
		q, err := ParsePolicy(p.String())
		if err != nil || !q.Equal(p) {
			t.Errorf("ParsePolicy(%q) = %v, %v", p, q, err)
		}
		for i := range p.String() {
			// A truncation may be a policy of its own (a shorter value);
			// it must not be this one.
			if q, err := ParsePolicy(p.String()[:i]); err == nil && q.Equal(p) {
				t.Errorf("%q reads as %q", p.String()[:i], p)
			}
		}
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":               "",
		"no value":              "l:tier=",
		"no key":                "l:=app",
		"no equals":             "l:tier",
		"no prefix":             "tier=app",
		"trailing text":         "l:tier=app ",
		"leading space":         " l:tier=app",
		"injected operator":     "l:tier=app) and (l:env=prod",
		"second policy":         "l:tier=app,l:tier=web",
		"trailing parenthesis":  "and(l:env=prod,l:tier=app))",
		"open end":              "and(l:env=prod,l:tier=app",
		"one operand":           "and(l:tier=app)",
		"no operand":            "and()",
		"empty operand":         "and(l:env=prod,)",
		"unsorted":              "and(l:tier=app,l:env=prod)",
		"twice the same":        "or(l:tier=app,l:tier=app)",
		"nested same operator":  "and(and(l:a=1,l:b=2),l:c=3)",
		"upper-case operator":   "AND(l:env=prod,l:tier=app)",
		"unknown operator":      "not(l:env=prod)",
		"needless escape":       "l:tier=%61pp",
		"upper-case escape":     "l:tier=%C3%A9",
		"cut escape":            "l:tier=ap%2",
		"bad escape":            "l:tier=ap%zz",
		"unescaped byte":        "l:tier=a:b",
		"escaped bad UTF-8":     "l:tier=%ff",
		"short slot":            "s:slot=01",
		"long slot":             "s:slot=" + strings.Repeat("01", 17),
		"upper-case slot":       "s:slot=" + strings.Repeat("AB", 16),
		"zero slot":             "s:slot=" + strings.Repeat("00", 16),
		"short PID":             "s:superpeer=" + strings.Repeat("01", 19),
		"zero PID":              "s:superpeer=" + strings.Repeat("00", 20),
		"the target's service":  "s:service=" + strings.Repeat("01", 20),
		"the target's counter":  "s:generation=7",
		"unknown system name":   "s:x=y",
		"key too long":          "l:" + strings.Repeat("k", 64) + "=v",
		"value too long":        "l:k=" + strings.Repeat("v", 64),
		"text too long":         "or(" + strings.Repeat("l:a=b,", 100) + "l:a=b)",
		"too deep":              "and(l:a=1,or(l:a=1,and(l:a=1,or(l:a=1,and(l:a=1,l:b=1)))))",
		"parentheses to no end": strings.Repeat("and(", 90),
	} {
		if p, err := ParsePolicy(text); err == nil {
			t.Errorf("%s: %q accepted as %v", name, text, p)
		} else if p.Err() == nil {
			t.Errorf("%s: error and a policy", name)
		}
	}
}

func TestPolicyBounds(t *testing.T) {
	var many []Policy
	for i := range maxConditions {
		many = append(many, Label("k", string(rune('a'+i))))
	}
	if err := And(many...).Err(); err != nil {
		t.Errorf("%d conditions: %v", maxConditions, err)
	}
	if And(And(many...), tierApp).Err() == nil {
		t.Errorf("%d conditions accepted", maxConditions+1)
	}
	if Or(make([]Policy, 1000)...).Err() == nil {
		t.Error("a thousand zero policies accepted")
	}
	p := tierApp
	for i := range 100_000 { // a bomb: must end in an error, not in memory
		p = Or(And(p, Label("a", "1")), Label("b", "2"))
		if i == maxDepth && p.Err() == nil {
			t.Errorf("depth %d accepted", 2*i)
		}
	}
	if p.Err() == nil || p.String() != "invalid" || p.Matches(attributes("tier", "app")) {
		t.Error("a bomb became a policy")
	}
	long := strings.Repeat("x", 63)
	if And(Label("a"+long[1:], long), Label("b"+long[1:], long), Label("c"+long[1:], long)).Err() == nil {
		t.Error("text over the limit accepted")
	}
}

func TestConstructorsRefuseNothing(t *testing.T) {
	for name, p := range map[string]Policy{
		"zero": {}, "And()": And(), "Or()": Or(), "And(zero)": And(tierApp, Policy{}),
		"Label no key": Label("", "x"), "Label no value": Label("x", ""), "Label bad UTF-8": Label("x", "\xff"),
		"slot": ForSlot(SlotID{}), "super peer": ForSuperPeer(id.ID{}), "vm": ForVM(""),
	} {
		if p.Err() == nil {
			t.Errorf("%s: accepted", name)
		}
		if p.Matches(Attributes{}) || p.Equal(p) {
			t.Errorf("%s: an invalid policy matches", name)
		}
		if _, err := testAuthority().Params().SealTo(nil, target(p), testSecret); err == nil {
			t.Errorf("%s: sealed to", name)
		}
	}
}

func TestMatches(t *testing.T) {
	a := attributes("tier", "app", "env", "prod")
	a.Slot, a.SuperPeer, a.VM = SlotID{1}, testPID, "vm1"
	for p, want := range map[*Policy]bool{
		new(tierApp):                                        true,
		new(tierWeb):                                        false,
		new(Label("other", "app")):                          false,
		new(And(tierApp, envProd)):                          true,
		new(And(tierApp, tierWeb)):                          false, // one value per label
		new(Or(tierApp, tierWeb)):                           true,
		new(Or(tierWeb, And(envProd, ForVM("vm1")))):        true,
		new(And(ForSlot(SlotID{1}), ForSuperPeer(testPID))): true,
		new(ForSlot(SlotID{2})):                             false,
		new(ForSuperPeer(testService)):                      false,
		new(ForVM("none")):                                  false,
	} {
		if p.Matches(a) != want {
			t.Errorf("%v matches: %v", p, !want)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add("and(l:env=prod,or(l:tier=app,l:tier=web))")
	f.Add("or(l:a%20b=%c3%a9,s:slot=01000000000000000000000000000000)")
	f.Add("s:superpeer=" + testPID.String())
	f.Add("s:vm=x")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePolicy(text)
		if err != nil {
			return
		}
		if p.String() != text {
			t.Errorf("%q reads as %q", text, p)
		}
		if _, _, err := target(p).tkn(); err != nil {
			t.Errorf("%q does not become a tkn20 policy: %v", text, err)
		}
	})
}
