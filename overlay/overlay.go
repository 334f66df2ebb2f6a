package overlay

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
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

// Overlay runs a Machine: it has the goroutine, the clock and the transport. Its
// methods may be called from several goroutines.
//
//	Deliver, Get, ... ──inbox──> loop ──> Machine ──Flush──> Transport
//	                               └──Wake──> timer
type Overlay struct {
	// Set by New.
	cfg   Config
	log   *slog.Logger
	stats *Stats
	wake  chan struct{} // something is in the inbox
	ready chan struct{} // closed with the first contact

	mu    sync.Mutex // guards what follows
	state state
	inbox []event

	// Owned by the loop while state is running, else guarded by mu.
	machine *Machine

	// Published by the loop after each step.
	nodes         atomic.Pointer[[]Node]
	version       uint64 // of the table that nodes is of
	items, stored atomic.Int64
}

// event is what the loop tells the machine: an opened datagram, the address it
// came from and the way back, or something to call.
type event struct {
	pkt  *[]byte
	from netip.AddrPort
	via  Transport
	call func(*Machine)
}

// fresh ──Run──> running ──ctx done──> ended
type state uint8

const (
	fresh state = iota
	running
	ended
)

// packets are buffers for datagrams on their way to a machine: idle nodes have
// none.
var packets = sync.Pool{New: func() any { b := make([]byte, 0, MaxPayload); return &b }}

// New returns a node. It starts nothing and sends nothing until Run.
func New(cfg Config) (*Overlay, error) {
	m, err := NewMachine(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Transport == nil {
		return nil, badField("Transport")
	}
	o := &Overlay{
		cfg:     m.cfg,
		log:     m.cfg.Logger,
		stats:   m.Stats(),
		wake:    make(chan struct{}, 1),
		ready:   make(chan struct{}),
		machine: m,
	}
	o.nodes.Store(new([]Node))
	return o, nil
}

// Run takes part in the overlay until ctx is done and returns nil then. It may be
// called once.
func (o *Overlay) Run(ctx context.Context) error {
	o.mu.Lock()
	if o.state != fresh {
		o.mu.Unlock()
		return errors.New("overlay: Run called twice")
	}
	o.state = running
	o.mu.Unlock()
	o.log.Info("overlay joined", "peer", o.cfg.Self, "addr", o.cfg.Local)
	o.machine.Start(o.cfg.Now())
	o.settle()
	o.loop(ctx)
	o.leave()
	o.log.Info("overlay left", "peer", o.cfg.Self)
	return nil
}

// loop owns the machine until ctx is done.
func (o *Overlay) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		o.step()
		timer.Reset(o.untilWake())
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-o.wake:
		}
	}
}

// step does what is due and what came in.
func (o *Overlay) step() {
	o.machine.Tick(o.cfg.Now())
	o.settle()
	for _, e := range o.takeInbox() {
		if e.call != nil {
			o.machine.at(o.cfg.Now())
			e.call(o.machine)
		} else {
			o.machine.Receive(o.cfg.Now(), *e.pkt, e.from, e.via)
			packets.Put(e.pkt)
		}
		o.settle()
	}
}

// maxWait is how long the loop sleeps when nothing is to be waited for.
const maxWait = time.Hour

func (o *Overlay) untilWake() time.Duration {
	wake := o.machine.Wake()
	if wake.IsZero() {
		return maxWait
	}
	return min(maxWait, max(0, wake.Sub(o.cfg.Now())))
}

func (o *Overlay) takeInbox() []event {
	o.mu.Lock()
	defer o.mu.Unlock()
	in := o.inbox
	o.inbox = nil
	return in
}

// settle sends what the machine has to send and publishes how it is.
func (o *Overlay) settle() {
	m := o.machine
	m.Flush(func(d Datagram) error {
		via := d.Via
		if via == nil {
			via = o.cfg.Transport
		}
		return via.WriteTo(d.Pkt, d.To)
	})
	items, bytes := m.Stored()
	o.items.Store(int64(items))
	o.stored.Store(int64(bytes))
	if v := m.table.version; v != o.version {
		o.version = v
		nodes := m.Nodes()
		o.nodes.Store(&nodes)
	}
	if m.Reached() {
		select {
		case <-o.ready:
		default:
			close(o.ready)
		}
	}
}

// leave ends every call, those that came in last as well.
func (o *Overlay) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state = ended
	o.machine.Stop(o.cfg.Now())
	for _, e := range o.inbox {
		if e.call != nil {
			e.call(o.machine)
		}
	}
	o.inbox = nil
}

// Deliver hands over an opened datagram from the network. It borrows pkt, never
// blocks and never fails: what cannot be taken is dropped and counted.
func (o *Overlay) Deliver(pkt []byte, from netip.AddrPort) { o.DeliverVia(pkt, from, o.cfg.Transport) }

// DeliverVia is Deliver with a transport of its own for the answer, if pkt is a
// query: one that seals under the epoch of the query, and drops what is larger
// than the query was. It takes via.
func (o *Overlay) DeliverVia(pkt []byte, from netip.AddrPort, via Transport) {
	o.stats.Received.Add(1)
	if len(pkt) > MaxPayload {
		o.stats.drop(o.ifRunning(DropTooLong))
		return
	}
	buf := packets.Get().(*[]byte)
	*buf = append((*buf)[:0], pkt...)
	if why := o.enqueue(event{pkt: buf, from: from, via: via}); why != DropNone {
		packets.Put(buf)
		o.stats.drop(why)
	}
}

func (o *Overlay) ifRunning(why Drop) Drop {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != running {
		return DropNotRunning
	}
	return why
}

// enqueue puts a datagram into the inbox.
func (o *Overlay) enqueue(e event) Drop {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.state != running:
		return DropNotRunning
	case len(o.inbox) >= packetQueue:
		return DropQueueFull
	}
	o.push(e)
	return DropNone
}

// tell has the loop call f soon, or does it at once if there is no loop. Calls are
// not bounded as datagrams are: they are by those who make them.
func (o *Overlay) tell(f func(*Machine)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state == running {
		o.push(event{call: f})
		return
	}
	o.machine.at(o.cfg.Now())
	f(o.machine)
}

// push appends to the inbox and wakes the loop. Called with mu held.
func (o *Overlay) push(e event) {
	o.inbox = append(o.inbox, e)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Ready returns a channel that is closed once a first node has answered.
func (o *Overlay) Ready() <-chan struct{} { return o.ready }

// Nodes returns the contacts that answered their last query, nearest to
// ourselves first. The slice is shared: it must not be changed.
func (o *Overlay) Nodes() []Node { return *o.nodes.Load() }

// Stats returns the counters.
func (o *Overlay) Stats() *Stats { return o.stats }

// Stored returns the number of items and chunks stored here and their bytes.
func (o *Overlay) Stored() (items, bytes int) { return int(o.items.Load()), int(o.stored.Load()) }
