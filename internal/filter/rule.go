package filter

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// Selector picks machines by labels: all of its labels must be equal. The empty
// selector, written {}, picks every machine.
type Selector map[string]string

// Matches says whether a machine with these labels is picked.
func (s Selector) Matches(labels map[string]string) bool {
	for k, v := range s {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Proto is a transport protocol in a rule.
type Proto string

// The protocols of rules. The empty Proto is ProtoAny. Echo requests pass with
// any rule, so ProtoICMP is for pairs that may ping and nothing else.
const (
	ProtoAny  Proto = "any"
	ProtoTCP  Proto = "tcp"
	ProtoUDP  Proto = "udp"
	ProtoICMP Proto = "icmp"
)

// Range is an inclusive range of ports, in text "443" or "8000-8099".
type Range struct {
	_     struct{} `cbor:",toarray"`
	First uint16
	Last  uint16
}

// Ports returns the range first to last.
func Ports(first, last uint16) Range { return Range{First: first, Last: last} }

// Port returns the range of one port.
func Port(p uint16) Range { return Ports(p, p) }

// String returns the text form.
func (r Range) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// MarshalText writes what String returns.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads "443" or "8000-8099".
func (r *Range) UnmarshalText(text []byte) error {
	first, last, isRange := strings.Cut(string(text), "-")
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := a, error(nil)
	if isRange {
		b, errB = strconv.ParseUint(last, 10, 16)
	}
	if errA != nil || errB != nil || a > b {
		return fmt.Errorf("filter: ports %.40q: want a port or a range such as 8000-8099", text)
	}
	*r = Ports(uint16(a), uint16(b))
	return nil
}

// MarshalYAML and UnmarshalYAML let a port stand in YAML as a plain number.
func (r Range) MarshalYAML() ([]byte, error) { return r.MarshalText() }

// UnmarshalYAML reads what UnmarshalText does, quoted or not.
func (r *Range) UnmarshalYAML(b []byte) error {
	return r.UnmarshalText([]byte(strings.Trim(strings.TrimSpace(string(b)), `"'`)))
}

// Rule lets machines that From picks open flows to machines that To picks.
// Answers come back without a rule of their own.
type Rule struct {
	From  Selector `yaml:"from" cbor:"from"`
	To    Selector `yaml:"to" cbor:"to"`
	Proto Proto    `yaml:"proto,omitempty" cbor:"proto,omitempty"`
	Ports []Range  `yaml:"ports,omitempty" cbor:"ports,omitempty"` // of the destination; none means all
}

// Rules is a policy's list. Order does not matter: rules only allow.
type Rules = []Rule

// Validate checks a policy's rules and names the first bad one, counted from 1.
func Validate(rules []Rule) error {
	if len(rules) > maxRules {
		return fmt.Errorf("filter: %d access rules, at most %d are allowed", len(rules), maxRules)
	}
	for i, r := range rules {
		if err := r.validate(); err != nil {
			return fmt.Errorf("filter: access rule %d: %w", i+1, err)
		}
	}
	return nil
}

func (r Rule) validate() error {
	if err := r.From.validate(); err != nil {
		return fmt.Errorf("from: %w", err)
	}
	if err := r.To.validate(); err != nil {
		return fmt.Errorf("to: %w", err)
	}
	switch r.Proto {
	case "", ProtoAny, ProtoICMP:
		if len(r.Ports) > 0 {
			return errors.New("ports: only tcp and udp have ports; name one of them in proto")
		}
	case ProtoTCP, ProtoUDP:
	default:
		return fmt.Errorf("proto: %.40q is none of any, tcp, udp, icmp", string(r.Proto))
	}
	if len(r.Ports) > maxPorts {
		return fmt.Errorf("ports: %d ranges, at most %d are allowed", len(r.Ports), maxPorts)
	}
	for _, p := range r.Ports {
		if p.First > p.Last {
			return fmt.Errorf("ports: the range %v is empty", p)
		}
	}
	return nil
}

// validate refuses a missing selector, because a slip of the pen must not open
// a service to everybody: {} says so on purpose.
func (s Selector) validate() error {
	if s == nil {
		return errors.New("missing; write {} for every machine")
	}
	if len(s) > maxLabels {
		return fmt.Errorf("%d labels, at most %d are allowed", len(s), maxLabels)
	}
	for k, v := range s {
		if !validLabel(k) || !validLabel(v) {
			return fmt.Errorf("label %.70q: %.70q: want 1 to %d letters, digits or any of . _ - / : on each side", k, v, maxLabel)
		}
		if strings.HasPrefix(k, reservedPrefix) {
			return fmt.Errorf("label %q: keys that begin with %s are reserved", k, reservedPrefix)
		}
	}
	return nil
}

func validLabel(s string) bool {
	for _, c := range []byte(s) {
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alnum && !strings.ContainsRune("._-/:", rune(c)) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= maxLabel
}

// sound yields the rules that may count. Callers validate first; where one did
// not, a bad rule allows nothing, and neither does a list that is too long.
func sound(rules []Rule) iter.Seq[Rule] {
	return func(yield func(Rule) bool) {
		if len(rules) > maxRules {
			return
		}
		for _, r := range rules {
			if r.validate() == nil && !yield(r) {
				return
			}
		}
	}
}
