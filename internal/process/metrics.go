package process

import (
	"context"
	"net"

	"icvpn/internal/config"
	"icvpn/internal/control"
	"icvpn/internal/metrics"
)

// observed is what serve shows to people and to Prometheus.
type observed interface {
	control.Handler
	metrics.Source
}

var _ observed = (*handler)(nil)

// Metrics implements metrics.Source: nothing while joining, the node's after.
func (h *handler) Metrics(ctx context.Context) (metrics.Snapshot, error) {
	if n := h.current(); n != nil {
		return n.Metrics(ctx)
	}
	return metrics.Snapshot{}, nil
}

// metricsListener binds the address of the metrics, nil without one.
func metricsListener(ctx context.Context, c config.Metrics) (net.Listener, error) {
	if c.Listen == "" {
		return nil, nil
	}
	return metrics.Listen(ctx, c.Listen)
}
