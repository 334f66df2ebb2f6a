// Package tun moves IP packets between the node and the kernel, in batches.
//
// A packet lies in its buffer behind headroom that the device needs for
// itself and that the caller may use for other headers in between:
//
//	buf:  | headroom >= Headroom | IP packet, at most MTU bytes | spare room |
//	      0                      offset                         len          cap
//
// On Linux the device is made with IFF_VNET_HDR: one read may bring a TCP or
// UDP super-packet of up to 64 KiB, which arrives split into packets of MTU
// size (GSO), and packets of one flow written together go to the kernel as one
// (GRO). The kernel's virtio_net_hdr occupies the last Headroom bytes before
// offset.
//
// Guarantees:
//   - Close unblocks Read, which then returns ErrClosed, and leaves no
//     goroutine and no interface behind. So does the removal of the interface.
//   - A packet that is malformed, or that the kernel refuses, costs neither the
//     rest of its batch nor the device: it is dropped and counted in Stats.
//   - Errors of Create are sentences for a user and name the ways out.
//
// Non-goals: addresses, routes and link state are package netcfg's; packets
// are not looked into beyond what offloading needs.
package tun
