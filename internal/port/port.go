// Package port is the one UDP port of a process: it seals and opens control
// datagrams and hands everything else on as RFC 3948 tells it apart.
//
//	underlay.Reader ─> Classify ─┬─ ESP ───────> Handlers.ESP      (whole runs)
//	                             ├─ control ───> seal.Rings.Open ─> Handlers.Control
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
	// ESP borrows a run of ESP datagrams until it returns.
	ESP func(ms []underlay.Message)
	// Control borrows o.Payload until it returns. The datagram is authentic as
	// some member's, and no answer may be longer than o.Room.
	Control func(o seal.Opened, from netip.AddrPort)
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

// readLoop is one address family's receive path.
func (p *Port) readLoop(r underlay.Reader, h Handlers) error {
	batch := underlay.NewBatch(underlay.BatchSize, underlay.DefaultBuffer)
	for {
		n, err := r.ReadBatch(batch)
		if err != nil {
			p.conn.Close() // one family gone: the other must not run on alone
			return err
		}
		p.dispatch(batch[:n], h)
	}
}

// dispatch hands runs of ESP on as they stand, so that a batch crosses as one.
func (p *Port) dispatch(ms []underlay.Message, h Handlers) {
	run := 0 // start of the current run of ESP
	for i := range ms {
		if underlay.Classify(ms[i].Bytes()) == underlay.ESP {
			continue
		}
		p.flush(ms[run:i], h)
		run = i + 1
		p.other(&ms[i], h)
	}
	p.flush(ms[run:], h)
}

func (p *Port) flush(ms []underlay.Message, h Handlers) {
	if len(ms) > 0 && h.ESP != nil {
		h.ESP(ms)
	}
}

func (p *Port) other(m *underlay.Message, h Handlers) {
	switch underlay.Classify(m.Bytes()) {
	case underlay.Control:
		if o, drop := p.rings.Open(time.Now(), m.Bytes()); drop == seal.Passed {
			h.Control(o, m.Addr)
		}
	case underlay.Keepalive:
		p.stats.Keepalives.Add(1)
	default:
		p.stats.Junk.Add(1)
	}
}
