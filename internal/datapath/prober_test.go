package datapath

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/esp"
	"icvpn/internal/datapath/plpmtud"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
)

// probing is an end whose conductor runs a Prober, as a node's control loop
// would; the authenticated answer crosses by hand, after a latency.
type probing struct {
	*end
	mu     sync.Mutex
	prober *Prober
	peer   *probing
	timer  *time.Timer
	heard  bool
}

const latency = 20 * time.Millisecond

func newProbing(e *end) *probing {
	p := &probing{end: e}
	e.tunnel.owner = p
	p.prober = NewProber(e.tunnel, plpmtud.Config{Max: 9000})
	p.prober.SetWay(e.tunnel.Way())
	return p
}

func (p *probing) locked(f func(now time.Time)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(time.Now())
	if d := p.prober.Deadline(); !d.IsZero() {
		if p.timer != nil {
			p.timer.Stop()
		}
		p.timer = time.AfterFunc(time.Until(d), func() { p.locked(p.prober.Tick) })
	}
}

func (p *probing) Outbound([]byte, time.Time) bool { return true }
func (p *probing) Inbound([]byte, time.Time) bool  { return true }
func (p *probing) NoSA([]byte)                     {}

func (p *probing) Sealed(s Sealed) {
	go p.locked(func(now time.Time) { p.prober.Sent(now, s.TooLong) })
}

func (p *probing) Opened(o Opened) {
	if o.Dummy >= MinProbe {
		time.AfterFunc(latency, func() {
			p.peer.locked(func(now time.Time) { p.peer.prober.Answered(now, o.Dummy) })
		})
	}
	if !p.heard {
		p.heard = true
		go p.locked(p.prober.Start)
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
		link := simnet.Link{Latency: latency, MTU: mtu - outer4, Interface: 9000 - outer4}
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
		if got := a.prober.MTU(); got >= mtu+16 || got < mtu-16 { // the suite's alignment
			t.Errorf("path %d: MTU %d (%v)", mtu, got, a.prober.m)
		}
		if lost := exchange(100, 100*time.Millisecond); lost > 0 {
			t.Errorf("path %d: %d of 100 packets lost once the MTU is known", mtu, lost)
		}
	}
}
