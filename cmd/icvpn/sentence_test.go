package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

func TestSentenceHasNoPackageNames(t *testing.T) {
	for err, want := range map[string]string{
		"state: state directory /x is in use":                                       "state directory /x is in use",
		"node: service: rolled back: descriptor has":                                "rolled back: descriptor has",
		"super peer a:1 refused this machine: admission: refused: the secret":       "super peer a:1 refused this machine: the secret",
		"no super peer (a:1: admission: descriptor: service: the root; b:2: no)":    "no super peer (a:1: descriptor: the root; b:2: no)",
		"serves no more (service: credential is of another service (2c43add8))":     "serves no more (credential is of another service (2c43add8))",
		`x.yaml:1: field "log": is text; write tun: on a line of its own`:           `x.yaml:1: field "log": is text; write tun: on a line of its own`,
		"service name: is empty; use a-z":                                           "service name: is empty; use a-z",
		"two\nlines":                                                                "two; lines",
		"/etc/state: is a directory":                                                "/etc/state: is a directory",
		`tun: interface "icvpn0": the name is taken`:                                `interface "icvpn0": the name is taken`,
		"underlay: UDP port 4500 is already in use on this machine (another icvpn)": "UDP port 4500 is already in use on this machine (another icvpn)",
	} {
		if got := sentence(errors.New(err)); got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", err, got, want)
		}
	}
}

// TestEveryPackagePrefixIsKnown finds packages of the program whose errors begin
// with a name that plain does not take out: add it to packagePrefix.
func TestEveryPackagePrefixIsKnown(t *testing.T) {
	begins := regexp.MustCompile(`(?:errors\.New|fmt\.Errorf)\("([a-z]+): `)
	// Packages below these are test doubles, or internal to one that wraps them.
	for _, pattern := range []string{"../../*/*.go", "../../internal/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(filepath.Dir(path))
			for _, m := range begins.FindAllSubmatch(b, -1) {
				if string(m[1]) == name && plain(name+": x") != "x" {
					t.Errorf("%s: errors begin with %q, which packagePrefix does not know", path, name+": ")
				}
			}
		}
	}
}
