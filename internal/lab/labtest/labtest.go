//go:build linux

// Package labtest runs a package's tests inside a lab.
package labtest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"icvpn/internal/lab"
)

// skipVariable, set to 1, lets tests that need namespaces be skipped.
const skipVariable = "ICVPN_SKIP_NETNS"

// Main runs the tests of a package in fresh namespaces and returns the exit
// code for TestMain. Where the machine refuses namespaces it says so and the
// tests fail, unless ICVPN_SKIP_NETNS=1: then those that call Require are
// skipped.
func Main(m *testing.M) int {
	if os.Getenv(skipVariable) == "1" || isFuzzing(os.Args) {
		return m.Run()
	}
	code, err := lab.Main(m.Run)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v; or set %s=1 to skip these tests\n", err, skipVariable)
		return 1
	}
	return code
}

// isFuzzing recognises go test -fuzz and its workers. A worker talks to the
// coordinator through descriptors that a second run would not inherit, and no
// fuzz target needs a network.
func isFuzzing(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "-test.fuzzworker" || strings.HasPrefix(a, "-test.fuzz=")
	})
}

// Require skips the test outside the namespaces, which happens only with
// ICVPN_SKIP_NETNS=1 and while fuzzing.
func Require(tb testing.TB) {
	tb.Helper()
	if !lab.Inside() {
		tb.Skip("outside the namespaces: " + skipVariable + "=1, or fuzzing")
	}
}

// RequireTUN does the same and fails the test, with a sentence, where TUN
// devices cannot be made.
func RequireTUN(tb testing.TB) {
	tb.Helper()
	Require(tb)
	if err := lab.CheckTUN(); err != nil {
		tb.Fatalf("%v; or set %s=1 to skip these tests", err, skipVariable)
	}
}

// New returns a lab that is closed with the test.
func New(tb testing.TB, cfg lab.Config) *lab.Lab {
	tb.Helper()
	Require(tb)
	l, err := lab.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}
