// Package lab builds small networks out of Linux network namespaces, for the
// demo, the tests and the benchmarks. It needs no external program and never
// touches the host's network.
//
// Main runs the calling program a second time inside fresh namespaces; New
// then builds clouds of hosts around one router:
//
//	┌ host web1 ┐  eth0            to-web1 ┌───────── router ─────────┐
//	│ netns     ├──────────────────────────┤ netns, forwards v4 + v6  │
//	└───────────┘ 192.0.2.11/32            │                          │
//	              fd1c:0:0:1::11/128       │ Capture sees each packet │
//	┌ host app1 ┐  eth0            to-app1 │ that enters it, once     │
//	│ netns     ├──────────────────────────┤                          │
//	└───────────┘ 192.0.2.12/32            │  192.0.2.1    cloud 1    │
//	                                       │  198.51.100.1 cloud 2    │
//	┌ host db1  ┐  eth0             to-db1 │  fe80::1      every link │
//	│ netns     ├──────────────────────────┤                          │
//	└───────────┘ 198.51.100.11/32         └──────────────────────────┘
//
//	host process ── runs ──> pid 1 of the lab ── starts ──> children in hosts
//	(waits, forwards         (namespaces: net, mnt, pid,    (own process groups)
//	 signals)                 for an ordinary user: user)
//
// Every host hangs on a link of its own, without a bridge: traffic inside a
// cloud passes the router too, as in the networks of real providers. A host
// has its address as /32 and /128 and its default routes over the router.
//
// Guarantees:
//   - When the program ends, however it ends (kill -9 of the process outside
//     included), all processes, links, mounts and scratch files of the lab are
//     gone: they live in namespaces that die with pid 1.
//   - An ordinary user needs nothing but user namespaces; where those are
//     refused, an *UnavailableError says so in one sentence. TUN devices also
//     need an openable /dev/net/tun: CheckTUN.
//
// A host can be made a NAT with one machine behind it: Host.BehindNAT.
//
// Non-goals: delay and loss (see underlay/simnet), other systems than Linux.
package lab
