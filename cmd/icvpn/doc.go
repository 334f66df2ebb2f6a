// Command icvpn joins a machine to the private network of its cloud service,
// and creates and serves such networks.
//
// This package is the outside of the program: flags, signals, exit codes and
// text for people. What the commands do is in internal/node, internal/superpeer,
// internal/service and internal/demo, which run.go plugs in; up.go, for example,
// reads from flags to exit code in one page. docs/cli.md is the reference.
//
// Guarantees. A command that fails prints one sentence, "icvpn: ...", on
// standard error and exits with a code that says what kind of failure it was
// (exit.go). Results go to standard output, everything else to standard error.
// A secret is never taken from the command line. Text that comes from other
// machines cannot move a terminal's cursor. Colour is used on terminals only,
// and not if NO_COLOR is set.
package main
