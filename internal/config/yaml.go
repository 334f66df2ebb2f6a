package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds a configuration. A full one has 2 KiB; the YAML parser takes
// time quadratic in the depth of what it reads, so that a file that is
// something else altogether must not get far.
const maxFile = 32 << 10

// setting is one line of a file: a known key and its value.
type setting struct {
	key   string
	line  int
	value value
}

// readFile reads the settings of a file in the order in which they stand there.
func readFile(path string, fields []Field) ([]setting, error) {
	data, err := readLimited(path, maxFile)
	if err != nil {
		return nil, err
	}
	return readYAML(path, data, fields)
}

// readLimited reads a small file; more than limit bytes are an error.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	if int64(len(data)) > limit {
		return nil, &Error{Where: path, Problem: fmt.Sprintf("more than %d bytes", limit),
			WayOut: "check that it is the right file"}
	}
	return data, nil
}

func unreadable(path string, err error) error {
	var reason error = err
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		reason = pe.Err
	}
	wayOut := "check the path and its permissions"
	if errors.Is(err, os.ErrNotExist) {
		wayOut = "check the path"
	}
	return &Error{Where: path, Problem: "cannot be read: " + reason.Error(), WayOut: wayOut}
}

func readYAML(path string, data []byte, fields []Field) ([]setting, error) {
	root, err := parseYAML(path, data)
	if err != nil || root == nil {
		return nil, err
	}
	r := reader{path: path, fields: fields}
	if err := r.section("", root); err != nil {
		return nil, err
	}
	return r.out, nil
}

// parseYAML returns the top mapping of the one document in data, or nil if
// there is nothing but comments.
func parseYAML(path string, data []byte) (*ast.MappingNode, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil, &Error{Where: path, Problem: "is not text in UTF-8", WayOut: "check that it is the right file"}
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, syntaxError(path, err)
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if empty(doc.Body) {
			continue
		}
		if root != nil {
			return nil, &Error{Where: place(path, lineOf(doc.Body)), Problem: "a second YAML document begins",
				WayOut: "keep one configuration in a file"}
		}
		root = doc.Body
	}
	if root == nil {
		return nil, nil
	}
	m, ok := root.(*ast.MappingNode)
	if !ok {
		return nil, &Error{Where: place(path, lineOf(root)), Problem: "is " + nodeWord(root) + ", not a configuration",
			WayOut: "write KEY: VALUE lines; icvpn config example prints a complete file"}
	}
	return m, nil
}

func empty(n ast.Node) bool {
	switch n.(type) {
	case nil, *ast.CommentGroupNode, *ast.NullNode:
		return true
	}
	return false
}

// syntaxError turns the parser's error, several lines with an excerpt, into
// one sentence.
func syntaxError(path string, err error) error {
	e := &Error{Where: path, Problem: "not YAML",
		WayOut: "indent with spaces, and put values with special characters such as [ : # into quotes"}
	if y := yaml.Error(nil); errors.As(err, &y) {
		message, _, _ := strings.Cut(y.GetMessage(), "\n")
		if tk := y.GetToken(); tk != nil && tk.Position != nil {
			e.Where = place(path, tk.Position.Line)
		}
		if key, ok := duplicate(message); ok {
			if !showable(key) {
				return &Error{Where: e.Where, Problem: "a key is there twice", WayOut: "remove one of the two"}
			}
			return &Error{Where: e.Where, Field: key, Problem: "is there twice", WayOut: "remove one of the two"}
		}
		e.Problem += ": " + strings.ToValidUTF8(message, "?")
	}
	return e
}

// duplicate recognises the parser's words for a key that is there twice, its
// only complaint that is not about syntax. TestFileErrors keeps it true.
func duplicate(message string) (key string, ok bool) {
	rest, ok := strings.CutPrefix(message, "mapping key \"")
	if !ok {
		return "", false
	}
	key, _, ok = strings.Cut(rest, "\" already defined")
	return key, ok
}

// reader walks a document along the table of fields.
type reader struct {
	path   string
	fields []Field
	out    []setting
}

