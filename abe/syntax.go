package abe

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"icvpn/internal/id"
)

// The text of a policy, and its one grammar (docs/protocol/abe.md):
//
//	policy    = condition / ( "and" / "or" ) "(" policy 1*( "," policy ) ")"
//	condition = "l:" token "=" token        label
//	          / "s:slot=" 32 hex digits / "s:superpeer=" 40 hex digits
//	          / "s:vm=" token
//	token     = 1*( ALPHA / DIGIT / "-" / "." / "_" / "/" / "%" 2 hex digits )
//
// Hex digits are lower case; a byte is escaped if and only if it is none of the
// characters named. Operands stand in bytewise order, none twice, none of its
// parent's operator.

const (
	prefixLabel     = "l:"
	prefixSlot      = "s:slot="
	prefixSuperPeer = "s:superpeer="
	prefixVM        = "s:vm="
)

var (
	errSyntax    = errors.New("abe: policy text has a syntax error")
	errCanonical = errors.New("abe: policy text is not in canonical form")
)

// String returns the canonical text: the policy's name.
func (p Policy) String() string {
	if p.Err() != nil {
		return "invalid"
	}
	return p.root.text
}

func (c *condition) text() string {
	switch c.on {
	case onLabel:
		return prefixLabel + escape(c.key) + "=" + escape(c.value)
	case onSlot:
		return prefixSlot + hex.EncodeToString([]byte(c.value))
	case onSuperPeer:
		return prefixSuperPeer + hex.EncodeToString([]byte(c.value))
	default:
		return prefixVM + escape(c.value)
	}
}

func (op operator) String() string {
	if op == opAnd {
		return "and"
	}
	return "or"
}

func joinText(op operator, kids []*node) string {
	var b strings.Builder
	b.WriteString(op.String())
	sep := "("
	for _, k := range kids {
		b.WriteString(sep)
		b.WriteString(k.text)
		sep = ","
	}
	b.WriteString(")")
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '/'
}

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if plain(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02x", s[i])
		}
	}
	return b.String()
}

// ParsePolicy reads what String wrote, and nothing else: any other writing of
// the same policy is refused, so that equal policies are equal bytes.
func ParsePolicy(text string) (Policy, error) {
	if len(text) > maxPolicyText {
		return Policy{}, fmt.Errorf("abe: policy text has %d bytes, the limit is %d", len(text), maxPolicyText)
	}
	s := scanner{rest: text}
	p := s.policy(0)
	if err := p.Err(); err != nil {
		return Policy{}, err
	}
	if s.rest != "" {
		return Policy{}, errSyntax
	}
	if p.String() != text {
		return Policy{}, errCanonical
	}
	return p, nil
}

// A scanner reads a bounded text from left to right; depth bounds recursion.
type scanner struct{ rest string }

func (s *scanner) take(prefix string) bool {
	rest, ok := strings.CutPrefix(s.rest, prefix)
	s.rest = rest
	return ok
}

func (s *scanner) policy(depth int) Policy {
	switch {
	case s.take("and("):
		return s.operands(opAnd, depth+1)
	case s.take("or("):
		return s.operands(opOr, depth+1)
	case s.take(prefixSlot):
		b := s.hex(SlotSize)
		if b == nil {
			return Policy{err: errSyntax}
		}
		return ForSlot(SlotID(b))
	case s.take(prefixSuperPeer):
		b := s.hex(id.Size)
		if b == nil {
			return Policy{err: errSyntax}
		}
		return ForSuperPeer(id.ID(b))
	case s.take(prefixVM):
		return ForVM(s.token())
	case s.take(prefixLabel):
		key := s.token()
		if !s.take("=") {
			return Policy{err: errSyntax}
		}
		return Label(key, s.token())
	}
	return Policy{err: errSyntax}
}

func (s *scanner) operands(op operator, depth int) Policy {
	if depth > maxDepth {
		return Policy{err: fmt.Errorf("abe: policy is more than %d levels deep", maxDepth)}
	}
	var ps []Policy
	for {
		p := s.policy(depth)
		if p.err != nil {
			return p
		}
		if len(ps) == maxConditions {
			return Policy{err: errSyntax}
		}
		ps = append(ps, p)
		if s.take(")") {
			return join(op, ps)
		}
		if !s.take(",") {
			return Policy{err: errSyntax}
		}
	}
}

// hex returns the n bytes that the next 2n digits stand for, or nil.
func (s *scanner) hex(n int) []byte {
	if len(s.rest) < 2*n {
		return nil
	}
	b, err := hex.DecodeString(s.rest[:2*n])
	if err != nil {
		return nil
	}
	s.rest = s.rest[2*n:]
	return b
}

// token returns the longest token ahead, unescaped. A wrong escape ends it,
// and then the parser finds '%' where a delimiter belongs.
func (s *scanner) token() string {
	var b strings.Builder
	for s.rest != "" {
		if plain(s.rest[0]) {
			b.WriteByte(s.rest[0])
			s.rest = s.rest[1:]
			continue
		}
		if s.rest[0] != '%' || len(s.rest) < 3 {
			break
		}
		c, err := hex.DecodeString(s.rest[1:3])
		if err != nil {
			break
		}
		b.WriteByte(c[0])
		s.rest = s.rest[3:]
	}
	return b.String()
}
