// Package directory is who is in a service: what a super peer publishes of the
// members it admitted, what a reader has to fetch of that, and a compact table
// of all of them.
//
//	super peer S ── root ─┬─ shard 0: hosts 0 to 63 of S's block      Writer
//	                      ├─ shard 1: hosts 64 to 127
//	                      └─ ...
//	                                │ sealed, signed, in the overlay
//	root changed ─> Reader.Wanted ──┴─> Shard ─> Table.Replace ─> Diff
//
// A shard lists the members whose leases have host number >> 6 in common, so an
// address leads to its shard by arithmetic: issuer's block, host number, shard.
// The root names every shard with its sequence number and hash. Formats:
// docs/protocol/directory.md; why so: docs/adr/0018.
//
// # Guarantees
//
//   - A super peer speaks for its own block, within its scope, and for nothing else:
//     what it says of others is left out. One that lies, or serves what is old,
//     harms the members that it admitted itself, and nobody else's.
//   - A reader never goes back: neither to an older root nor to an older shard.
//   - A shard counts only with the hash and number that the root says.
//   - Nothing is allocated by a peer's claim: sizes are bounded before parsing, a
//     shard has at most 64 hosts, a root at most 1024 shards.
//
// # Non-goals
//
//   - Authenticity and secrecy of objects: package overlay verifies their
//     signatures, package discovery opens them.
//   - Authority: a listed member proves its credential in a key exchange. The
//     table says where to look and whom to expect.
//
// All but Follower is pure: no goroutine, no clock, no network. Follower fetches
// what its Reader wants, a few shards at a time. Table has a lock of its own,
// everything else has one owner.
package directory