// section reads a mapping whose keys are fields: the whole file (prefix "") or
// a section such as "log.".
func (r *reader) section(prefix string, m *ast.MappingNode) error {
	for _, entry := range m.Values {
		if _, ok := entry.Key.(*ast.StringNode); !ok {
			return r.complain(entry, "", "has a key that is not plain text", "write KEY: VALUE")
		}
		key := prefix + keyText(entry)
		if err := r.entry(key, entry); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) entry(key string, entry *ast.MappingValueNode) error {
	if i := slices.IndexFunc(r.fields, func(f Field) bool { return f.Key == key }); i >= 0 {
		return r.field(r.fields[i], entry)
	}
	if slices.ContainsFunc(r.fields, func(f Field) bool { return strings.HasPrefix(f.Key, key+".") }) {
		switch v := entry.Value.(type) {
		case *ast.MappingNode:
			return r.section(key+".", v)
		case *ast.NullNode:
			return nil // a section whose lines are all commented out
		}
		return r.complain(entry, key, "is "+nodeWord(entry.Value)+", not a section",
			fmt.Sprintf("write %s: on a line of its own and its fields indented below", key))
	}
	if !showable(key) {
		return r.complain(entry, "", fmt.Sprintf("unknown key in column %d, not shown because it may be a secret", columnOf(entry)),
			suggestion(key, r.fields))
	}
	return r.complain(entry, key, "unknown", suggestion(key, r.fields))
}

// showable says whether an unknown key looks like a field's name. Whoever pastes
// a token or a key into the wrong line must not find it in a log.
func showable(key string) bool {
	const most = 40 // no field comes near it
	return len(key) <= most && strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_-.") == ""
}

func (r *reader) field(f Field, entry *ast.MappingValueNode) error {
	var v value
	var c complaint
	switch f.Kind {
	case Text:
		v.text, c = textOf(entry.Value)
	case Number:
		v.n, c = numberOf(entry.Value)
	case List:
		v.list, c = listOf(entry.Value)
	case Mapping:
		v.pairs, c = pairsOf(entry.Value)
	case OneOrMore:
		v.list, c = oneOrMoreOf(entry.Value)
	}
	if err := c.at(place(r.path, lineOf(entry)), f.Key); err != nil {
		return err
	}
	r.out = append(r.out, setting{key: f.Key, line: lineOf(entry), value: v})
	return nil
}

func (r *reader) complain(n ast.Node, field, problem, wayOut string) error {
	return complaint{problem, wayOut}.at(place(r.path, lineOf(n)), field)
}

func textOf(n ast.Node) (string, complaint) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, complaint{}
	case *ast.NullNode:
		return "", complaint{"has no value", "give one or remove the line"}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return "", complaint{"want text, not " + nodeWord(n), "put the value into quotes"}
	}
	return "", complaint{"want text, not " + nodeWord(n), "write one plain value"}
}

func numberOf(n ast.Node) (int, complaint) {
	switch n := n.(type) {
	case *ast.IntegerNode:
		if v, ok := parseNumber(n.GetToken().Value); ok {
			return v, complaint{}
		}
		return 0, complaint{quoted(n.GetToken().Value) + " is not a decimal number", "write digits only"}
	case *ast.NullNode:
		return 0, complaint{"has no value", "give one or remove the line"}
	}
	return 0, complaint{"want a whole number, not " + nodeWord(n), "write digits without quotes"}
}

func oneOrMoreOf(n ast.Node) ([]string, complaint) {
	if _, ok := n.(*ast.SequenceNode); ok {
		return listOf(n)
	}
	text, c := textOf(n)
	return []string{text}, c
}

func listOf(n ast.Node) ([]string, complaint) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if empty(n) {
			return nil, complaint{}
		}
		return nil, complaint{"want a list, not " + nodeWord(n), "write [A, B], or each on a line after \"- \""}
	}
	var out []string
	for i, item := range seq.Values {
		text, c := textOf(item)
		if c != (complaint{}) {
			return nil, complaint{fmt.Sprintf("item %d: %s", i+1, c.problem), c.wayOut}
		}
		out = append(out, text)
	}
	return out, complaint{}
}

func pairsOf(n ast.Node) (map[string]string, complaint) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		if empty(n) {
			return nil, complaint{}
		}
		return nil, complaint{"want KEY: VALUE lines, not " + nodeWord(n), "write {k: v, k: v}"}
	}
	out := map[string]string{}
	for _, entry := range m.Values {
		if _, ok := entry.Key.(*ast.StringNode); !ok {
			return nil, complaint{"a key is not plain text", "put it into quotes"}
		}
		text, c := textOf(entry.Value)
		if c != (complaint{}) {
			return nil, complaint{quoted(keyText(entry)) + ": " + c.problem, c.wayOut}
		}
		out[keyText(entry)] = text
	}
	return out, complaint{}
}

func keyText(entry *ast.MappingValueNode) string { return entry.Key.(*ast.StringNode).Value }

// nodeWord names the type of a node for somebody who does not know YAML's names.
func nodeWord(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.StringNode:
		return "text"
	case *ast.LiteralNode:
		return "several lines of text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section"
	}
	return "YAML beyond plain values" // anchors, aliases, tags, merge keys
}

// lineOf returns the line of a node, or 1 where the parser does not say.
func lineOf(n ast.Node) int {
	if entry, ok := n.(*ast.MappingValueNode); ok {
		n = entry.Key
	}
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return lineOf(m.Values[0])
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 1
	}
	return n.GetToken().Position.Line
}

// columnOf returns the column of an entry's key, or 1.
func columnOf(entry *ast.MappingValueNode) int {
	if t := entry.Key.GetToken(); t != nil && t.Position != nil {
		return t.Position.Column
	}
	return 1
}

func place(path string, line int) string { return fmt.Sprintf("%s:%d", path, line) }
