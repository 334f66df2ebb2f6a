package datapath

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/esp"
	"icvpn/internal/datapath/plpmtud"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
)

// probing is an end whose conductor runs a prober, as a node's control loop
// would; the authenticated answer crosses by hand, after a latency.
type probing struct {
	*end
	mu     sync.Mutex
	prober *prober
	peer   *probing
	timer  *time.Timer
	heard  bool
}

const latency = 20 * time.Millisecond

func newProbing(e *end) *probing {
	p := &probing{end: e}
	e.tunnel.owner = p
	p.prober = newProber(e.tunnel, plpmtud.Config{Max: 9000})
	p.prober.setWay(e.tunnel.Way())
	return p
}

func (p *probing) locked(f func(now time.Time)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(time.Now())
	if d := p.prober.deadline(); !d.IsZero() {
		if p.timer != nil {
			p.timer.Stop()
		}
		p.timer = time.AfterFunc(time.Until(d), func() { p.locked(p.prober.tick) })
	}
}

func (p *probing) Outbound([]byte, time.Time) bool { return true }
func (p *probing) Inbound([]byte, time.Time) bool  { return true }
func (p *probing) NoSA([]byte)                     {}

func (p *probing) Sealed(s Sealed) {
	go p.locked(func(now time.Time) { p.prober.sent(now, s.TooLong) })
}

func (p *probing) Opened(o Opened) {
	if o.Dummy >= minProbe {
		time.AfterFunc(latency, func() {
			p.peer.locked(func(now time.Time) { p.peer.prober.answered(now, o.Dummy) })
		})
	}
	if !p.heard {
		p.heard = true
		go p.locked(p.prober.start)
	}
}

// Traffic under a path MTU that changes between 1280 and 9000: whatever is on
// the way when it shrinks is lost, but packets of every size soon pass again, or
// their sender is told; and the size in use comes close to what passes.
func TestTrafficFollowsThePathMTU(t *testing.T) {
	suites := []esp.Suite{esp.AES128CBCSHA256, esp.AES128GCM}
	if testing.Short() {
		suites = suites[:1]
	}
	for _, suite := range suites {
		t.Run(suite.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { followPath(t, suite) })
		})
	}
}

func followPath(t *testing.T, suite esp.Suite) {
	ea, eb, net := newPair(t, simnet.Config{}, suite, Policy{}, 0)
	ea.bufSize, eb.bufSize = underlay.TrainBuffer, underlay.TrainBuffer
	a, b := newProbing(ea), newProbing(eb)
	a.peer, b.peer = b, a
	a.start()
	b.start()
	defer func() { // in the bubble, before it ends
		a.stop()
		b.stop()
		for _, p := range []*probing{a, b} {
			p.mu.Lock()
			if p.timer != nil {
				p.timer.Stop()
			}
			p.mu.Unlock()
		}
	}()
	set := func(mtu int) {
		link := simnet.Link{Latency: latency, MTU: mtu - esp.OuterLen(false), Interface: 9000 - esp.OuterLen(false)}
		net.SetLink(addrA, addrB, link)
		net.SetLink(addrB, addrA, link)
	}
	seq := uint32(0)
	exchange := func(rounds int, every time.Duration) (lost int) {
		for range rounds {
			size := 60 + int(seq)*977%8900
			p := udp(in4A, in4B, seq, size)
			seq++
			a.dev.in <- [][]byte{p}
			b.dev.in <- [][]byte{udp(in4B, in4A, seq, 100)}
			time.Sleep(every)
			synctest.Wait()
			b.dev.mu.Lock()
			got := b.dev.out
			b.dev.out = nil
			b.dev.mu.Unlock()
			total := 0
			for _, f := range got {
				total += len(f) - 20
			}
			if total != len(p)-20 {
				lost++
			}
		}
		return lost
	}
	for _, mtu := range []int{1500, 9000, 1400, 8951, 1280, 4000, 1500} {
		set(mtu)
		exchange(6*60, 2*time.Second)                             // the raise timer is ten minutes
		if got := a.prober.mtu(); got >= mtu+16 || got < mtu-16 { // the suite's alignment
			t.Errorf("path %d: MTU %d (%v)", mtu, got, a.prober.m)
		}
		if lost := exchange(100, 100*time.Millisecond); lost > 0 {
			t.Errorf("path %d: %d of 100 packets lost once the MTU is known", mtu, lost)
		}
	}
}

// prober keeps a tunnel's MTU at what its path carries, as a conductor would: a
// plpmtud.Machine whose probes are dummies of the tunnel. Its user
//
//   - installs every Way through setWay of the prober,
//   - calls start when the peer was heard, on a new path too,
//   - sends the peer's Opened.Dummy back to it in an authenticated message, if
//     that is at least minProbe, and calls answered with what such a message says,
//   - calls sent now and then while Owner.Sealed reports traffic, with TooLong if
//     there was any,
//   - calls tick at deadline. While the tunnel is idle there is none.
type prober struct {
	t       *Tunnel
	m       *plpmtud.Machine
	started bool
	size    int // of the probe under way: outer packet
	length  int // and datagram, as it was really sent
}

// minProbe is the least datagram of a probe: shorter dummies need no answer.
var minProbe = plpmtud.DefaultMin - esp.OuterLen(true) - 16

// newProber returns a prober for t that does nothing yet.
func newProber(t *Tunnel, c plpmtud.Config) *prober {
	return &prober{t: t, m: plpmtud.New(c)}
}

// mtu returns the path MTU in use, of outer packets.
func (p *prober) mtu() int { return p.m.MTU() }

// setWay is Tunnel.SetWay with the MTU filled in. It takes w; nil is allowed.
func (p *prober) setWay(w *Way) {
	if w != nil {
		w.MTU = p.inner(w)
	}
	p.t.SetWay(w)
}

// inner returns the longest inner packet for a way.
func (p *prober) inner(w *Way) int {
	return w.SA.Suite().MaxInner(p.m.MTU(), w.Path.Addr().Is6())
}

// start begins or begins again: nothing is known of the path.
func (p *prober) start(now time.Time) {
	p.started = true
	p.follow(now, p.m.Start(now))
}

// answered says that the peer got a dummy whose datagram was length bytes long.
func (p *prober) answered(now time.Time, length int) {
	if p.length != 0 && length == p.length {
		p.follow(now, p.m.Acked(now, p.size))
	}
}

// sent says that there is traffic. tooLong is Sealed.TooLong.
func (p *prober) sent(now time.Time, tooLong int) {
	if tooLong > 0 && p.started {
		if w := p.t.Way(); w != nil {
			p.follow(now, p.m.TooBig(now, tooLong+outerLen(w)-1))
		}
	}
	p.follow(now, p.m.Sent(now))
}

// tick is to be called at Deadline.
func (p *prober) tick(now time.Time) { p.follow(now, p.m.Tick(now)) }

// deadline returns when Tick is to be called, zero if never.
func (p *prober) deadline() time.Time { return p.m.Deadline() }

// follow does what the machine wants.
func (p *prober) follow(now time.Time, o plpmtud.Output) {
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
		p.setWay(&next)
	}
}

// probe sends a dummy whose outer packet is of that size, or the few bytes less
// that the suite's alignment asks for: data has the same alignment, so none of it
// can be longer.
func (p *prober) probe(now time.Time, size int) (err error) {
	w := p.t.Way()
	if w == nil {
		return ErrNoSA
	}
	p.size = size
	p.length, err = p.t.Dummy(now, size-outerLen(w))
	return err
}

func outerLen(w *Way) int { return esp.OuterLen(w.Path.Addr().Is6()) }
