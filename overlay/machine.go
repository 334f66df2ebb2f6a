package overlay

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"icvpn/internal/id"
)

// Machine is a node of the overlay without a goroutine, a clock or a socket:
// whoever has those tells it what happens and when, and takes from it what is to
// be sent and when it wants to be woken. All that happens follows from its
// configuration, Rand and what it is told, in this order; so a simulation of any
// number of machines can be run again bit for bit.
//
//	Receive, Tick, Get, Put, ... ──> Machine ──> Flush: datagrams
//	                                    │  └───> Wake: when to call Tick
//	                                    └──────> done functions of calls
//
// Its methods are called by one goroutine at a time, and not from a done function
// or a function of the Config. Time is the one last passed in; it never goes back.
type Machine struct {
	// Set by NewMachine.
	cfg    Config
	rand   *rand.Rand
	proofs *proofs
	stats  Stats

	now     time.Time
	timers  timers
	in      message // what is being received
	out     outbox
	calls   []*Call
	stopped error // ErrNotRunning before Start and after Stop

	store     *store
	pubs      publications
	table     *table
	answers   *limiter[netip.Prefix]   // queries of strangers, by where they come from
	regulars  *limiter[netip.AddrPort] // queries of contacts, each by itself
	queries   *limiter[netip.AddrPort] // ours
	asked     map[uint64]*question     // queries in flight, by transaction
	count     uint64                   // of transactions
	trips     roundTrips
	ourselves map[netip.AddrPort]bool // addresses under which we met ourselves
	verifying map[netip.AddrPort]bool
	visits    map[netip.Prefix]int // those of them who queried us, by prefix ...
	visiting  int                  // ... and in all
	lastHeard time.Time            // last answer of anybody
	upkeep    upkeep
	compact   [bucketSize * nodeSize]byte // what addNodes writes
}

// NewMachine returns a machine. It sends nothing until Start. The Transport in cfg
// is not used; what is to be sent comes out of Flush.
func NewMachine(cfg Config) (*Machine, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Machine{
		cfg:       cfg,
		rand:      rand.New(cfg.Rand), //nolint:gosec // secrets come from cfg.secret
		proofs:    newProofs(cfg.secret()),
		store:     newStore(cfg.limits(), cfg.Expiry),
		pubs:      publications{byID: make(map[id.ID]*publication)},
		table:     newTable(cfg.Self, cfg.Bucket),
		answers:   newLimiter[netip.Prefix](cfg.AnswerRate),
		regulars:  newLimiter[netip.AddrPort](cfg.AnswerRate),
		queries:   newLimiter[netip.AddrPort](cfg.QueryRate),
		asked:     make(map[uint64]*question),
		ourselves: map[netip.AddrPort]bool{cfg.Local: true},
		verifying: make(map[netip.AddrPort]bool),
		visits:    make(map[netip.Prefix]int),
		stopped:   ErrNotRunning,
	}, nil
}

// Start lets the machine take part: it enters the overlay and looks after itself.
func (m *Machine) Start(now time.Time) {
	m.at(now)
	m.stopped = nil
	m.startUpkeep()
}

// Tick does what is due.
func (m *Machine) Tick(now time.Time) {
	m.at(now)
	for t := m.timers.due(now); t != nil; t = m.timers.due(now) {
		t.fire()
	}
}

// Wake returns when to call Tick, zero for never. Every call of another method may
// change it.
func (m *Machine) Wake() time.Time { return m.timers.next() }

// Receive takes a datagram that came from an address. It borrows pkt. If it is a
// query, its answer comes out of Flush with via.
func (m *Machine) Receive(now time.Time, pkt []byte, from netip.AddrPort, via Transport) {
	m.at(now)
	if why := m.receive(pkt, unmap(from), via); why != DropNone {
		m.stats.drop(why)
	}
}

func (m *Machine) receive(pkt []byte, from netip.AddrPort, via Transport) Drop {
	if !dialable(from) {
		return DropAddress
	}
	var why Drop
	if m.in, why = parse(pkt); why != DropNone {
		return why
	}
	m.stats.received(&m.in, len(pkt))
	if m.in.kind == query {
		why = m.answer(&m.in, from, via)
	} else {
		why = m.onAnswer(&m.in, from)
	}
	m.in = message{} // it points into pkt
	return why
}

