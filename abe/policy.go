package abe

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"icvpn/internal/id"
)

// Policy says whose key opens something: conditions on attributes joined by
// "and" and "or". It is immutable and always in canonical form (nested equal
// operators flattened, operands sorted, duplicates dropped), so that policies
// which differ only in writing are one policy with one text.
//
// Constructors do not return errors, so that they nest; a policy out of bounds
// carries its error, Err reports it, and everything that takes a policy refuses
// it. The zero value is such an invalid policy.
type Policy struct {
	root *node
	err  error
}

var errNoPolicy = errors.New("abe: empty policy")

type operator uint8

const (
	opCondition operator = iota
	opAnd
	opOr
)

// A node is a condition or an operator over at least two kids.
type node struct {
	op         operator
	cond       condition
	kids       []*node
	text       string // canonical
	conditions int
	depth      int // operators above the deepest condition
}

type subject uint8

const (
	onLabel subject = iota
	onSlot
	onSuperPeer
	onVM
)

// A condition asks that an attribute has a value. value holds raw bytes for
// slots and PIDs.
type condition struct {
	on    subject
	key   string // of a label
	value string
}

// Label asks for a label's value. There is no asking for "no value".
func Label(key, value string) Policy {
	if err := checkToken("label key", key); err != nil {
		return Policy{err: err}
	}
	if err := checkToken("label value", value); err != nil {
		return Policy{err: err}
	}
	return leaf(condition{on: onLabel, key: key, value: value})
}

// ForSlot asks for one slot: the policy of one peer.
func ForSlot(s SlotID) Policy {
	if s == (SlotID{}) {
		return Policy{err: errors.New("abe: the zero slot is nobody's")}
	}
	return leaf(condition{on: onSlot, value: string(s[:])})
}

// ForSuperPeer asks for the key of one super peer.
func ForSuperPeer(pid id.ID) Policy {
	if pid.IsZero() {
		return Policy{err: errors.New("abe: the zero PID is nobody's")}
	}
	return leaf(condition{on: onSuperPeer, value: string(pid[:])})
}

// ForVM asks for a VMID.
func ForVM(vm string) Policy {
	if err := checkToken("vm", vm); err != nil {
		return Policy{err: err}
	}
	return leaf(condition{on: onVM, value: vm})
}

// And asks that all of ps hold.
func And(ps ...Policy) Policy { return join(opAnd, ps) }

// Or asks that one of ps holds.
func Or(ps ...Policy) Policy { return join(opOr, ps) }

func leaf(c condition) Policy {
	return bounded(&node{cond: c, text: c.text(), conditions: 1})
}

func join(op operator, ps []Policy) Policy {
	var kids []*node
	for _, p := range ps {
		if err := p.Err(); err != nil {
			return Policy{err: err}
		}
		if p.root.op == op {
			kids = append(kids, p.root.kids...)
		} else {
			kids = append(kids, p.root)
		}
		// Each operand is within bounds, so this bounds kids too.
		if len(kids) > 4*maxConditions {
			return Policy{err: fmt.Errorf("abe: policy has more than %d conditions", maxConditions)}
		}
	}
	slices.SortFunc(kids, func(a, b *node) int { return strings.Compare(a.text, b.text) })
	kids = slices.CompactFunc(kids, func(a, b *node) bool { return a.text == b.text })
	switch len(kids) {
	case 0:
		return Policy{err: errNoPolicy}
	case 1:
		return Policy{root: kids[0]}
	}
	n := &node{op: op, kids: kids, text: joinText(op, kids)}
	for _, k := range kids {
		n.conditions += k.conditions
		n.depth = max(n.depth, k.depth+1)
	}
	return bounded(n)
}

func bounded(n *node) Policy {
	switch {
	case n.conditions > maxConditions:
		return Policy{err: fmt.Errorf("abe: policy has %d conditions, the limit is %d", n.conditions, maxConditions)}
	case n.depth > maxDepth:
		return Policy{err: fmt.Errorf("abe: policy is %d levels deep, the limit is %d", n.depth, maxDepth)}
	case len(n.text) > maxPolicyText:
		return Policy{err: fmt.Errorf("abe: policy text has %d bytes, the limit is %d", len(n.text), maxPolicyText)}
	}
	return Policy{root: n}
}

// Err says why p is not a policy, nil if it is one.
func (p Policy) Err() error {
	if p.err == nil && p.root == nil {
		return errNoPolicy
	}
	return p.err
}

// Equal says whether p and q are one policy.
func (p Policy) Equal(q Policy) bool {
	return p.Err() == nil && q.Err() == nil && p.root.text == q.root.text
}

// Matches says whether a holder of a satisfies p; an invalid policy matches
// nobody. It decides nothing: the pairing does. It tells beforehand which
// envelopes are worth opening, and in tests it is the pairing's dumb twin.
func (p Policy) Matches(a Attributes) bool {
	return p.Err() == nil && p.root.matches(&a)
}

func (n *node) matches(a *Attributes) bool {
	holds := func(k *node) bool { return k.matches(a) }
	switch n.op {
	case opAnd:
		return !slices.ContainsFunc(n.kids, func(k *node) bool { return !holds(k) })
	case opOr:
		return slices.ContainsFunc(n.kids, holds)
	default:
		return n.cond.holds(a)
	}
}

func (c *condition) holds(a *Attributes) bool {
	switch c.on {
	case onLabel:
		return a.Labels[c.key] == c.value
	case onSlot:
		return string(a.Slot[:]) == c.value
	case onSuperPeer:
		return string(a.SuperPeer[:]) == c.value
	default:
		return a.VM == c.value
	}
}
