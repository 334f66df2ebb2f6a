package overlay

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/anacrolix/dht/v2"

	"icvpn/internal/id"
)

// Errors that callers branch on.
var (
	// ErrNotFound: nodes answered, and none has a valid item.
	ErrNotFound = errors.New("overlay: not found")
	// ErrUnreachable: no other node answered. A put has then stored the item on
	// this node only.
	ErrUnreachable = errors.New("overlay: no node answered")
	// ErrNoQuorum: fewer nodes than the quorum acknowledged a put.
	ErrNoQuorum = errors.New("overlay: too few nodes stored the item")
	// ErrSuperseded: a newer item is stored; see SupersededError.
	ErrSuperseded = errors.New("overlay: a newer item is stored")
	// ErrInvalid: the item or object is beyond the limits or its signature wrong.
	ErrInvalid = errors.New("overlay: invalid item")
	// ErrObject: what stands under a key is not an object, or not all of it.
	ErrObject = errors.New("overlay: broken object")
	// ErrUnchanged: the object is the one that the reader has.
	ErrUnchanged = errors.New("overlay: object unchanged")
	// ErrRollback: only an older object than the reader has was found.
	ErrRollback = errors.New("overlay: only an older object was found")
	// ErrNotRunning: Run has not begun or has ended.
	ErrNotRunning = errors.New("overlay: not running")
)

// Overlay is a node of the Kademlia overlay. Its methods may be called from
// several goroutines.
type Overlay struct {
	// Set by New.
	cfg       Config
	log       *slog.Logger
	stats     Stats
	proofs    *proofs
	store     *store
	pubs      *publications
	packetsIn chan datagram
	verifyIn  chan netip.AddrPort
	ready     chan struct{} // closed with the first contact

	mu        sync.Mutex // guards what follows
	state     state
	table     *table
	answers   *limiter
	queries   *limiter
	ourselves map[netip.AddrPort]bool // addresses under which we met ourselves
	verifying map[netip.AddrPort]bool
	lastHeard time.Time // last answer of anybody

	// Set by Run before state becomes running, constant from then on.
	life   context.Context
	server *dht.Server
	conn   *conn
	calls  sync.WaitGroup // Get, Put and the like in progress; Add only under mu
}

// datagram is an opened datagram, the address it came from and the way back.
type datagram struct {
	pkt  []byte
	from netip.AddrPort
	via  Transport
}

// fresh ──Run──> running ──ctx done──> ended
type state uint8

const (
	fresh state = iota
	running
	ended
)

// New returns a node. It starts nothing and sends nothing until Run.
func New(cfg Config) (*Overlay, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Overlay{
		cfg:       cfg,
		log:       cfg.Logger,
		proofs:    newProofs(),
		store:     newStore(cfg.limits(), cfg.Expiry),
		pubs:      newPublications(),
		packetsIn: make(chan datagram, packetQueue),
		verifyIn:  make(chan netip.AddrPort, verifyQueue),
		ready:     make(chan struct{}),
		table:     newTable(cfg.Self),
		answers:   newLimiter(cfg.AnswerRate),
		queries:   newLimiter(cfg.QueryRate),
		ourselves: map[netip.AddrPort]bool{cfg.Local: true},
		verifying: make(map[netip.AddrPort]bool),
	}, nil
}

// Run takes part in the overlay until ctx is done and returns nil then, after
// every goroutine it started, the library's included, has ended. It may be
// called once.
func (o *Overlay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := o.start(ctx); err != nil {
		return err
	}
	o.log.Info("overlay joined", "peer", o.cfg.Self, "addr", o.cfg.Local)

	var loops sync.WaitGroup
	loops.Go(func() { o.dispatchLoop(ctx) })
	loops.Go(func() { o.upkeepLoop(ctx) })
	for range verifyWorkers {
		loops.Go(func() { o.verifyLoop(ctx) })
	}
	for range publishWorkers {
		loops.Go(func() { o.publishLoop(ctx) })
	}
	<-ctx.Done()

	o.mu.Lock()
	o.state = ended
	o.mu.Unlock()
	o.calls.Wait()
	loops.Wait()
	o.stopLibrary()
	o.log.Info("overlay left", "peer", o.cfg.Self)
	return nil
}

