// Package e2e runs the program as its users do: real processes of the binary, in
// network namespaces, with nothing but files, sockets and signals in between.
//
//	cloud east                    router                 cloud west
//	super-1  web-1 app-1 db-1 ──────┴──────  super-2  web-2 app-2 db-2
//
// It has tests only. What a package can show by itself is tested there; here is
// what needs processes: that they survive each other's death, that an operator's
// mistake ends in one sentence and loses nothing, that no clear text is on the
// wire, that nothing leaks. Each test makes its own network and service and takes
// it down again; the binary is built once per run, or given in ICVPN_E2E_BINARY.
// They run one after another, since they starve each other otherwise; at the end,
// together, those that mostly wait.
//
// The tests need Linux with network namespaces and a TUN device. Where those are
// missing they fail and say so; ICVPN_SKIP_NETNS=1 skips them visibly.
package e2e
