package abe

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/cloudflare/circl/abe/cpabe/tkn20"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// A Target is what something is sealed to: the keys of one service and one
// generation that satisfy a policy.
type Target struct {
	Service    id.ID
	Generation uint32
	Policy     Policy
}

// Err says why t is not a target, nil if it is one.
func (t Target) Err() error {
	if t.Service.IsZero() {
		return errors.New("abe: target without a service")
	}
	return t.Policy.Err()
}

// ID is a short name of t: SHA-256("icvpn/1 policy" ‖ 00 ‖ service ‖
// generation ‖ lp(text))[:20].
func (t Target) ID() id.ID { return id.Hash("icvpn/1 policy", t.appendTo(nil)) }

// Matches says whether a key with attributes a opens what is sealed to t.
func (t Target) Matches(a Attributes) bool {
	return t.Err() == nil && a.Service == t.Service && a.Generation == t.Generation && t.Policy.Matches(a)
}

// Equal says whether t and u are one target.
func (t Target) Equal(u Target) bool {
	return t.Service == u.Service && t.Generation == u.Generation && t.Policy.Equal(u.Policy)
}

// appendTo appends service ‖ u32 generation ‖ lp(policy text): the part of
// every key derivation and signature that names t.
func (t Target) appendTo(b []byte) []byte {
	b = append(b, t.Service[:]...)
	b = binary.BigEndian.AppendUint32(b, t.Generation)
	return wire.AppendLP(b, []byte(t.Policy.String()))
}

// shape is what the form of a ciphertext to a target depends on.
type shape struct {
	conditions int // of the policy, service and generation
	repeats    int // how often its most frequent label stands in it
}

// tkn returns t as circl's policy: service and generation and the policy.
//
// circl's parser stops at the first token it does not expect and silently
// drops the rest ("a: b) and c: d" is read as "a: b"), which would widen who
// can open. So the text is made from the tree, with an alphabet in which no
// value can be mistaken for syntax, and what circl read is printed again and
// compared with what was meant.
func (t Target) tkn() (tkn20.Policy, shape, error) {
	if err := t.Err(); err != nil {
		return tkn20.Policy{}, shape{}, err
	}
	var w tknWriter
	w.b.WriteString("((")
	w.condition(tknService, tknValue(t.Service[:]))
	w.b.WriteString(" and ")
	w.condition(tknGeneration, tknGenerationValue(t.Generation))
	w.b.WriteString(") and ")
	w.node(t.Policy.root)
	w.b.WriteString(")")
	p, err := parseTkn(w.b.String())
	if err != nil {
		return tkn20.Policy{}, shape{}, err
	}
	s := shape{}
	for _, n := range w.labels {
		s.conditions += n
		s.repeats = max(s.repeats, n)
	}
	return p, s, nil
}

// parseTkn has circl read text and makes sure that it read all of it.
func parseTkn(text string) (tkn20.Policy, error) {
	var p tkn20.Policy
	if err := p.FromString(text); err != nil {
		return tkn20.Policy{}, errors.New("abe: tkn20 refuses the policy")
	}
	if p.String() != text {
		return tkn20.Policy{}, errors.New("abe: tkn20 read another policy than was written")
	}
	return p, nil
}

// A tknWriter writes in the form of tkn20's own Policy.String: binary
// operators, each in parentheses.
type tknWriter struct {
	b      strings.Builder
	labels map[string]int
}

func (w *tknWriter) condition(label, value string) {
	if w.labels == nil {
		w.labels = make(map[string]int)
	}
	w.labels[label]++
	w.b.WriteString(label)
	w.b.WriteByte(':')
	w.b.WriteString(value)
}

func (w *tknWriter) node(n *node) {
	if n.op == opCondition {
		w.condition(n.cond.tkn())
		return
	}
	w.b.WriteString(strings.Repeat("(", len(n.kids)-1))
	w.node(n.kids[0])
	for _, k := range n.kids[1:] {
		w.b.WriteString(" " + n.op.String() + " ")
		w.node(k)
		w.b.WriteByte(')')
	}
}

func (c *condition) tkn() (label, value string) {
	value = tknValue([]byte(c.value))
	switch c.on {
	case onLabel:
		return tknLabel(c.key), value
	case onSlot:
		return tknSlot, value
	case onSuperPeer:
		return tknSuperPeer, value
	default:
		return tknVM, value
	}
}
