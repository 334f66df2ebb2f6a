package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// layer says where a field's value came from; a later layer wins.
type layer uint8

const (
	layerFile layer = iota + 1
	layerEnvironment
	layerFlags
)

// apply puts the file, the environment and the flags onto c, which holds the
// defaults, and returns the layer that each field's value came from.
func apply[C any](src Source, fields []field[C], c *C) (map[string]layer, error) {
	a := applier[C]{fields: fields, c: c, from: map[string]layer{}}
	if err := a.file(src.File); err != nil {
		return nil, err
	}
	if err := a.environment(src); err != nil {
		return nil, err
	}
	return a.from, a.flags(src.Flags)
}

type applier[C any] struct {
	fields []field[C]
	c      *C
	from   map[string]layer
}

func (a *applier[C]) file(path string) error {
	if path == "" {
		return nil
	}
	settings, err := readFile(path, public(a.fields))
	if err != nil {
		return err
	}
	for _, s := range settings {
		f := a.fields[slices.IndexFunc(a.fields, func(f field[C]) bool { return f.Key == s.key })]
		if f.path {
			s.value.text = beside(path, s.value.text)
			for i, p := range s.value.list {
				s.value.list[i] = beside(path, p)
			}
		}
		if err := f.set(a.c, s.value).at(place(path, s.line), s.key); err != nil {
			return err
		}
		a.from[s.key] = layerFile
	}
	return nil
}

// beside resolves a path that stands in a file.
func beside(file, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), path)
}

// environment looks up known variables only. Unknown ICVPN_ ones are no error:
// Kubernetes sets ICVPN_PORT and more for a service that is called icvpn.
func (a *applier[C]) environment(src Source) error {
	for _, f := range a.fields {
		text := src.env(f.Env())
		if text == "" {
			continue
		}
		if err := a.text(f, text).at("environment variable "+f.Env(), f.Key); err != nil {
			return err
		}
		a.from[f.Key] = layerEnvironment
	}
	return nil
}

func (a *applier[C]) flags(given map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(given)) {
		i := slices.IndexFunc(a.fields, func(f field[C]) bool { return f.Key == key })
		if i < 0 {
			panic("config: internal error: no field " + key)
		}
		f := a.fields[i]
		if err := a.text(f, given[key]).at("flag --"+f.Flag(), key); err != nil {
			return err
		}
		a.from[key] = layerFlags
	}
	return nil
}

// text reads a value as it stands in the environment or in a flag and sets it.
func (a *applier[C]) text(f field[C], text string) complaint {
	v := value{text: text}
	switch f.Kind {
	case Number:
		n, ok := parseNumber(text)
		if !ok {
			return complaint{quoted(text) + " is not a whole number", "write digits only"}
		}
		v.n = n
	case List, OneOrMore:
		v.list = splitList(text)
	case Mapping:
		v.pairs = map[string]string{}
		for _, pair := range splitList(text) {
			key, val, ok := strings.Cut(pair, "=")
			if !ok {
				return complaint{quoted(pair) + " is not a label", "write KEY=VALUE, several joined by commas"}
			}
			if _, twice := v.pairs[key]; twice {
				return complaint{"label " + quoted(key) + " is there twice", "a label has one value"}
			}
			v.pairs[key] = val
		}
	}
	return f.set(a.c, v)
}

// splitList splits at commas and drops white space and empty items.
func splitList(s string) []string {
	var out []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// parseNumber reads a decimal number in its only form: YAML's 010 (octal), 0x1f
// and 1_000 are somebody's mistake more often than they are meant.
func parseNumber(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && strconv.Itoa(n) == s
}

func (src Source) env(name string) string {
	if src.Env == nil {
		return ""
	}
	text, _ := src.Env(name)
	return text
}

func (src Source) host() *Host {
	if src.Host != nil {
		return src.Host
	}
	name, err := os.Hostname()
	if err != nil {
		name = "" // peerName complains, but only if no name was configured
	}
	return &Host{Root: os.Geteuid() == 0, Name: name, Home: src.env("HOME"), StateHome: src.env("XDG_STATE_HOME")}
}
