// Package service holds the documents that make a service: what the owners
// sign once, and what super peers and members sign under it.
//
//	root document ── hash ──> ServiceID        (the one name nobody can take)
//	   │ owners' signatures
//	   ├─> descriptor   super peers: keys, roles, scopes, address blocks
//	   └─> policy       who may reach whom, suites, lifetimes, revocations
//	          descriptor lists issuer
//	             └─> credential   super peer signs: this key has this address
//	                    │           and these labels until then
//	                    └─> contact, directory entry
//
// Whoever holds the ServiceID (it stands in the token) can check the whole
// chain without a PKI. Trust is that chain for one service; VerifyCredential
// is the only way by which a credential becomes believed.
//
// All documents are deterministic CBOR (package wire), except the policy: YAML
// that people read and write, signed as bytes. Formats: docs/protocol/documents.md.
//
// The package is pure: no files, no clock, no network.
package service
