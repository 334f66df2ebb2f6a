// Package node conducts a peer: it joins a service and carries its traffic.
//
// A join, in join.go:
//
//	token ─> dial ─> TLS ─> descriptor ─> SRP ─> provisioning ─> grant ─> list
//	                                                               │ sealed store
//	                                                               v Membership
//
// A packet out, in outbound.go, and in, in inbound.go:
//
//	TUN ─> outboundLoop ─> route ─> tunnel.sendLoop ─> filter ─> SA.Seal ─> port
//	          │ no SA yet: staged; control loop: discover ─> key exchange ─> install
//	port ─> onESP ─> SAD ─> tunnel.receiveLoop ─> SA.Open ─> source ─> filter ─> TUN
//
// One goroutine, controlLoop, owns the key exchange machine and the state of
// every tunnel; others post to it. The data path reads what it needs through
// atomics and takes no lock that the control loop holds while it works.
//
//	New starts nothing. Run starts, in one place: port readers, overlay,
//	outboundLoop, controlLoop, membershipLoop; the control loop adds two
//	goroutines for each tunnel and ends them with it.
package node
