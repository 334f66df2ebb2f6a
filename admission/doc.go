// Package admission lets a machine into a service: over TLS 1.3 it checks the
// owner-signed descriptor, proves knowledge of an enrolment secret with SRP-6a
// (RFC 5054, RFC 2945) or of an earlier session key with a single-use ticket,
// proves possession of its identity key, and hands opaque provisioning
// requests and grants across. docs/protocol/admission.md is its wire format.
//
// Client and Server are machines without I/O: feed them frames, send what
// they return. They open no socket, start no goroutine and read no clock.
//
//	client                                              super peer
//	  |  TLS 1.3, Ed25519 leaf, ALPN icvpn/1, no tickets    |
//	  |<--------------------------------------------------->|
//	  |-- DescriptorRequest [1, ServiceID] ---------------->|
//	  |<- Descriptor [root, descriptor, clock] -------------|
//	  |   CheckDescriptor: signed by the owner? lists this TLS key?
//	  |-- Start [I] ---------------------------------------->|  fake salt and v
//	  |<- Challenge [s, B = kv + g^b] ----------------------|  for unknown I
//	  |-- Proof [A = g^a, PID, M1] ------------------------->|  S only now
//	  |<- Accept [M2, info] --------------------------------|
//	  |-- Provision [request, idkey, sig] ------------------>|  hook
//	  |<- Grant [grant, ticket, expiry] --------------------|
//	  |-- List [request] ----------------------------------->|  hook
//	  |<- ListReply [list] ---------------------------------|
//
// With a ticket, Continue [ticket, idkey, mac, sig, request, more] stands in the
// place of Start to Provision, and Accept and Grant answer it together. At any
// point the super peer may answer Refused [code, detail, other] and close.
//
// A frame on the TLS stream:
//
//	 0                   4    5
//	+-------------------+----+----------------------------------+
//	| n, u32 big endian |type| body: deterministic CBOR, n-1 B  |
//	+-------------------+----+----------------------------------+
//
// # Guarantees
//
// The client says nothing but the ServiceID before the descriptor hook has
// accepted the TLS key. Both proofs cover the TLS exporter (RFC 9266), the
// server's key, ServiceID and PID, so a relay in the middle learns nothing it
// can use. The group comes from the descriptor, never from the peer; A, B or
// u = 0 modulo N, and any value of another length than N or not below it,
// aborts. Unknown secret IDs draw the same frames, sizes and work as wrong
// secrets. Arithmetic on secrets is constant-time (filippo.io/bigmod), as is
// every comparison of a proof. A Throttle bounds online guessing at a secret from
// any number of sources, and keeps nobody out for good.
//
// # Non-goals
//
// No policy: who may have which label, whether a credential is revoked and
// whether a ticket was used are decided by Backend. Group operations
// leave intermediate values on stack and heap that Go cannot be told to wipe;
// what this package holds itself is wiped. Nothing here resists a quantum
// computer beyond what the TLS key exchange gives.
package admission
