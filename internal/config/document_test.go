package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func readText(t *testing.T, text string) (*Section, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadDocument(path)
}

func TestDocumentYieldsEveryKind(t *testing.T) {
	s, err := readText(t, "text: abc\nhex: 0012\nn: 7\non: true\nlist: [a, b]\nsub: {x: y}\nmany:\n  - {i: one}\n  - {i: two}\nnothing: 1e9\n")
	if err != nil {
		t.Fatal(err)
	}
	s.Only("text", "hex", "n", "on", "list", "sub", "many", "nothing", "absent")
	n, given := s.Number("n")
	on, there := s.Bool("on")
	_, absent := s.Number("absent")
	many := s.Sections("many")
	if s.Text("text") != "abc" || s.Word("hex") != "0012" || s.Word("nothing") != "1e9" || n != 7 || !given || !on || !there || absent ||
		len(s.List("list")) != 2 || s.Section("sub").Text("x") != "y" || len(many) != 2 || many[1].Text("i") != "two" {
		t.Error("a field came back wrong")
	}
	if s.Has("absent") || s.Section("absent") != nil || s.Sections("absent") != nil || s.List("absent") != nil || s.Text("absent") != "" {
		t.Error("an absent field is there")
	}
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

func TestDocumentComplainsOnceAndInPlace(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		read func(*Section)
		want string
	}{
		"unknown":      {"a: 1\nlisen: 2\n", func(s *Section) { s.Only("a", "listen") }, `:2: field "lisen": unknown; did you mean "listen"?`},
		"a long key":   {"a: 1\n" + strings.Repeat("ab", 20) + ": 2\n", func(s *Section) { s.Only("a") }, `:2: field "?": unknown; known here: a`},
		"text":         {"a: 1\n", func(s *Section) { s.Text("a") }, `:1: field "a": want text, not a number`},
		"number":       {"a: x\n", func(s *Section) { s.Number("a") }, `:1: field "a": want a whole number, not text`},
		"bool":         {"a: 1\n", func(s *Section) { s.Bool("a") }, `:1: field "a": want true or false, not a number`},
		"list":         {"a: 1\n", func(s *Section) { s.List("a") }, `:1: field "a": want a list, not a number`},
		"section":      {"a: 1\n", func(s *Section) { s.Section("a") }, `:1: field "a": want a section, not a number`},
		"sections":     {"a: {b: c}\n", func(s *Section) { s.Sections("a") }, `:1: field "a": want a list of sections, not a section`},
		"no section":   {"a: [b]\n", func(s *Section) { s.Sections("a") }, `:1: field "a[1]": want a section, not text`},
		"of a section": {"a:\n  b: {c: 1}\n", func(s *Section) { s.Section("a").Section("b").Text("c") }, `:2: field "a.b.c": want text`},
		"first wins":   {"a: 1\nb: x\n", func(s *Section) { s.Text("a"); s.Number("b"); s.Fail("b", "late", "") }, `:1: field "a"`},
		"fail":         {"a:\n  b: 1\n", func(s *Section) { s.Section("a").Fail("", "is odd", "mend it") }, `:2: field "a": is odd; mend it`},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := readText(t, c.text)
			if err != nil {
				t.Fatal(err)
			}
			c.read(s)
			var e *Error
			if !errors.As(s.Err(), &e) || !strings.Contains(s.Err().Error(), c.want) {
				t.Errorf("got %v, want ...%s", s.Err(), c.want)
			}
		})
	}
}

// A file may hold secrets: no complaint about its syntax quotes it.
func TestDocumentOfBrokenSyntaxStaysQuiet(t *testing.T) {
	const secret = "5ec4e75ec4e7"
	for _, text := range []string{"a: [" + secret, "a: b: " + secret, secret, "- " + secret, "? " + secret + "\n: [\n", "\"" + secret, "a: &x " + secret + "\nb: *x\n  c: d"} {
		_, err := readText(t, text)
		if err == nil {
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := readText(t, "# nothing\n"); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty file: %v", err)
	}
}
