package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"icvpn/internal/filter"
)

// answerTimeout bounds the wait for a process's control loop.
const answerTimeout = 2 * time.Second

// NewRegistry returns a registry with the metrics of src and of the Go process.
func NewRegistry(src Source) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		&collector{src: src, filters: newLedger()},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	return r
}

// collector asks the source at each scrape.
type collector struct {
	src Source

	mu      sync.Mutex // scrapes follow one another: see ledger
	filters *ledger
}

var _ prometheus.Collector = (*collector)(nil)

// Describe says nothing: what a process has depends on its role and on how far
// it is, and the registry checks each scrape for itself.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	w := writer{out: out}
	status, err := c.src.Status(ctx)
	if err != nil {
		status.State = "" // whoever does not answer is not up
	}
	w.status(status)
	s, err := c.src.Metrics(ctx)
	if err != nil {
		return
	}
	var sums []filtered
	if s.Peer != nil {
		sums = c.filters.add(s.Peer.Filters)
	}
	w.snapshot(s, sums)
}

// ledger adds up filters, which come and go with tunnels and policies, so that
// the sums do not fall: what was there at the last scrape and is no more has its
// last figures added to gone. Each list must be younger than the one before.
type ledger struct {
	live map[*filter.Stats]struct{}
	gone map[dropKey]uint64
}

type dropKey struct {
	direction filter.Direction
	verdict   filter.Verdict
}

func newLedger() *ledger {
	return &ledger{live: map[*filter.Stats]struct{}{}, gone: map[dropKey]uint64{}}
}

// filtered is one sum over all tunnels' filters.
type filtered struct {
	direction string
	verdict   filter.Verdict
	n         uint64
}

// directions as metrics name them.
var directions = []struct {
	direction filter.Direction
	name      string
}{{filter.ToPeer, "outbound"}, {filter.FromPeer, "inbound"}}

// add takes in the filters there are now and returns all sums.
func (l *ledger) add(now []*filter.Stats) (sums []filtered) {
	live := make(map[*filter.Stats]struct{}, len(now))
	for _, s := range now {
		live[s] = struct{}{}
	}
	for s := range l.live {
		if _, ok := live[s]; !ok {
			l.retire(s)
		}
	}
	l.live = live
	for _, d := range directions {
		for _, v := range filter.Verdicts() {
			n := l.gone[dropKey{d.direction, v}]
			for s := range live {
				n += s.Dropped(d.direction, v)
			}
			sums = append(sums, filtered{d.name, v, n})
		}
	}
	return sums
}

func (l *ledger) retire(s *filter.Stats) {
	for _, d := range directions {
		for _, v := range filter.Verdicts() {
			l.gone[dropKey{d.direction, v}] += s.Dropped(d.direction, v)
		}
	}
}
