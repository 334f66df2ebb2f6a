// Package overlay is a node of the Kademlia overlay in which the members of a
// service find each other: signed items (BEP 44) on the few nodes nearest to an
// ID. It stores opaque values and knows nothing of what they mean.
//
// A Machine is the node itself: no goroutine, no clock, no socket, and the same
// steps again for the same events and seed. An Overlay runs one: it has the
// goroutine, and methods that wait. icvpn sim runs thousands on a clock of its own.
//
//	Deliver ──> Overlay ──> Machine.Receive ──> query ──> respond ──> outbox
//	                           │                  table, store
//	                           └──> answer ──> question ──> walk, placing, ...
//	                                                          │
//	Get Put Publish ──> search, placing, fetching, deposit ───┴──> ask ──> outbox
//	upkeep: bootstrap, checks, buckets ─┘
//
// Messages, IDs and items are those of BitTorrent's DHT; what is used of
// github.com/anacrolix/dht/v2, and what is not, stands in docs/adr/0017.
//
// A datagram is bencode of at most 1173 bytes; docs/protocol/overlay.md has the
// messages byte by byte:
//
//	d 1:a d 2:id 20:… 6:target 20:… e 1:q 3:get 1:t 9:… 1:y 1:q e
//	d 1:r d 2:id 20:… 1:k 32:… 6:nodes6 …:… 3:seq i…e 3:sig 64:… 5:token 8:… 1:v …:… e 1:t 9:… 1:y 1:r e
//
// # Guarantees
//
//   - Nothing a peer sends panics, allocates by its claim, or is answered with more
//     bytes than its padded query.
//   - Get returns only what verifies under the key, or hashes to the name, that
//     was asked for; of several versions the highest sequence number.
//   - A node stores no rollback, and no more than its bounds. A put costs nobody
//     but its own account: no item goes before it expires, a chunk only for newer
//     ones of those who put it, and members and super peers (Config.Class) and the
//     node itself have room that strangers cannot use.
//   - Nobody becomes a contact without answering a query of ours from its address,
//     and, if Config.Admit is set, without being admitted; who no longer is
//     does not stay one. One address is one contact.
//   - No address is resolved or contacted but those of Bootstrap and Replicas,
//     senders of datagrams, and nodes that contacts named.
//   - A lookup takes paths that share no node (Config.Paths), and asks a replica
//     besides: one member on the way leads one path astray.
//   - An Overlay is one goroutine, which ends with Run. While nothing changes, a node
//     among a thousand sends and receives less than 1 kB/s.
//
// # Non-goals
//
//   - Secrecy and membership: datagrams are sealed below (docs/protocol/control.md),
//     values above.
//   - Defence against members: one who is near a target may keep silent about an
//     item or serve an old version of it. Replicas at super peers, the highest
//     sequence number and the expiry inside the value bound what that gains.
//   - Compare-and-swap, peers, announcements, BEP 42 IDs: not offered.
//   - Persistence: what was stored is gone with the process, and published again
//     by its owners within half of its expiry.
package overlay
