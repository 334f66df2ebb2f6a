// Package sim runs an overlay of thousands of nodes on a clock and a network that
// are simulated: the very machines of package overlay, one thread, and no step that
// does not follow from the configuration. Two runs of one configuration exchange
// the same datagrams at the same times, bit for bit; Result.Digest says so.
//
//	events by time ──> node's Machine ──Flush──> network: latency, loss ──> events
//	   │                    └──Wake──> event
//	   └── scenario: joins, churn, death, lookups
//
// The time of a run:
//
//	joining (50 a second) │ settling 5 min │ quiet: Duration │ deaths, lookups: Duration
//	                                         ^ traffic is measured here
//
// # Guarantees
//
//   - No goroutine, no clock, no randomness but the seed's, no order of a map.
//   - Nodes are what a service's are: PIDs of Ed25519 keys, signed items, super peers
//     as bootstrap addresses and replicas.
//
// # Non-goals
//
//   - Sealing, admission, NAT: datagrams are counted with what sealing and UDP add,
//     and arrive or do not.
//   - Processing time: a simulated node answers at once.
package sim
