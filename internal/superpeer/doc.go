// Package superpeer conducts super peers: each admits machines to a service,
// issues their attribute keys and addresses, keeps the directory, chooses helpers,
// reflects endpoints, and is a node of two overlays. A Host is those of several
// services on one UDP and one TCP port.
//
//	TCP ─ TLS 1.3 ─> greeting: which service? ─> admission.Server ─> authority
//	                                                │ grant or renew
//	          labels ─> slot ─> Ledger.Reserve ─> credential ─> Commit: on disk
//	                                                                │
//	UDP ─ port ─┬─ overlay of the service <── shards, root, envelopes <─┘
//	            ├─ private universal overlay <── the service's documents
//	            ├─ reflect: "your address is ...", and probes of helpers
//	            └─ unclaimed: a port.Guest, for a shared universal overlay
//
// Admissions begin in enrol.go, are decided in authority.go and renew.go, and are
// published by directory.go; keypool_take.go is how a super peer without the ABE
// master key gets keys, keypool_give.go how an authority gives them; host.go, greeting.go and desk.go divide what services
// share; promote.go has the helpers, universe_*.go what the owners sign while we
// run, and what other operators show.
//
// # Guarantees
//
//   - Everything issued is bounded by the descriptor's scope for our key; every
//     verifier checks that again, so a stolen super peer is no owner.
//   - Only what is on disk is granted. No address is given twice, also after kill -9;
//     a restored copy gives no new machine one until it is safe (package ledger), nor
//     does a super peer that lost its ledger, if another one remembers it (recall.go).
//   - Nothing is locked while an admission signs or writes; those that come together
//     share one fsync. Strangers leave places and workers to machines that were
//     admitted before, newcomers to renewals.
//   - A descriptor of the owners is never replaced by an older one, nor forgotten by
//     a restart; one that removes us ends admissions at once.
//   - Services of one host share no key, member or state.
//
// # Non-goals
//
//   - Traffic of the service: it carries none and can read none.
//   - Agreement with the other super peers. Each is the only writer of its own
//     directory; what two say of one machine is settled by that machine's claims.
package superpeer
