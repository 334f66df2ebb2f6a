// Package kernel tests icvpn's ESP against an implementation that shares no line
// with it: the Linux kernel's (xfrm), as Debian ships it, in a virtual machine.
//
//	test process, in network and process namespaces of its own         qemu
//	┌────────────────────────────────────────────────────────┐  ┌──────────────────────┐
//	│ icvpn tunnel ── icvpn0            wire: passes frames   │  │ Debian's kernel      │
//	│ 10.77.0.1, fd77::1                on, counts, drops,    │  │ 10.77.0.2, fd77::2   │
//	│      │                            doubles, falsifies    │  │   │                  │
//	│ UDP 4500 ── underlay0 (tap) ──────────── ▒▒ ────────────┼──┤ eth0 ── xfrm ─ lan   │
//	│ 192.0.2.1, 2001:db8::1                                  │  │ 192.0.2.2   10.77.2.2│
//	│                                                         │  │ agent  (MTU 1280)    │
//	└────────────────────────────────────────────────────────┘  └──────────────────────┘
//
// The kernel is set up with nothing but the commands that `icvpn tunnel
// --print-iproute2` prints. Every suite meets it with and without extended
// sequence numbers, over IPv4 and IPv6, with IPv4 and IPv6 inside; the table at
// the end has a cell for each property. README.md says how to run it and what the
// columns mean.
//
// The package has tests only. They need an image of the machine, which .ci/kernel
// makes, and say so where there is none; everything they start lives in
// namespaces that end with them.
package kernel
