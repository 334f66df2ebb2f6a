// Package promote decides which members of a service help its super peers: they
// store, and they reflect. It promotes and demotes by measured performance and
// availability, as the paper has it (ICVPN 2015, Section 3.1: peers "can be demoted
// or promoted from these overlays respectively based on parameters like
// performance and availability"). Roles that hold a secret of the service, admit
// and authority, are none of its business: only the owners' signature gives those.
//
//	members ─ sample ─> Observe ─┐                          ┌─> promote, keep, demote
//	                 Probed ─────┼─> Machine ── Decide ─────┤      each with a reason
//	                 Gone ───────┘     │                    └─> Helpers, in order
//	                                   └─ Due: whom to ask now
//
//	          promotion bar, age            5 missed; or below the
//	candidate ────────────────────> helper ──────────────────────> barred ─> candidate
//	          last answers, if the cloud    demotion bar and        10 min, doubling
//	          is below its minimum          somebody fit is there   up to 4 h
//
// Numbers and reasons: docs/protocol/helpers.md, docs/adr/0023.
//
// # Guarantees
//
//   - A cloud never has more than Max helpers, and never fewer than Min while that
//     many of its sampled members answer.
//   - Nobody becomes a helper who has not answered several probes in a row; nobody
//     stays one who missed five while anybody else answers. If nobody does, it is the
//     super peer that is cut off, and it decides nothing.
//   - A helper that does its work is never displaced by a better one.
//   - Traffic is bounded: at most MaxCandidates and MaxHelpers are asked, each at its
//     own pace, and those that do not answer ever more seldom.
//
// # Non-goals
//
//   - Finding members, measuring round trips, proving who answered: the super
//     peer does that.
//   - Agreement between super peers: each decides by what it has measured itself. That
//     another one has chosen a member only decides between equals (Member.Named).
//
// The package is pure: no goroutine, no clock, no network, no randomness. A Machine
// has one owner.
package promote
