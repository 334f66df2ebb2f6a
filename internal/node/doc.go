// Package node conducts a peer: it joins a service and carries its traffic.
//
// A join, in join.go; a renewal by ticket, in kept.go and renew.go, leaves out
// SRP, the list and what has not changed:
//
//	token ─> dial ─> TLS ─> descriptor ─> SRP ─> provisioning ─> grant ─> list
//	                                └──── ticket, claim ────────> grant
//	                                                               │ sealed store
//	                                                               v Membership
//
// Packets go through package datapath; what it asks the node, in traffic.go:
//
//	TUN ─> routeTo ─> Outbound (access rules) ─> sealed, sent
//	         │ NoSA: staged; control loop: discover ─> key exchange ─> install
//	         └ no tunnel: listed? made on demand; else the directory is read
//	port ─> opened ─> Inbound (source, destination, access rules) ─> TUN
//
// Who is there is a directory.Table (roster.go, directory.go); a machine that is
// listed costs an entry, one that there was a packet for or from a tunnel.
//
// A peer that cannot be reached directly is behind a relay (relay.go), and has a
// virtual address.
//
// One goroutine, controlLoop, owns the key exchange machine and the state of
// every tunnel; others post to it, the data path signals. The data path reads
// what it needs through atomics and never waits for the control loop.
//
//	New starts nothing. Run starts, in one place: port readers, overlay,
//	deviceLoop, controlLoop, leaveLoop, membershipLoop, and that directoryLoop
//	and documentsLoop. The data path adds a goroutine for each direction of a
//	tunnel that is busy, and ends it when it is not; lookups are bounded.
//
// # Guarantees
//
//   - No flow that the rules still allow is cut by a renewal, and a renewal that is
//     refused changes nothing.
//   - Of two processes with one identity the one admitted last stays; Run of the
//     other ends with ErrClone, and takes back nothing that the winner published.
//   - No super peer's word alone gives another's member other labels or another
//     address, or takes this machine back to an older policy or descriptor.
//   - After Run nothing is sent or received, and no goroutine is left.
//
// # Non-goals
//
//   - Files, sockets, interfaces: package process opens them and hands them over.
package node