// stopLibrary ends the library's reader, once nothing more is passed to it.
func (o *Overlay) stopLibrary() {
	<-o.conn.parked
	o.server.Close()
	<-o.conn.left
}

func (o *Overlay) start(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != fresh {
		return errors.New("overlay: Run called twice")
	}
	o.conn = newConn(o)
	server, err := newServer(o.cfg, o.conn)
	if err != nil {
		return err
	}
	o.server, o.life, o.state = server, ctx, running
	return nil
}

// enter begins a call that sends queries: its context ends with Run, and Run
// ends after it. The caller calls leave.
func (o *Overlay) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != running {
		return nil, nil, ErrNotRunning
	}
	o.calls.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(o.life, cancel)
	return ctx, func() { stop(); cancel(); o.calls.Done() }, nil
}

// Deliver hands over an opened datagram from the network. It borrows pkt, never
// blocks and never fails: what cannot be taken is dropped and counted.
func (o *Overlay) Deliver(pkt []byte, from netip.AddrPort) { o.DeliverVia(pkt, from, o.cfg.Transport) }

// DeliverVia is Deliver with a transport of its own for the answer, if pkt is a
// query: one that seals under the epoch of the query, and drops what is larger
// than the query was. It takes via.
func (o *Overlay) DeliverVia(pkt []byte, from netip.AddrPort, via Transport) {
	o.stats.Received.Add(1)
	o.mu.Lock()
	up := o.state == running
	o.mu.Unlock()
	switch {
	case !up:
		o.stats.drop(DropNotRunning)
	case len(pkt) > MaxPayload:
		o.stats.drop(DropTooLong)
	default:
		select {
		case o.packetsIn <- datagram{append([]byte(nil), pkt...), unmap(from), via}:
		default:
			o.stats.drop(DropQueueFull)
		}
	}
}

// dispatchLoop is the only place where datagrams of others are looked at.
//
//	Deliver -> packetsIn -> dispatch -> parse -> query:  answer -> Transport
//	                                         \-> answer: admitAnswer -> conn -> library -> waiting call
func (o *Overlay) dispatchLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-o.packetsIn:
			if why := o.dispatch(ctx, d); why != DropNone {
				o.stats.drop(why)
			}
		}
	}
}

func (o *Overlay) dispatch(ctx context.Context, d datagram) Drop {
	if !dialable(d.from) {
		return DropAddress
	}
	m, why := parse(d.pkt)
	switch {
	case why != DropNone:
		return why
	case m.kind == query:
		return o.answer(&m, d.from, d.via)
	}
	return o.admitAnswer(ctx, &m, d.from)
}

// Ready returns a channel that is closed once a first node has answered.
func (o *Overlay) Ready() <-chan struct{} { return o.ready }

// Nodes returns the contacts that answered their last query, nearest to
// ourselves first.
func (o *Overlay) Nodes() []Node {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.table.nearest(o.cfg.Self, 8*id.Size*bucketSize, true)
}

// Stats returns the counters.
func (o *Overlay) Stats() *Stats { return &o.stats }

// Stored returns the number of items and chunks stored here and their bytes.
func (o *Overlay) Stored() (items, bytes int) { return o.store.size() }

// contacts returns how many contacts there are and how many of them answer.
func (o *Overlay) contacts() (all, answering int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.table.counts()
}

// bootstrapAddrs returns the addresses to begin at, without our own.
func (o *Overlay) bootstrapAddrs() []netip.AddrPort { return o.others(o.cfg.Bootstrap()) }

func (o *Overlay) others(addrs []netip.AddrPort) []netip.AddrPort {
	o.mu.Lock()
	defer o.mu.Unlock()
	var others []netip.AddrPort
	for _, a := range addrs {
		if a = unmap(a); dialable(a) && !o.ourselves[a] {
			others = append(others, a)
		}
	}
	return others
}

// askable says whether to ask an address that another node named. Only a node on
// this machine may send us to this machine.
func (o *Overlay) askable(a, namedBy netip.AddrPort) bool {
	ip := a.Addr()
	if ip.IsLoopback() && !namedBy.Addr().IsLoopback() || ip.IsLinkLocalUnicast() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.ourselves[a]
}
