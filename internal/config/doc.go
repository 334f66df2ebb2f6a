// Package config reads what an operator wrote: the configuration of a peer or
// of a super peer, and a peer's bootstrap token.
//
// A value comes from one of four layers. A later one wins:
//
//	default -> file (YAML) -> environment (ICVPN_...) -> flags
//
// One table per configuration (peerFields, superFields) holds every field once:
// its key in the file, its meaning, default and check. The names elsewhere
// follow from the key, so there is nothing else to keep in step:
//
//	file         log:
//	               level: debug
//	environment  ICVPN_LOG_LEVEL=debug
//	flag         --log-level debug
//
// The annotated example (Example), the reference table (Reference) and the
// command line's flags (PeerFields, SuperFields) are printed from that table.
//
// Guarantees. Reading is strict: a key that is not in the table, a value of
// another type, a missing required field, a value out of range or a second
// definition is an *Error that says where, which field, what is wrong and the
// way out. Every layer is checked, also where a later one overrides it. A
// configuration that comes back without an error is complete: no later code
// has to apply a default. Nothing here prints a token.
//
// Relative paths in a file are relative to that file; in the environment and
// in flags, to the working directory.
//
// Non-goals: YAML beyond plain mappings, lists and scalars (anchors, tags,
// merge keys and several documents are refused); reloading; checking that a
// file named here exists, which belongs to whoever opens it.
package config
