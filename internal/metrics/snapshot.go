package metrics

import (
	"context"
	"time"

	"icvpn/esp"
	"icvpn/internal/control"
	"icvpn/internal/filter"
	"icvpn/internal/port"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
	"icvpn/keyex"
	"icvpn/overlay"
	"icvpn/tun"
)

// Source is a process that can be observed. Both methods may be called from
// several goroutines.
type Source interface {
	// Status is that of control.Handler.
	Status(ctx context.Context) (control.Status, error)
	// Metrics says where the counters are now. A process that still joins has
	// none of them and returns the zero Snapshot.
	Metrics(ctx context.Context) (Snapshot, error)
}

// Snapshot is where the counters of a process are at one moment. What is nil or
// empty is not rendered; of several Stats of a kind the sum is.
type Snapshot struct {
	Underlay *underlay.Stats
	Port     *port.Stats
	Control  []*seal.Stats
	Overlays []Overlay
	Relay    *relay.Stats // of what this process relays for others

	Peer     *Peer     // of a peer
	Super    *Super    // of a super peer, apart from its service
	Services []Service // of a super peer
}

// Service is what a super peer has for one of its services.
type Service struct {
	Name     string
	Overlays []Overlay
	Super    *Super
}

// Overlay is this process's node in one overlay.
type Overlay struct {
	Name  string // "service" or "universal"
	Stats *overlay.Stats
	// Nodes are in the routing table; Items, of Bytes, are kept for others.
	Nodes, Items, Bytes int
}

// Peer is what only a peer has.
type Peer struct {
	ESP     []*esp.Stats
	TUN     *tun.Stats
	Keyex   *keyex.Stats
	Filters []*filter.Stats // of the tunnels there are now
	Tunnels []Count         // by state
	Drops   []Count         // the node's own, by reason
	// Helper says whether this peer is a helper; Reflections are the queries for an
	// address that it answered, and did not, by result.
	Helper      bool
	Reflections []Count
	// Relayed is what this peer itself sends and gets through relays.
	Relayed *relay.ConnStats
	// ClockOffset is the service's clock minus the machine's.
	ClockOffset time.Duration
}

// Super is what only a super peer has.
type Super struct {
	Admissions []Count // finished, by result
	Running    int     // admissions under way
	Ephemerals int     // SRP pairs made ahead
	// AttributeKeys are those made ahead for the label set that has fewest.
	AttributeKeys int
	KeysGiven     []Count // attribute keys given out, by where they came from
	// KeysAhead is the processor time that went into keys made ahead.
	KeysAhead time.Duration
	// Helpers are members promoted now; HelperProbes went out, by result, and
	// HelperChanges came of them, by what changed.
	Helpers                     int
	HelperProbes, HelperChanges []Count
	// Leases of the address block are held, of MaxLeases.
	Leases, MaxLeases int
}

// Count is a number and the label value it has in metrics.
type Count struct {
	Name string
	N    uint64
}
