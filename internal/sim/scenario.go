package sim

import (
	"encoding/hex"
	"errors"
	"math"
	"time"

	"icvpn/overlay"
)

const (
	joinsPerSecond = 50
	settling       = 5 * time.Minute
)

// Run simulates what cfg, which must be valid, says.
func Run(cfg Config) Result {
	w := newWorld(cfg)
	s := &scenario{world: w, failures: make(map[string]int)}
	s.populate()
	w.runUntil(s.settled())
	s.planChurn()
	s.beginQuiet()
	w.runUntil(s.settled() + cfg.Duration)
	s.endQuiet()
	s.strike()
	s.planLookups()
	w.runUntil(s.end())
	return s.result()
}

// scenario is what happens to the world, and what is seen of it.
type scenario struct {
	*world
	quiet    [2]group // peers, super peers
	killed   int
	began    int // lookups
	found    []time.Duration
	hops     []int
	failures map[string]int // lookups, by reason
	silent   uint64         // queries of nodes that died, unanswered
}

// group adds up the traffic of nodes of a kind.
type group struct {
	nodes int
	traffic
	most uint64 // bytes of the busiest
}

func (s *scenario) settled() time.Duration {
	return time.Duration(s.cfg.Peers)*time.Second/joinsPerSecond + settling
}

func (s *scenario) end() time.Duration { return s.settled() + 2*s.cfg.Duration + time.Minute }

// populate has the super peers start at once and the peers join one by one.
func (s *scenario) populate() {
	for range s.cfg.SuperPeers {
		s.join(true)
	}
	for i := range s.cfg.Peers {
		s.plan(time.Duration(i+1)*time.Second/joinsPerSecond, func() { s.join(false) })
	}
}

// planChurn has peers vanish, at random times until the end, and others join in
// their place.
func (s *scenario) planChurn() {
	span := float64(s.end() - s.settled())
	for range s.cfg.newcomers() {
		at := s.settled() + time.Duration(span*s.rand.Float64())
		s.plan(at, func() {
			s.bury(s.anyPeer())
			s.join(false)
		})
	}
}

// bury ends a node and keeps what it counted.
func (s *scenario) bury(n *node) {
	if n != nil {
		s.silent += n.machine.Stats().Silent.Load()
		n.kill()
	}
}

// anyPeer returns a peer that is alive, nil if there is none.
func (s *scenario) anyPeer() *node {
	for range 100 * len(s.nodes) {
		n := s.nodes[s.cfg.SuperPeers+s.rand.IntN(len(s.nodes)-s.cfg.SuperPeers)]
		if n.alive {
			return n
		}
	}
	return nil
}

func (s *scenario) beginQuiet() {
	for _, n := range s.nodes {
		n.before = n.traffic()
	}
}

// endQuiet adds up the traffic of those who were there all the time.
func (s *scenario) endQuiet() {
	for _, n := range s.nodes {
		if !n.alive || n.joined > s.settled() {
			continue
		}
		g := &s.quiet[0]
		if n.super {
			g = &s.quiet[1]
		}
		t := n.traffic()
		g.nodes++
		g.Datagrams += t.Datagrams - n.before.Datagrams
		g.Bytes += t.Bytes - n.before.Bytes
		g.most = max(g.most, t.Bytes-n.before.Bytes)
	}
}

// strike kills a share of the nodes that live, super peers among them.
func (s *scenario) strike() {
	var alive []*node
	for _, n := range s.nodes {
		if n.alive {
			alive = append(alive, n)
		}
	}
	s.killed = int(math.Round(s.cfg.Dead * float64(len(alive))))
	s.rand.Shuffle(len(alive), func(i, j int) { alive[i], alive[j] = alive[j], alive[i] })
	for i, n := range alive {
		if i < s.killed || n.super && s.cfg.orphaned {
			s.bury(n)
		}
	}
}

// planLookups has peers look for the contact records of others that live, evenly
// over Duration.
func (s *scenario) planLookups() {
	for i := range s.cfg.Lookups {
		at := s.now + time.Duration(float64(s.cfg.Duration)*float64(i)/float64(s.cfg.Lookups))
		s.plan(at, s.lookUp)
	}
}

func (s *scenario) lookUp() {
	reader, wanted := s.anyPeer(), s.anyPeer()
	if reader == nil || wanted.stored == 0 {
		return
	}
	s.began++
	began := s.now
	reader.machine.Tick(s.time())
	reader.machine.Get(wanted.key, contactSalt, func(_ overlay.Item, hops int, err error) {
		if err != nil {
			s.failures[reason(err)]++
			return
		}
		s.found = append(s.found, s.now-began)
		if hops > 0 {
			s.hops = append(s.hops, hops)
		}
	})
	s.settle(reader)
}

func reason(err error) string {
	switch {
	case errors.Is(err, overlay.ErrNotFound):
		return "not found"
	case errors.Is(err, overlay.ErrUnreachable):
		return "no node answered"
	}
	return "other"
}

// result looks at everything once more.
func (s *scenario) result() Result {
	r := Result{Version: ResultVersion, Config: newSettings(s.cfg), Nodes: len(s.nodes), Killed: s.killed}
	r.Time = seconds(s.now)
	s.reportJoins(&r)
	s.reportLookups(&r)
	r.Quiet.Peers = s.rates(s.quiet[0])
	r.Quiet.SuperPeers = s.rates(s.quiet[1])
	r.Network = Network{Datagrams: s.datagrams, Lost: s.lost, ToTheDead: s.void, Unanswered: s.silent}
	r.Drops = make(map[string]uint64)
	for _, n := range s.nodes {
		if !n.alive {
			continue
		}
		st := n.machine.Stats()
		r.Network.Unanswered += st.Silent.Load()
		for _, d := range overlay.Drops() {
			if c := st.Dropped(d); c > 0 {
				r.Drops[d.String()] += c
			}
		}
	}
	r.Digest = hex.EncodeToString(s.digest.Sum(nil))
	return r
}

func (s *scenario) reportJoins(r *Result) {
	var reached, stored []time.Duration
	for _, n := range s.nodes[s.cfg.SuperPeers:] {
		if n.reached > 0 {
			reached = append(reached, n.reached-n.joined)
		}
		if n.stored > 0 {
			stored = append(stored, n.stored-n.joined)
		}
	}
	r.Joins = Joins{Peers: len(s.nodes) - s.cfg.SuperPeers, FirstContact: spread(reached), RecordStored: spread(stored)}
}

func (s *scenario) reportLookups(r *Result) {
	l := &r.Lookups
	l.Begun, l.Found, l.Failures = s.began, len(s.found), s.failures
	if s.began > 0 {
		l.FoundPercent = round(100 * float64(len(s.found)) / float64(s.began))
	}
	l.Latency = spread(s.found)
	sum := 0
	for _, h := range s.hops {
		sum += h
		l.HopsMax = max(l.HopsMax, h)
	}
	if len(s.hops) > 0 {
		l.HopsMean = round(float64(sum) / float64(len(s.hops)))
	}
}

func (s *scenario) rates(g group) Rates {
	if g.nodes == 0 {
		return Rates{}
	}
	per := func(n uint64, by int) float64 { return round(float64(n) / float64(by) / s.cfg.Duration.Seconds()) }
	return Rates{Nodes: g.nodes, Datagrams: per(g.Datagrams, g.nodes), Bytes: per(g.Bytes, g.nodes), BytesMost: per(g.most, 1)}
}
