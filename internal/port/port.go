// Package port is the one UDP port of a process: it seals and opens control
// datagrams and hands everything else on as RFC 3948 tells it apart.
//
//	underlay.Reader ─> Classify ─┬─ ESP ───────> Handlers.ESP      (whole runs and trains)
//	                             ├─ control ───> seal.Rings.Open ─> Handlers.Control
//	                             ├─ relayed ───> Handlers.Relayed  (whole messages and trains)
//	                             └─ keepalive, junk: counted
//
// Peers and super peers both stand on it. It knows neither what a tunnel is nor
// what a DHT message means.
package port

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/internal/seal"
	"icvpn/internal/underlay"
)

// Conn is what a Port needs of the underlay: underlay.Conn or simnet.Conn.
type Conn interface {
	Readers() []underlay.Reader
	WriteBatch([]underlay.Message) (int, error)
	Port() uint16
	Close() error
}

// Handlers receive what arrives. They are called from the reader goroutines,
// one per address family, and must not block.
type Handlers struct {
	// ESP borrows a run of messages until it returns. Each holds one ESP
	// datagram or a train of them, which may be of several SPIs. It may work in
	// place, and keep a buffer by replacing ms[i].Buf with another one of the
	// same length: underlay.TrainBuffer. A train fills much of its buffer, so
	// keep that one; a single datagram is cheaper copied out than a buffer of
	// this size kept for it.
	ESP func(ms []underlay.Message)
	// Control borrows o.Payload until it returns. The datagram is authentic as
	// some member's, and no answer may be longer than o.Room.
	Control func(o seal.Opened, from netip.AddrPort)
	// Relayed borrows a message that begins with a relayed datagram, until it returns.
	// What else it holds, if it is a train, is the handler's to judge. May be nil; then
	// it is junk. What is relayed to this process never gets here: relay.Conn.
	Relayed func(ms []underlay.Message)
	// Unknown hears that there was a control datagram under a key that no ring ever
	// had; it is counted already, and anybody can send one. May be nil.
	Unknown func()
	// Unclaimed borrows a control datagram that no ring has a key for: a Guest's. May
	// be nil; then they are counted.
	Unclaimed func(d []byte, from netip.AddrPort)
}

// Stats counts what Port itself drops. Sealing counts in seal.Stats.
type Stats struct {
	Junk, Keepalives atomic.Uint64
}

// Port conducts one socket pair. Make one with New; Run starts it.
type Port struct {
	conn    Conn
	rings   *seal.Rings
	stats   Stats
	scratch sync.Pool // of *scratch
}

// scratch is what one control datagram needs on its way out.
type scratch struct {
	buf [seal.MaxDatagram]byte
	ms  [1]underlay.Message
}

// New returns a Port on conn that opens with rings. It takes conn.
func New(conn Conn, rings *seal.Rings) *Port {
	p := &Port{conn: conn, rings: rings}
	p.scratch.New = func() any { return new(scratch) }
	return p
}

// Number returns the UDP port number.
func (p *Port) Number() uint16 { return p.conn.Port() }

// Stats returns the live counters.
func (p *Port) Stats() *Stats { return &p.stats }

// Unclaimed counts the control datagrams that no ring claimed.
func (p *Port) Unclaimed() *seal.Stats { return p.rings.Stats() }

// Close closes the sockets, which ends Run.
func (p *Port) Close() error { return p.conn.Close() }

// SendControl seals payload under an epoch of ring and sends it. It borrows
// payload.
func (p *Port) SendControl(ring *seal.Ring, typ seal.Type, epoch uint32, payload []byte, padTo int, to netip.AddrPort) error {
	s := p.scratch.Get().(*scratch)
	defer p.scratch.Put(s)
	b, err := ring.Seal(s.buf[:0], time.Now(), typ, epoch, payload, padTo)
	if err != nil {
		return err
	}
	s.ms[0] = underlay.Message{Buf: b, N: len(b), Addr: to}
	if _, err := p.conn.WriteBatch(s.ms[:]); err != nil {
		return err
	}
	return s.ms[0].Err
}

