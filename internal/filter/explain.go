package filter

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Explain says in a sentence for people what the rules let a machine of our
// labels do to one of the peer's (ToPeer), or the reverse (FromPeer).
func Explain(rules []Rule, own, peer map[string]string, d Direction) string {
	if d == FromPeer {
		own, peer = peer, own
	}
	from, to := describe(rules, own), describe(rules, peer)
	if a := compile(rules, own, peer); a.some {
		return fmt.Sprintf("%s may reach %s: %s", from, to, a.describe())
	}
	s := fmt.Sprintf("no access rule lets %s reach %s", from, to)
	if compile(rules, peer, own).some {
		s += fmt.Sprintf("; only answers to what %s asks pass", to)
	}
	return s
}

func (a *access) describe() string {
	if a.other {
		return "everything"
	}
	var parts []string
	for _, x := range []struct {
		name string
		open ports
	}{{"tcp", a.tcp}, {"udp", a.udp}} {
		switch {
		case len(x.open) == 1 && x.open[0] == allPorts:
			parts = append(parts, "all "+x.name)
		case len(x.open) > 0:
			parts = append(parts, x.name+" "+x.open.String())
		}
	}
	return strings.Join(append(parts, "ping"), ", ")
}

// String lists the ranges.
func (p ports) String() string {
	words := make([]string, len(p))
	for i, r := range p {
		words[i] = r.String()
	}
	return strings.Join(words, " ")
}

// describe names a machine by those of its labels that rules ask for, or by all
// if they ask for none of them.
func describe(rules []Rule, labels map[string]string) string {
	asked := Selector{}
	for r := range sound(rules) {
		for _, s := range []Selector{r.From, r.To} {
			for k := range s {
				if v, ok := labels[k]; ok {
					asked[k] = v
				}
			}
		}
	}
	if len(asked) == 0 {
		asked = labels
	}
	if len(asked) == 0 {
		return "a machine without labels"
	}
	return asked.String()
}

// String returns the labels in order of their keys, "k=v,k2=v2".
func (s Selector) String() string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(s)) {
		words = append(words, k+"="+s[k])
	}
	return strings.Join(words, ",")
}

// DiscoverySelectors returns who may discover a machine with these labels: the
// from of every rule whose to picks it. The list is canonical: equal rights give
// equal lists. A selector that another one covers is left out; fewer labels come
// first, then the order of String.
func DiscoverySelectors(rules []Rule, target map[string]string) []Selector {
	var all []Selector
	for r := range sound(rules) {
		if r.To.Matches(target) {
			all = append(all, r.From)
		}
	}
	slices.SortFunc(all, func(a, b Selector) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a.String(), b.String()))
	})
	// Whatever covers a selector has fewer labels or the same ones: it is before it.
	var out []Selector
	for _, s := range all {
		if !slices.ContainsFunc(out, func(wider Selector) bool { return wider.Matches(s) }) {
			out = append(out, maps.Clone(s))
		}
	}
	return out
}
