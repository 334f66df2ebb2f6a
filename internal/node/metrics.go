package node

import (
	"context"

	"icvpn/esp"
	"icvpn/internal/filter"
	"icvpn/internal/metrics"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
	"icvpn/tun"
)

var _ metrics.Source = (*Node)(nil)

// Metrics implements metrics.Source.
func (n *Node) Metrics(ctx context.Context) (metrics.Snapshot, error) {
	p := &metrics.Peer{
		ESP: []*esp.Stats{n.esp, &n.sad.Stats}, Drops: n.drops(), ClockOffset: n.ring.ClockOffset(),
	}
	roles, _ := n.helps()
	answered, limited := n.reflector.Counts()
	p.Relayed = n.relaying.conn.Stats()
	p.Helper, p.Reflections = roles != 0, []metrics.Count{{Name: "answered", N: answered}, {Name: "limited", N: limited}}
	if d, ok := n.device.(interface{ Stats() *tun.Stats }); ok {
		p.TUN = d.Stats()
	}
	s := metrics.Snapshot{
		Port: n.port.Stats(), Control: []*seal.Stats{n.port.Unclaimed(), n.ring.Stats()}, Overlays: []metrics.Overlay{n.overlayMetrics()}, Relay: n.relaying.table.Stats(), Peer: p,
	}
	if c, ok := n.cfg.UDP.(interface{ Stats() *underlay.Stats }); ok {
		s.Underlay = c.Stats()
	}
	err := n.call(ctx, func() { n.tunnelMetrics(p) })
	return s, err
}

func (n *Node) overlayMetrics() metrics.Overlay {
	items, bytes := n.overlay.Stored()
	return metrics.Overlay{Name: "service", Stats: n.overlay.Stats(), Nodes: len(n.overlay.Nodes()), Items: items, Bytes: bytes}
}

// tunnelMetrics adds what the control loop owns. Control loop only.
func (n *Node) tunnelMetrics(p *metrics.Peer) {
	p.Keyex = n.machine.Stats()
	var states [len(tunnelStateNames)]uint64
	p.Filters = make([]*filter.Stats, 0, len(n.tunnels))
	for _, t := range n.tunnels {
		states[t.state]++
		if pair := t.pair.Load(); pair != nil {
			p.Filters = append(p.Filters, pair.Stats())
		}
	}
	for s, name := range tunnelStateNames {
		p.Tunnels = append(p.Tunnels, metrics.Count{Name: name, N: states[s]})
	}
}

// tunnelStateNames are the words used in metrics.
var tunnelStateNames = [...]string{tunnelIdle: "idle", tunnelLookup: "lookup", tunnelExchange: "exchange", tunnelUp: "up"}

// drops names what was dropped beside ESP's own reasons. What the access rules
// refuse is left out: the filters count it, by reason.
func (n *Node) drops() []metrics.Count {
	s, d := &n.stats, n.path.Stats()
	return []metrics.Count{
		{Name: "not_ip", N: d.NotIP.Load()},
		{Name: "not_ours", N: s.notOurs.Load()},
		{Name: "unknown_peer", N: s.unknownPeer.Load()},
		{Name: "staged_full", N: s.stagedDrops.Load()},
		{Name: "queue_full", N: d.QueueDrops.Load()},
		{Name: "too_long", N: d.TooLong.Load()},
		{Name: "congestion", N: d.Congestion.Load()},
		{Name: "not_sent", N: d.NotSent.Load()},
		{Name: "control_full", N: s.controlDrops.Load()},
		{Name: "bad_notice", N: s.badNotices.Load()},
		{Name: "not_helping", N: s.notHelping.Load()},
		{Name: "misrelayed", N: s.misrelayed.Load()},
	}
}
