package config

import "fmt"

// Error is one thing wrong with a configuration, in words for its author.
type Error struct {
	// Where is FILE:LINE, FILE, the name of an environment variable or a flag.
	Where string
	// Field is the key, sections joined by dots, or empty.
	Field string
	// Problem says what is wrong, WayOut what to do about it.
	Problem, WayOut string
}

// Error returns `WHERE: field "x": problem; way out`.
func (e *Error) Error() string {
	s := e.Problem
	if e.Field != "" {
		s = fmt.Sprintf("field %q: %s", e.Field, s)
	}
	if e.Where != "" {
		s = e.Where + ": " + s
	}
	if e.WayOut != "" {
		s += "; " + e.WayOut
	}
	return s
}

// complaint is an Error whose place is not known yet: what a check returns.
// The zero value means that there is nothing to complain about.
type complaint struct{ problem, wayOut string }

func (c complaint) at(where, field string) error {
	if c == (complaint{}) {
		return nil
	}
	return &Error{Where: where, Field: field, Problem: c.problem, WayOut: c.wayOut}
}

// missing complains about a required field that no layer has set.
func missing(src Source, field, wayOut string) error {
	e := &Error{Field: field, Problem: "missing", WayOut: wayOut}
	if src.File != "" {
		e.Where = src.File + ":1"
	}
	return e
}
