package node

import (
	"bytes"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/esp"
	"icvpn/internal/datapath"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/keyex"
)

// tunnelState is how far the way to a peer is.
//
//	idle ──connect──> lookup ──contact──> exchange ──keys──> up
//	 ^                  │ not found          │ failed         │ idle, expired,
//	 └──────────────────┴────────────────────┴────────────────┘ deleted, left
//
// A peer that calls us goes from any state to up. While up, rekeying runs
// beside the pair in use.
type tunnelState uint8

const (
	tunnelIdle tunnelState = iota
	tunnelLookup
	tunnelExchange
	tunnelUp
)

// tunnel is one other machine of the service and the way there. It exists for
// whom we have to do with, and owns a datapath.Tunnel: goroutines and queues exist
// only while there is traffic.
type tunnel struct {
	// set at start
	node     *Node
	pid      id.ID
	address6 netip.Addr
	path     *datapath.Tunnel

	// read by everyone
	member    atomic.Pointer[service.Member]
	pair      atomic.Pointer[filter.Pair]
	unheard   atomic.Int32 // pairs on which nothing was heard
	hearing   atomic.Bool  // the control loop was told that something was
	armed     atomic.Bool  // upkeep watches whether the peer answers
	ending    atomic.Bool  // an SA has said that its life ends
	tooLong   atomic.Bool  // the control loop was told that the interface is too small
	mtuLooked atomic.Int64 // Unix ns when traffic last made us look at the path's MTU
	arrived   atomic.Int32 // length of a long dummy that the peer is to be told of
	wanted    atomic.Bool  // the control loop was asked to connect
	stats     tunnelStats

	// owned by controlLoop
	state       tunnelState
	pairs       []*saPair // newest first
	installed   int       // pairs ever installed
	endpoints   []netip.AddrPort
	proofs      []word              // what the peer's credentials said, one of each issuer, newest last
	holder      id.ID               // issuer of the word in force
	credential  *service.Credential // of the last key exchange, nil before
	retryAt     time.Time           // not before this is a failed connection tried again
	retryWait   time.Duration
	failure     string // why the last attempt failed, for people
	rekeying    bool
	mtu         pathMTU
	handshake   time.Time
	probes      int // unanswered
	lastProbe   time.Time
	lostAt      time.Time // when somebody last said that the peer has lost its keys
	doubted     bool      // and the peer has not shown since that it has them
	wantedSince time.Time // first packet that asked for a connection and got none yet

	relays       []service.ContactRelay // the peer's, as its contact record named them last
	relayAt      time.Time              // when to ask them; zero: not to, or done
	directAt     time.Time              // when to look for a direct way; zero: it has one
	wasDirect    bool                   // it has had one
	keepAt       time.Time              // when to look whether our NAT needs a keepalive; zero: it does not
	knockedAt    time.Time              // when its peer's knock was last answered
	tryingDirect bool                   // the exchange under way goes without relays, and may fail

	// guarded by stagedMu
	stagedMu sync.Mutex
	staged   [][]byte // inner packets
}

// tunnelStats are read by anyone.
type tunnelStats struct {
	lastRx, lastTx atomic.Int64 // Unix ns of the last authentic packet and of the last one sent
	lastData       atomic.Int64 // of the last packet for or from the TUN device
}

// saPair is the two SAs of one exchange.
type saPair struct {
	result    keyex.Result // traffic keys wiped; control and rekey keys kept
	in        *esp.Inbound
	out       *esp.Outbound
	path      netip.AddrPort
	confirmed bool      // the peer was heard on it, or we began it
	heard     bool      // an authentic packet came in on it
	retired   time.Time // zero: in use
	removeAt  time.Time // zero: not retired, or unconfirmed with unconfirmedUntil
	born      time.Time
	dummies   int // sent until the peer is heard
	dummyAt   time.Time
	epochAt   time.Time // when to replace it because its epoch is no longer in force; zero: it is
	stampOut  uint64    // of the last notice sent on the pair
	stampIn   uint64    // of the last notice accepted
}

func (t *tunnel) name() string {
	if m := t.member.Load(); m != nil {
		return m.Name
	}
	return t.pid.Short()
}

// stage keeps a packet until there is an SA, dropping the oldest when full. It
// borrows pkt.
func (t *tunnel) stage(pkt []byte) {
	t.stagedMu.Lock()
	defer t.stagedMu.Unlock()
	if len(t.staged) == maxStaged {
		t.staged = t.staged[1:]
		t.node.stats.stagedDrops.Add(1)
	}
	t.staged = append(t.staged, bytes.Clone(pkt))
}

func (t *tunnel) hasStaged() bool {
	t.stagedMu.Lock()
	defer t.stagedMu.Unlock()
	return len(t.staged) > 0
}

// unstage returns what was staged.
func (t *tunnel) unstage() [][]byte {
	t.stagedMu.Lock()
	defer t.stagedMu.Unlock()
	all := t.staged
	t.staged = nil
	return all
}

// current returns the pair in use, nil if there is none. Control loop only.
func (t *tunnel) current() *saPair {
	for _, p := range t.pairs {
		if p.confirmed && p.retired.IsZero() {
			return p
		}
	}
	return nil
}
