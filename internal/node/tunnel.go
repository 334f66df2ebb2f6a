package node

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/esp"
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
// every member we know; goroutines and queues only while there is traffic.
type tunnel struct {
	node *Node
	pid  id.ID

	// read by everyone
	member atomic.Pointer[service.Member]
	pair   atomic.Pointer[filter.Pair]
	out    atomic.Pointer[outbound]    // nil: no SA to send on
	queues atomic.Pointer[queues]      // nil: no goroutines
	heard  atomic.Pointer[esp.Inbound] // SA of the last authentic batch
	armed  atomic.Bool                 // upkeep watches whether the peer answers
	ending atomic.Bool                 // an SA has said that its life ends
	stats  tunnelStats

	// owned by controlLoop
	state       tunnelState
	pairs       []*saPair // newest first
	installed   int       // pairs ever installed
	endpoints   []netip.AddrPort
	entries     []entry             // what super peers say of the peer
	holder      id.ID               // issuer of the entry in force
	credential  *service.Credential // of the last key exchange, nil before
	retryAt     time.Time           // not before this is a failed connection tried again
	retryWait   time.Duration
	failure     string // why the last attempt failed, for people
	rekeying    bool
	handshake   time.Time
	probes      int // unanswered
	lastProbe   time.Time
	wantedSince time.Time // first packet that asked for a connection and got none yet

	// guarded by stagedMu
	stagedMu sync.Mutex
	staged   []*buffer // inner packets at esp.Headroom
	sizes    []int
}

// tunnelStats are read by anyone.
type tunnelStats struct {
	rxPackets, rxBytes, txPackets, txBytes atomic.Uint64
	lastRx, lastTx                         atomic.Int64 // Unix ns of the last authentic packet and of the last one sent
	lastData                               atomic.Int64 // of the last packet for or from the TUN device
}

// outbound is where the send loop sends: replaced as a whole.
type outbound struct {
	sa   *esp.Outbound
	path netip.AddrPort
}

// queues are a tunnel's goroutines' inputs.
type queues struct {
	sendIn, receiveIn *queue
	cancel            context.CancelFunc
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
	stampOut  uint64 // of the last notice sent on the pair
	stampIn   uint64 // of the last notice accepted
}

func (t *tunnel) name() string {
	if m := t.member.Load(); m != nil {
		return m.Name
	}
	return t.pid.Short()
}

// stage keeps a packet until there is an SA, dropping the oldest when full. It
// takes buf.
func (t *tunnel) stage(buf *buffer, size int) {
	t.stagedMu.Lock()
	defer t.stagedMu.Unlock()
	if len(t.staged) == maxStaged {
		buffers.Put(t.staged[0])
		t.staged, t.sizes = t.staged[1:], t.sizes[1:]
		t.node.stats.stagedDrops.Add(1)
	}
	t.staged, t.sizes = append(t.staged, buf), append(t.sizes, size)
}

func (t *tunnel) hasStaged() bool {
	t.stagedMu.Lock()
	defer t.stagedMu.Unlock()
	return len(t.staged) > 0
}

// unstage returns what was staged as batches.
func (t *tunnel) unstage() (all []*batch) {
	t.stagedMu.Lock()
	defer t.stagedMu.Unlock()
	for i, buf := range t.staged {
		if i%batchSize == 0 {
			all = append(all, newBatch())
		}
		all[len(all)-1].add(buf, esp.Headroom, t.sizes[i])
	}
	t.staged, t.sizes = nil, nil
	return all
}

// queue is the way of batches to one of a tunnel's goroutines.
type queue struct {
	batches chan *batch
	waiting atomic.Int32 // packets in it
}

func newQueue() *queue { return &queue{batches: make(chan *batch, tunnelBatches)} }

// put takes b; false, with b untouched, when the queue is full.
func (q *queue) put(b *batch) bool {
	if q.waiting.Add(int32(b.n)) <= tunnelQueue {
		select {
		case q.batches <- b:
			return true
		default:
		}
	}
	q.waiting.Add(-int32(b.n))
	return false
}

// serve lends every batch to handle and releases it, until ctx ends; what is
// left then is released.
func (q *queue) serve(ctx context.Context, handle func(*batch)) {
	for {
		select {
		case <-ctx.Done():
			for len(q.batches) > 0 {
				(<-q.batches).release()
			}
			return
		case b := <-q.batches:
			q.waiting.Add(-int32(b.n))
			handle(b)
			b.release()
		}
	}
}

// send queues a batch for the send loop; full means drop and count.
func (t *tunnel) send(b *batch) {
	if q := t.queues.Load(); q == nil || !q.sendIn.put(b) {
		t.node.stats.queueDrops.Add(uint64(b.n))
		b.release()
	}
}

// receive queues a batch for the receive loop; full means drop and count.
func (t *tunnel) receive(b *batch) {
	if q := t.queues.Load(); q == nil || !q.receiveIn.put(b) {
		t.node.stats.queueDrops.Add(uint64(b.n))
		b.release()
	}
}

// start gives the tunnel its goroutines. Control loop only.
func (t *tunnel) start() {
	if t.queues.Load() != nil {
		return
	}
	ctx, cancel := context.WithCancel(t.node.ctx)
	q := &queues{sendIn: newQueue(), receiveIn: newQueue(), cancel: cancel}
	t.queues.Store(q)
	t.node.loops.Go(func() { t.sendLoop(ctx, q.sendIn) })
	t.node.loops.Go(func() { t.receiveLoop(ctx, q.receiveIn) })
}

// stop ends the tunnel's goroutines. Control loop only.
func (t *tunnel) stop() {
	if q := t.queues.Swap(nil); q != nil {
		q.cancel()
	}
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
