// Package superpeer conducts a super peer: it admits machines to a service,
// issues their attribute keys and addresses, keeps the directory, reflects
// endpoints, and is a node of two overlays.
//
//	TCP ─ TLS 1.3 ─> admission.Server ─> authority: labels, lease, slot, grant
//	                                        │ members
//	                                        v
//	UDP ─ port ─┬─ DHT of the service <── directory, envelopes
//	            ├─ DHT of the universal overlay <── the service's documents
//	            └─ reflect: "your address is ..."
//
// Everything it issues is bounded by the descriptor's scope for its key; every
// verifier checks that again, so a stolen super peer is no owner. It carries no
// traffic of the service and cannot read any.
//
// It keeps in its state directory, sealed: the owner's hand-over, leases,
// members. A restart, also by kill -9, gives no address twice.
package superpeer
