// Package node conducts a peer: it joins a service and carries its traffic.
//
// A join, in join.go:
//
//	token ─> dial ─> TLS ─> descriptor ─> SRP ─> provisioning ─> grant ─> list
//	                                                               │ sealed store
//	                                                               v Membership
//
// Packets go through package datapath; what it asks the node, in traffic.go:
//
//	TUN ─> routeTo ─> Outbound (access rules) ─> sealed, sent
//	         │ NoSA: staged; control loop: discover ─> key exchange ─> install
//	port ─> opened ─> Inbound (source, destination, access rules) ─> TUN
//
// One goroutine, controlLoop, owns the key exchange machine and the state of
// every tunnel; others post to it, the data path signals. The data path reads
// what it needs through atomics and never waits for the control loop.
//
//	New starts nothing. Run starts, in one place: port readers, overlay,
//	deviceLoop, controlLoop, membershipLoop. The data path adds a goroutine for
//	each direction of a tunnel that is busy, and ends it when it is not.
package node
