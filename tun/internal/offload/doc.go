// Package offload turns the super-packets that a Linux TUN device exchanges
// under IFF_VNET_HDR into IP packets and back. It computes only: the device is
// package tun's.
//
//	kernel ─> | virtio_net_hdr | headers | payload, at most 64 KiB |
//	                Splitter ─> headers' payload'   one per segment, in the
//	                            headers" payload"   caller's buffers
//
//	headers' payload'                              lent by the caller, unchanged
//	headers" payload" ─> Merger ─> | virtio_net_hdr + headers | payload' | payload" |
//	                               own memory                   slices of the packets
//
// Splitting is TCP segmentation offload and its twin for UDP as the kernel does
// them in software (tcp_gso_segment, __udp_gso_segment). Copy and checksum of a
// payload are one pass. Merging is generic receive offload (tcp_gro_receive,
// udp_gro_receive) on the packets of one batch: nothing is copied but headers.
//
// Guarantees:
//   - No input makes it panic or write outside the buffers' packets.
//   - Packets of one flow stay in order. Splitting what was merged gives the
//     packets again; of an IPv4 packet that may not be fragmented the
//     identification, which then means nothing (RFC 6864, Section 4.1), may
//     differ.
//   - A packet whose checksum is wrong is never merged, and so keeps its wrong
//     checksum, unless the Merger is told to assume them right.
//   - Nothing is allocated per packet.
//
// Non-goals: fragments, IPv4 options and IPv6 extension headers are not merged,
// and neither are UDP datagrams without checksum.
package offload
