package sim

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// ResultVersion is that of the JSON form; it grows when a field goes or changes its
// meaning.
const ResultVersion = 1

// Result is what a run showed. It follows from the Config and nothing else.
type Result struct {
	Version int      `json:"version"`
	Config  Settings `json:"config"`
	Nodes   int      `json:"nodes"`          // that ever were, super peers among them
	Killed  int      `json:"killed"`         // at once
	Time    float64  `json:"simulated_time"` // seconds
	Joins   Joins    `json:"joins"`
	Lookups Lookups  `json:"lookups"`
	Quiet   struct {
		Peers      Rates `json:"peers"`
		SuperPeers Rates `json:"superpeers"`
	} `json:"quiet"`
	Network Network           `json:"network"`
	Drops   map[string]uint64 `json:"drops"` // datagrams, by reason
	// Digest is SHA-256 over time, sender, receiver and bytes of every datagram.
	Digest string `json:"digest"`
}

// Settings is the Config of a run in JSON.
type Settings struct {
	Peers      int     `json:"peers"`
	SuperPeers int     `json:"superpeers"`
	Seed       uint64  `json:"seed"`
	Churn      float64 `json:"churn_per_hour"`
	Loss       float64 `json:"loss"`
	RTT        float64 `json:"rtt"`      // seconds
	Duration   float64 `json:"duration"` // seconds
	Dead       float64 `json:"dead"`
	Lookups    int     `json:"lookups"`
}

func newSettings(c Config) Settings {
	return Settings{c.Peers, c.SuperPeers, c.Seed, c.Churn, c.Loss, c.RTT.Seconds(), c.Duration.Seconds(), c.Dead, c.Lookups}
}

// Joins says how long peers took from their start.
type Joins struct {
	Peers        int    `json:"peers"`
	FirstContact Spread `json:"first_contact"` // until a first node answered
	RecordStored Spread `json:"record_stored"` // until their contact record was stored with a quorum
}

// Lookups says what came of looking for contact records of peers that live.
type Lookups struct {
	Begun        int            `json:"begun"`
	Found        int            `json:"found"`
	FoundPercent float64        `json:"found_percent"`
	Latency      Spread         `json:"latency"`
	HopsMean     float64        `json:"hops_mean"` // of those found on a path
	HopsMax      int            `json:"hops_max"`
	Failures     map[string]int `json:"failures"`
}

// Spread is how long something took, in seconds.
type Spread struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Rates is the traffic of a node in a second of the quiet time, both ways
// together, with what sealing, UDP and IPv4 add.
type Rates struct {
	Nodes     int     `json:"nodes"`
	Datagrams float64 `json:"datagrams"`
	Bytes     float64 `json:"bytes"`
	BytesMost float64 `json:"bytes_most"` // of the busiest node
}

// Network counts datagrams and queries of the whole run.
type Network struct {
	Datagrams  uint64 `json:"datagrams"`
	Lost       uint64 `json:"lost"`
	ToTheDead  uint64 `json:"to_the_dead"`
	Unanswered uint64 `json:"unanswered_queries"`
}

func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e4) / 1e4 }

func round(x float64) float64 { return math.Round(x*1e3) / 1e3 }

func spread(all []time.Duration) Spread {
	if len(all) == 0 {
		return Spread{}
	}
	slices.Sort(all)
	at := func(share float64) float64 { return seconds(all[int(share*float64(len(all)-1))]) }
	return Spread{len(all), at(0.5), at(0.99), at(1)}
}

// Write writes the result as a table.
func (r Result) Write(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	c := r.Config
	row("network", "%d peers, %d super peers, seed %d, RTT %.0f ms, loss %g, churn %g an hour", c.Peers, c.SuperPeers, c.Seed, 1000*c.RTT, c.Loss, c.Churn)
	row("time", "%.0f s simulated, %d nodes in all, %d killed at once", r.Time, r.Nodes, r.Killed)
	row("joins", "%d peers", r.Joins.Peers)
	row("  first contact", "%v", r.Joins.FirstContact)
	row("  record stored", "%v", r.Joins.RecordStored)
	l := r.Lookups
	row("lookups", "%d of %d found, %g %%", l.Found, l.Begun, l.FoundPercent)
	row("  latency", "%v", l.Latency)
	row("  hops", "mean %.2f, max %d", l.HopsMean, l.HopsMax)
	row("  failures", "%s", list(l.Failures))
	row("traffic of", "datagrams/s, bytes/s both ways (busiest)")
	row("  a peer", "%v", r.Quiet.Peers)
	row("  a super peer", "%v", r.Quiet.SuperPeers)
	n := r.Network
	row("datagrams", "%d sent, %d lost, %d to the dead", n.Datagrams, n.Lost, n.ToTheDead)
	row("  dropped", "%s", list(r.Drops))
	row("  queries unanswered", "%d", n.Unanswered)
	row("digest", "%s", r.Digest)
	return t.Flush()
}

func (s Spread) String() string {
	return fmt.Sprintf("p50 %.3f s, p99 %.3f s, max %.3f s (%d)", s.P50, s.P99, s.Max, s.Count)
}

func (r Rates) String() string {
	return fmt.Sprintf("%.2f, %.0f (%.0f)", r.Datagrams, r.Bytes, r.BytesMost)
}

// list writes counts by name.
func list[N int | uint64](counts map[string]N) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
