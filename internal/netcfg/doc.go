// Package netcfg tells the kernel about the overlay: addresses, routes and MTU
// of the node's interface, over netlink and without any external program. It
// also asks the kernel two things: whether a prefix of the overlay overlaps a
// network of this machine, and under which addresses the machine may be
// reached from outside.
//
//	service 10.42.0.0/16, fd42::/48        Apply(Interface{...})
//	┌─────────────┐  10.42.0.5/32, fd42::5/128, MTU 1380, up
//	│   icvpn0    │  10.42.0.0/16 dev icvpn0 src 10.42.0.5
//	└─────────────┘  fd42::/48    dev icvpn0 src fd42::5
//
// Guarantees:
//   - Apply and RemoveAddrs may be repeated; they touch the named interface alone.
//   - Everything acts on the network namespace of the calling thread.
//   - Errors are sentences that name the interface, address or route.
//
// Non-goals: DNS, firewall rules, policy routing, making the interface (package
// tun does) or watching for changes.
package netcfg
