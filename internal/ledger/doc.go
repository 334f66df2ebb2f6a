// Package ledger is the memory of a super peer: who is a member, which address
// is leased to whom, how often a secret was used, which tickets are spent,
// which attribute keys lie ready. One file, ledger.db, in the state directory.
//
//	Reserve ──> sign the credential ──> Commit ──────────> on disk: granted
//	   │ under the lock: counts,          │ no lock           │
//	   │ an address, microseconds         │                   └> the indexes follow
//	   └──────────── Release, or an error of Commit: as if nothing had been
//
// The indexes in memory answer everything but backups: by PID, by host number,
// counts by secret, what ends next. The file below them is a bbolt database
// whose every value is sealed by the state directory's key, with its place as
// associated data; format in docs/protocol/state.md.
//
// Guarantees. What Commit has returned without an error survives kill -9 and a
// power cut; what it has not is not granted, and counts for nothing. Admissions
// that come together share one fsync, and none holds the lock meanwhile. No
// address is given to a PID before the end of the last credential with it, of
// whichever PID, plus Config.Grace; also after a restart, and after a restore of
// an older copy (Restored) or of what a directory still lists (Adopt). Reserve
// and Commit cost the same with ten members as with ten thousand, up to a
// logarithm.
//
// Not guaranteed. Whoever can write to the directory can put back an older
// file together with its counter; nothing tells then. Keys of records (PIDs,
// addresses, IDs of tickets and secrets) and sizes are not hidden.
package ledger