// WriteESP sends sealed ESP datagrams. It borrows ms.
func (p *Port) WriteESP(ms []underlay.Message) (int, error) { return p.conn.WriteBatch(ms) }

// Run reads until ctx ends or the socket breaks. It closes the sockets.
func (p *Port) Run(ctx context.Context, h Handlers) error {
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	defer stop()
	var g errgroup.Group
	for _, r := range p.conn.Readers() {
		g.Go(func() error { return p.readLoop(r, h) })
	}
	err := g.Wait()
	p.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// firstBatch is how many buffers a reader starts with; more come when all of
// them were filled at once. An address family without traffic, and one that
// receives in trains, never needs them.
const firstBatch = 8

// readLoop is one address family's receive path.
func (p *Port) readLoop(r underlay.Reader, h Handlers) error {
	batch := underlay.NewBatch(firstBatch, underlay.TrainBuffer)
	for {
		n, err := r.ReadBatch(batch)
		if err != nil {
			p.conn.Close() // one family gone: the other must not run on alone
			return err
		}
		p.dispatch(batch[:n], h)
		if n == len(batch) && n < underlay.BatchSize {
			batch = append(batch, underlay.NewBatch(n, underlay.TrainBuffer)...)
		}
	}
}

// dispatch hands runs of ESP on as they stand, so that a batch crosses as one.
func (p *Port) dispatch(ms []underlay.Message, h Handlers) {
	run := 0 // start of the current run of ESP
	for i := range ms {
		if allESP(&ms[i]) {
			continue
		}
		if h.Relayed != nil && beginsRelayed(&ms[i]) {
			p.flush(ms[run:i], h)
			run = i + 1
			h.Relayed(ms[i:run])
			continue
		}
		if p.sift(&ms[i], h); ms[i].N > 0 {
			continue
		}
		p.flush(ms[run:i], h)
		run = i + 1
	}
	p.flush(ms[run:], h)
}

func (p *Port) flush(ms []underlay.Message, h Handlers) {
	if len(ms) > 0 && h.ESP != nil {
		h.ESP(ms)
	}
}

// beginsRelayed reports whether the first datagram in m claims to be relayed.
func beginsRelayed(m *underlay.Message) bool {
	first := m.Bytes()
	if m.Segment > 0 {
		first = first[:m.Segment]
	}
	return underlay.Classify(first) == underlay.Relayed
}

// allESP reports whether m holds ESP and nothing else.
func allESP(m *underlay.Message) bool {
	for _, d := range m.Datagrams() {
		if underlay.Classify(d) != underlay.ESP {
			return false
		}
	}
	return m.N > 0
}

// sift deals with everything in m that is not ESP, and leaves a message of what
// is, in order, possibly empty. No honest sender mixes kinds in a train, but
// any sender can: the kernel coalesces by length alone.
func (p *Port) sift(m *underlay.Message, h Handlers) {
	kept := 0
	for _, d := range m.Datagrams() {
		if underlay.Classify(d) == underlay.ESP {
			kept += copy(m.Buf[kept:], d)
			continue
		}
		p.other(d, m.Addr, h)
	}
	if m.N == 0 {
		p.other(nil, m.Addr, h) // an empty datagram is one, too
	}
	if m.N = kept; m.Segment >= kept {
		m.Segment = 0
	}
}

// other takes d, a datagram that is not ESP.
func (p *Port) other(d []byte, from netip.AddrPort, h Handlers) {
	switch underlay.Classify(d) {
	case underlay.Control:
		if h.Unclaimed != nil && !p.rings.Claims(time.Now(), d) {
			h.Unclaimed(d, from)
			return
		}
		switch o, drop := p.rings.Open(time.Now(), d, from.Addr()); {
		case drop == seal.Passed:
			h.Control(o, from)
		case drop == seal.DropUnknown && h.Unknown != nil:
			h.Unknown()
		}
	case underlay.Keepalive:
		p.stats.Keepalives.Add(1)
	default:
		p.stats.Junk.Add(1)
	}
}
