// Package process puts a peer or a super peer on a machine: files, sockets, the
// TUN interface and the control socket around the packages that do the work.
//
//	Peer:  state directory ─> identity ─> node.Join ─> TUN, addresses, routes ─> node.Run
//	Super: state directory ─> hand-over ─> sockets ─> superpeer.Run
//
// Everything that can be wrong with the machine is found before anything is
// changed on it, in one sentence each.
package process
