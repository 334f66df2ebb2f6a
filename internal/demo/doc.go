// Package demo is `icvpn demo`: the whole path on one machine, live.
//
//	cloud east                router                cloud west
//	super-1  web-1 app-1 db-1 ──┴── capture   super-2  web-2 app-2 db-2
//
// Two clouds of network namespaces, one super peer in each, a three-tier service
// over both. Every machine is a process of this very binary, started with
// nothing but its token; the demo talks to them as an operator would, through
// the command line and the control sockets. What it prints it has measured or
// captured; it fails, with exit code 1, when something does not hold.
package demo
