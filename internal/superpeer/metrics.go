package superpeer

import (
	"context"

	"icvpn/internal/discovery"
	"icvpn/internal/metrics"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
)

var _ metrics.Source = (*SuperPeer)(nil)

// Metrics implements metrics.Source.
func (s *SuperPeer) Metrics(context.Context) (metrics.Snapshot, error) {
	out := metrics.Snapshot{
		Port:     s.port.Stats(),
		Control:  []*seal.Stats{s.rings.Stats(), s.service.ring.Stats(), s.universe.ring.Stats()},
		Overlays: []metrics.Overlay{s.service.metrics("service"), s.universe.metrics("universal")},
		Super:    s.authority.metrics(),
	}
	out.Super.Running, out.Super.Ephemerals = len(s.workers), s.pool.Len()
	if c, ok := s.cfg.UDP.(interface{ Stats() *underlay.Stats }); ok {
		out.Underlay = c.Stats()
	}
	return out, nil
}

func (t *tier) metrics(name string) metrics.Overlay {
	items, bytes := t.overlay.Stored()
	return metrics.Overlay{Name: name, Stats: t.overlay.Stats(), Nodes: len(t.overlay.Nodes()), Items: items, Bytes: bytes}
}

func (a *authority) metrics() *metrics.Super {
	fewest := -1
	for _, secret := range a.secrets {
		if n := a.slots.Len(discovery.Attributes(a.rules(), secret.Grant)); fewest < 0 || n < fewest {
			fewest = n
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return &metrics.Super{AttributeKeys: max(fewest, 0), Leases: len(a.leases.byPID), MaxLeases: int(a.leases.size())}
}
