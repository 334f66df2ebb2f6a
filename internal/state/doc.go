// Package state keeps a machine's secrets and documents on disk, sealed, one file
// for each name. Wire page: docs/protocol/state.md.
//
//	identity.sealed:
//	+---------+---------+----------+-----------+---------------------+--------+
//	| "icvs"  | 01      | key ID 8 | nonce 24  | ciphertext          | tag 16 |
//	+---------+---------+----------+-----------+---------------------+--------+
//	XChaCha20-Poly1305; associated data: the first 13 bytes ‖ "identity.sealed"
//
// The sealing key comes from, in this order: a key file that is named
// explicitly; the systemd credential icvpn-state-key; the file seal.key in the
// directory itself, which the first Open makes.
//
// What the last protects: single files that leak, a backup of everything but
// seal.key, a file moved to another name or machine. What it does not: whoever
// can read the whole directory has the key. Against a stolen disk use one of the
// other two, with the key kept elsewhere (TPM, secret mount).
//
// Guarantees. One process at a time holds a directory. A name has its old content
// or its new one, after a kill -9 or power cut at any moment as after a full disk.
// A file that does not open under the key is reported by name and never
// overwritten or deleted. Counters never go back.
//
// Not guaranteed. Somebody who can write to the directory can put back an older
// file; nothing here tells. Names and lengths are not hidden.
package state