// Stop ends every call with ErrNotRunning and forgets what was planned. Items and
// contacts stay readable.
func (m *Machine) Stop(now time.Time) {
	m.at(now)
	m.stopped = ErrNotRunning
	for len(m.calls) > 0 {
		m.Cancel(now, m.calls[0], ErrNotRunning)
	}
	m.timers.clear()
	m.asked = make(map[uint64]*question)
	m.out = outbox{}
}

// Reached says whether a first node has answered.
func (m *Machine) Reached() bool { return !m.lastHeard.IsZero() }

// Nodes returns the contacts that answered their last query, nearest to ourselves
// first.
func (m *Machine) Nodes() []Node { return m.table.nearest(nil, m.cfg.Self, maxContacts, true) }

// Stored returns the number of items and chunks stored here and their bytes.
func (m *Machine) Stored() (items, bytes int) { return m.store.size() }

// Stats returns the counters.
func (m *Machine) Stats() *Stats { return &m.stats }

func (m *Machine) at(now time.Time) {
	if now.After(m.now) {
		m.now = now
	}
}

// after arranges for fire to be called in d.
func (m *Machine) after(d time.Duration, fire func()) *timer {
	return m.timers.at(m.now.Add(d), fire)
}

// Call is something in progress that ends with its done function. What it has
// found so far counts when it is cancelled.
type Call struct {
	stop  func(cause error) // makes the call end
	cause error             // why it was made to end
}

// begin enters a call, which ends itself by end. Before Start and after Stop it
// returns nil.
func (m *Machine) begin(stop func(cause error)) *Call {
	if m.stopped != nil {
		return nil
	}
	c := &Call{stop: stop}
	m.calls = append(m.calls, c)
	return c
}

// end takes a call out.
func (m *Machine) end(c *Call) {
	for i := range m.calls {
		if m.calls[i] == c {
			n := len(m.calls) - 1
			copy(m.calls[i:], m.calls[i+1:])
			m.calls[n] = nil
			m.calls = m.calls[:n]
			return
		}
	}
}

// Cancel makes a call end now, if it has not: its done function is called, with
// what there is or with an error that is cause.
func (m *Machine) Cancel(now time.Time, c *Call, cause error) {
	m.at(now)
	if c == nil || c.cause != nil {
		return
	}
	c.cause = cause
	for _, running := range m.calls {
		if running == c {
			m.end(c)
			c.stop(cause)
			return
		}
	}
}

// others returns addrs without our own and what no node can have.
func (m *Machine) others(addrs []netip.AddrPort) (others []netip.AddrPort) {
	for _, a := range addrs {
		if a = unmap(a); dialable(a) && !m.ourselves[a] {
			others = append(others, a)
		}
	}
	return others
}

// bootstrapAddrs returns the addresses to begin at, without our own.
func (m *Machine) bootstrapAddrs() []netip.AddrPort {
	return first(m.others(m.cfg.Bootstrap()), maxReplicas)
}

// replicaAddrs returns the replicas, without ourselves.
func (m *Machine) replicaAddrs() []netip.AddrPort { return m.others(m.cfg.Replicas()) }

// alone says whether there is nobody to ask: no contact and no bootstrap address
// but our own. Such a node is an overlay by itself.
func (m *Machine) alone() bool {
	all, _ := m.table.counts()
	return all == 0 && len(m.others(m.cfg.Bootstrap())) == 0
}

// askable says whether to ask an address that another node named. Only a node on
// this machine may send us to this machine.
func (m *Machine) askable(a, namedBy netip.AddrPort) bool {
	ip := a.Addr()
	if ip.IsLoopback() && !namedBy.Addr().IsLoopback() || ip.IsLinkLocalUnicast() {
		return false
	}
	return !m.ourselves[a]
}

// jitter returns 75 to 125 % of d, so that nodes do not fall into step.
func (m *Machine) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + m.rand.Float64()/2))
}

func first[T any](s []T, n int) []T { return s[:min(n, len(s))] }
