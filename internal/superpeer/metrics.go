package superpeer

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"icvpn/admission"
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
		Relay:    s.host.relay.Stats(),
		Super:    s.authority.metrics(),
	}
	out.Super.Admissions = s.admissions.counts()
	s.promotion.metrics(out.Super)
	out.Super.Running, out.Super.Ephemerals = s.door.running(), s.pool.Len()
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
	leases, size := a.ledger.Leases()
	return &metrics.Super{AttributeKeys: max(fewest, 0), KeysGiven: a.slotCounts.counts(), KeysAhead: a.slotCounts.ahead.total(), Leases: leases, MaxLeases: size}
}

// result is how an admission ended, refusals apart: those go by their code.
type result uint8

const (
	resultGranted   result = iota
	resultLimited          // too many from one prefix, closed at once
	resultTLS              // no TLS session
	resultAbandoned        // the peer hung up: another super peer was quicker, say
	resultBroken           // the peer broke the protocol, or the connection broke
	numResults
)

var resultNames = [numResults]string{"granted", "rate_limited", "tls_failed", "abandoned", "broken"}

// admissions counts how admissions ended. The zero value is ready.
type admissions struct {
	results [numResults]atomic.Uint64
	refused [admission.CodeClone + 1]atomic.Uint64
}

func (a *admissions) count(r result) { a.results[r].Add(1) }

// fail counts an admission that ended with err, as r unless the peer hung up.
func (a *admissions) fail(r result, err error) {
	if errors.Is(err, io.EOF) {
		r = resultAbandoned
	}
	a.count(r)
}

// end counts an admission that ended as it should, granted if code is 0.
func (a *admissions) end(code admission.Code) {
	if code == 0 {
		a.count(resultGranted)
		return
	}
	a.refused[min(code, admission.CodeClone)].Add(1)
}

func (a *admissions) counts() (all []metrics.Count) {
	for r, name := range resultNames {
		all = append(all, metrics.Count{Name: name, N: a.results[r].Load()})
	}
	for c := admission.CodeWrongSecret; c <= admission.CodeClone; c++ {
		all = append(all, metrics.Count{Name: c.String(), N: a.refused[c].Load()})
	}
	return all
}
