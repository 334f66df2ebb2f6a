package datapath

import (
	"errors"
	"time"

	"icvpn/internal/datapath/plpmtud"
	"icvpn/internal/underlay"
)

// Prober keeps a tunnel's MTU at what its path carries: a plpmtud.Machine whose
// probes are dummies of the tunnel. It belongs to one goroutine of the conductor,
// which
//
//   - installs every Way through SetWay of the Prober,
//   - calls Start when the peer was heard, on a new path too,
//   - sends the peer's Opened.Dummy back to it in an authenticated message, if
//     that is at least MinProbe, and calls Answered with what such a message says,
//   - calls Sent now and then while Owner.Sealed reports traffic, with TooLong if
//     there was any,
//   - calls Tick at Deadline. While the tunnel is idle there is none.
type Prober struct {
	t       *Tunnel
	m       *plpmtud.Machine
	started bool
	size    int // of the probe under way: outer packet
	length  int // and datagram, as it was really sent
}

// MinProbe is the least datagram of a probe: shorter dummies need no answer.
const MinProbe = plpmtud.DefaultMin - outer6 - 16

const (
	outer4 = 20 + 8 // IPv4 and UDP header
	outer6 = 40 + 8
)

// NewProber returns a Prober for t that does nothing yet.
func NewProber(t *Tunnel, c plpmtud.Config) *Prober {
	return &Prober{t: t, m: plpmtud.New(c)}
}

// MTU returns the path MTU in use, of outer packets.
func (p *Prober) MTU() int { return p.m.MTU() }

// SetWay is Tunnel.SetWay with the MTU filled in. It takes w; nil is allowed.
func (p *Prober) SetWay(w *Way) {
	if w != nil {
		w.MTU = p.inner(w)
	}
	p.t.SetWay(w)
}

// inner returns the longest inner packet for a way.
func (p *Prober) inner(w *Way) int {
	return w.SA.Suite().MaxInner(p.m.MTU(), w.Path.Addr().Is6())
}

// Start begins or begins again: nothing is known of the path.
func (p *Prober) Start(now time.Time) {
	p.started = true
	p.follow(now, p.m.Start(now))
}

// Answered says that the peer got a dummy whose datagram was length bytes long.
func (p *Prober) Answered(now time.Time, length int) {
	if p.length != 0 && length == p.length {
		p.follow(now, p.m.Acked(now, p.size))
	}
}

// Sent says that there is traffic. tooLong is Sealed.TooLong.
func (p *Prober) Sent(now time.Time, tooLong int) {
	if tooLong > 0 && p.started {
		if w := p.t.Way(); w != nil {
			p.follow(now, p.m.TooBig(now, tooLong+outerLen(w)-1))
		}
	}
	p.follow(now, p.m.Sent(now))
}

// Tick is to be called at Deadline.
func (p *Prober) Tick(now time.Time) { p.follow(now, p.m.Tick(now)) }

// Deadline returns when Tick is to be called, zero if never.
func (p *Prober) Deadline() time.Time { return p.m.Deadline() }

// follow does what the machine wants.
func (p *Prober) follow(now time.Time, o plpmtud.Output) {
	mtu := o.Changed
	for o.Probe != 0 {
		size := o.Probe
		err := p.probe(now, size)
		o = plpmtud.Output{}
		if errors.Is(err, underlay.ErrTooLong) {
			o = p.m.Refused(now, size)
			mtu = mtu || o.Changed
		}
		// Any other error is a probe lost: the machine's timer sees to it.
	}
	if w := p.t.Way(); mtu && w != nil {
		next := *w
		p.SetWay(&next)
	}
}

// probe sends a dummy whose outer packet is of that size, or the few bytes less
// that the suite's alignment asks for: data has the same alignment, so none of it
// can be longer.
func (p *Prober) probe(now time.Time, size int) (err error) {
	w := p.t.Way()
	if w == nil {
		return ErrNoSA
	}
	p.size = size
	p.length, err = p.t.Dummy(now, size-outerLen(w))
	return err
}

func outerLen(w *Way) int {
	if w.Path.Addr().Is6() {
		return outer6
	}
	return outer4
}
