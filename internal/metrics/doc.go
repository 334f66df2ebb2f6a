// Package metrics serves the counters of one process to Prometheus.
//
//	esp  seal  overlay  keyex ...  Stats, live ──┐
//	node, superpeer: Metrics(ctx) Snapshot ──────┴─> collector ─> registry ─> GET /metrics
//	control.Status ─────────────────────────────────────────────────────────> GET /healthz
//
// Nothing is counted here: each package counts its own in a Stats of atomics,
// a conductor says where they are, and this package alone gives them names.
// docs/metrics.md lists the names; they are a stable interface, kept by a test.
//
// Guarantees:
//   - Names carry their unit, every reason of a Drop is there from the start
//     with value 0, and counters do not fall while the process lives.
//   - No label names a peer, an address or a secret: the number of series does
//     not grow with the service, and nobody reads members from it.
//   - A process that cannot answer (it leaves, say) still gives icvpn_up 0 and
//     its Go and process metrics.
//
// Non-goals: authentication and TLS. The address is empty unless the operator
// sets one; it belongs on loopback or on a management network.
package metrics
