// Package tun moves IP packets between the node and the kernel, in batches.
//
// On Linux the device is made with IFF_VNET_HDR: one read may bring a TCP or
// UDP super-packet of up to 64 KiB, which is split into packets of MTU size, and
// packets of one flow written together go to the kernel as one. Package
// internal/offload does both; here are the device and its system calls:
//
//	kernel ─ read ─> one buffer of 64 KiB ─> Splitter ─> the caller's buffers
//	kernel <─ writev ─ header, slices of the caller's packets <─ Merger
//
// A kernel that refuses that gets the plain backend, one packet per system
// call (github.com/songgao/water).
//
// Guarantees:
//   - Write alters nothing: packets may lie anywhere, next to each other too.
//     Read writes packets and nothing around them.
//   - Packets of one flow stay in order.
//   - A packet whose checksum is wrong arrives with it, unless
//     Config.AssumeValid says otherwise.
//   - Close unblocks Read, which then returns ErrClosed, and leaves no
//     goroutine and no interface behind. If somebody else removes the interface,
//     Read returns ErrGone.
//   - A packet that is malformed, or that the kernel refuses, costs neither the
//     rest of its batch nor the device: it is dropped and counted in Stats.
//   - Nothing is allocated per packet.
//   - Errors of Open are sentences for a user and name the ways out.
//
// Non-goals: addresses, routes and link state are package netcfg's; packets
// are not looked into beyond what offloading needs.
package tun
