package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Section is a mapping of a YAML file whose fields the caller knows, for files
// that are no configuration of a peer or super peer: those have lists of
// sections, which the tables of this package have not. Only says which fields may
// stand there and complains about others.
//
// The first complaint sticks to the file, and every later answer is a zero
// value: the caller asks Err once, at the end. No complaint quotes a value
// unless the caller does, since values may be secrets.
type Section struct {
	doc    *document
	prefix string // "tunnels[1].out."
	line   int
	values map[string]*ast.MappingValueNode
}

// document is what the sections of one file share.
type document struct {
	path string
	err  error
}

// ReadDocument reads the top mapping of a YAML file of at most 32 KiB, as
// strictly as configurations are read.
func ReadDocument(path string) (*Section, error) {
	data, err := readLimited(path, maxFile)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	root, err := parseYAML(path, data)
	if err != nil {
		return nil, quiet(err)
	}
	if root == nil {
		return nil, &Error{Where: path, Problem: "is empty", WayOut: "check that it is the right file"}
	}
	return newSection(&document{path: path}, "", root), nil
}

// quiet takes the parser's own words off a syntax error: they may quote what
// stands in the file.
func quiet(err error) error {
	var e *Error
	if errors.As(err, &e) && strings.HasPrefix(e.Problem, "not YAML: ") {
		e.Problem = "not YAML"
	}
	return err
}

func newSection(doc *document, prefix string, m *ast.MappingNode) *Section {
	s := &Section{doc: doc, prefix: prefix, line: lineOf(m), values: map[string]*ast.MappingValueNode{}}
	for _, entry := range m.Values {
		if _, ok := entry.Key.(*ast.StringNode); !ok {
			s.fail(lineOf(entry), "", complaint{"has a key that is not plain text", "write KEY: VALUE"})
			break
		}
		s.values[keyText(entry)] = entry
	}
	return s
}

// Err returns the first complaint about the file.
func (s *Section) Err() error { return s.doc.err }

// Fail complains about the field key, or about the section if key is empty.
// Only the first complaint counts.
func (s *Section) Fail(key, problem, wayOut string) {
	line := s.line
	if e := s.values[key]; e != nil {
		line = lineOf(e)
	}
	s.fail(line, key, complaint{problem, wayOut})
}

func (s *Section) fail(line int, key string, c complaint) {
	if s.doc.err == nil {
		s.doc.err = c.at(place(s.doc.path, line), strings.TrimSuffix(s.prefix+key, "."))
	}
}

// Has says whether the field is there.
func (s *Section) Has(key string) bool { return s.values[key] != nil }

// Text returns the text of a field, "" if it is not there.
func (s *Section) Text(key string) string {
	e := s.entry(key)
	if e == nil {
		return ""
	}
	text, c := textOf(e.Value)
	s.note(key, e, c)
	return text
}

// Word returns a scalar as it is written, whatever YAML takes it for: hex
// digits without quotes may look like a number. "" if it is not there.
func (s *Section) Word(key string) string {
	e := s.entry(key)
	if e == nil {
		return ""
	}
	switch n := e.Value.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value
	}
	return s.Text(key)
}

// Number returns a whole number and whether the field is there.
func (s *Section) Number(key string) (n int, given bool) {
	e := s.entry(key)
	if e == nil {
		return 0, false
	}
	n, c := numberOf(e.Value)
	s.note(key, e, c)
	return n, c == complaint{}
}

// Bool returns true or false and whether the field is there.
func (s *Section) Bool(key string) (v, given bool) {
	e := s.entry(key)
	if e == nil {
		return false, false
	}
	b, ok := e.Value.(*ast.BoolNode)
	if !ok {
		s.note(key, e, complaint{"want true or false, not " + nodeWord(e.Value), "write true or false without quotes"})
		return false, false
	}
	return b.Value, true
}

// List returns a list of texts.
func (s *Section) List(key string) []string {
	e := s.entry(key)
	if e == nil {
		return nil
	}
	list, c := listOf(e.Value)
	s.note(key, e, c)
	return list
}

// Section returns the section under a field, nil if it is not there.
func (s *Section) Section(key string) *Section {
	e := s.entry(key)
	if e == nil {
		return nil
	}
	return s.sub(key, e, e.Value)
}

// Sections returns the sections of a list.
func (s *Section) Sections(key string) []*Section {
	e := s.entry(key)
	if e == nil {
		return nil
	}
	seq, ok := e.Value.(*ast.SequenceNode)
	if !ok {
		s.note(key, e, complaint{"want a list of sections, not " + nodeWord(e.Value), "begin each of them with \"- \""})
		return nil
	}
	var out []*Section
	for i, item := range seq.Values {
		sub := s.sub(fmt.Sprintf("%s[%d]", key, i+1), e, item)
		if sub == nil {
			return nil
		}
		out = append(out, sub)
	}
	return out
}

func (s *Section) sub(key string, e *ast.MappingValueNode, n ast.Node) *Section {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		s.note(key, e, complaint{"want a section, not " + nodeWord(n), "write its fields indented below"})
		return nil
	}
	return newSection(s.doc, s.prefix+key+".", m)
}

// Only complains about every field but these.
func (s *Section) Only(keys ...string) {
	for _, key := range sortedByLine(s.values) {
		if !slices.Contains(keys, key) {
			s.fail(lineOf(s.values[key]), fieldName(key), complaint{"unknown", suggest(key, keys)})
			return
		}
	}
}

func suggest(key string, known []string) string {
	fields := make([]Field, len(known))
	for i, k := range known {
		fields[i].Key = k
	}
	if best := nearest(key, fields); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "known here: " + strings.Join(known, ", ")
}

// fieldName keeps what can be no field's name, a key pasted in the wrong place
// say, out of messages.
func fieldName(key string) string {
	const most = 24
	if len(key) > most || strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "" {
		return "?"
	}
	return key
}

func sortedByLine(values map[string]*ast.MappingValueNode) []string {
	var keys []string
	for key := range values {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := lineOf(values[a]) - lineOf(values[b]); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return keys
}

// entry returns the field unless the file has been complained about.
func (s *Section) entry(key string) *ast.MappingValueNode {
	if s.doc.err != nil {
		return nil
	}
	return s.values[key]
}

func (s *Section) note(key string, e *ast.MappingValueNode, c complaint) {
	if c != (complaint{}) {
		s.fail(lineOf(e), key, c)
	}
}
