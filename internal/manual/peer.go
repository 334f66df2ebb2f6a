package manual

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"icvpn/esp"
	"icvpn/internal/datapath"
	"icvpn/internal/ippkt"
)

// peer is the other end of one tunnel.
type peer struct {
	// set at start
	cfg    *Tunnel
	run    *runner
	tunnel *datapath.Tunnel
	out    *esp.Outbound
	in     *esp.Inbound

	mtu int // inner; owned by upkeepLoop once it runs

	sent, received esp.Stats
	heardAt        atomic.Int64 // Unix ns of the last authentic packet
	lookedAt       atomic.Int64 // Unix ns of the last look at the path
	outEnded       atomic.Bool
	inEnded        atomic.Bool
}

var _ datapath.Owner = (*peer)(nil)

// Outbound implements datapath.Owner: the routes have decided.
func (p *peer) Outbound([]byte, time.Time) bool { return true }

// Inbound implements datapath.Owner. The source must be one whose answers would
// go to this very peer, the destination ours (RFC 4301, Section 5.2, step 4).
func (p *peer) Inbound(pkt []byte, _ time.Time) bool {
	src, dst, ok := ippkt.Endpoints(pkt)
	if !ok || p.run.routes.find(src) != p || !p.run.local.contains(dst) {
		p.received.CountDrop(esp.DropSource)
		return false
	}
	return true
}

// NoSA implements datapath.Owner; a manual tunnel always has one.
func (p *peer) NoSA([]byte) {}

// Sealed implements datapath.Owner.
func (p *peer) Sealed(s datapath.Sealed) {
	if s.Life == esp.LifeExpired && !p.outEnded.Swap(true) {
		p.run.log.Error("the outbound SA has reached its limit and sends no more; give both ends new keys", "peer", p.cfg.Name)
	}
	gap := pathEvery
	if s.TooLong > 0 {
		gap = pathGap
	}
	now, last := s.Now.UnixNano(), p.lookedAt.Load()
	if !p.run.cfg.fixedMTU() && now-last >= int64(gap) && p.lookedAt.CompareAndSwap(last, now) {
		select {
		case p.run.poke <- struct{}{}:
		default:
		}
	}
}

// Opened implements datapath.Owner.
func (p *peer) Opened(o datapath.Opened) {
	if o.Life == esp.LifeExpired && !p.inEnded.Swap(true) {
		p.run.log.Error("the inbound SA has reached its limit and receives no more; give both ends new keys", "peer", p.cfg.Name)
	}
	if o.Authentic > 0 && p.heardAt.Swap(o.Now.UnixNano()) == 0 {
		p.run.log.Info("the peer is heard", "peer", p.cfg.Name, "addr", o.From)
	}
}

// keepaliveLoop sends a dummy whenever nothing went out for a while: it keeps a
// NAT's mapping, and shows the peer that we are there. Unlike RFC 3948's one
// byte it is authentic, and looks like any other packet.
func (p *peer) keepaliveLoop(ctx context.Context) error {
	every := p.cfg.Keepalive
	t := time.NewTicker(every)
	defer t.Stop()
	last := p.out.LastSeq()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			if p.out.LastSeq() == last {
				// A dummy lost, or not sent, is followed by the next.
				_, _ = p.tunnel.Dummy(now, 0)
			}
			last = p.out.LastSeq()
		}
	}
}

// innerMTU returns the longest inner packet that fits the path as the kernel
// knows it.
func (p *peer) innerMTU(ctx context.Context) int {
	c := p.run.cfg
	if c.fixedMTU() {
		return c.MTU
	}
	_, path, err := pathTo(ctx, c.Listen.Addr(), p.cfg.Remote)
	if err != nil {
		// No route yet, perhaps: what every Ethernet carries.
		path = defaultPath
	}
	// Whoever guesses our ports can forge "fragmentation needed", so no path is
	// believed to be smaller than IPv6 allows.
	path = max(path, minMTU)
	most := maxMTU
	if c.MTU != 0 {
		most = c.MTU
	}
	return min(p.cfg.Suite.MaxInner(path, p.cfg.Remote.Addr().Is6()), most)
}

// defaultPath is the MTU of a path of which nothing is known.
const defaultPath = 1500

// lookAtPaths follows the paths' MTUs. Upkeep loop only.
func (r *runner) lookAtPaths(ctx context.Context) {
	changed := false
	for _, p := range r.peers {
		mtu := p.innerMTU(ctx)
		if mtu == p.mtu || mtu <= 0 {
			continue
		}
		r.log.Info("the path's MTU has changed", "peer", p.cfg.Name, "mtu", mtu)
		p.mtu, changed = mtu, true
		p.tunnel.SetWay(&datapath.Way{SA: p.out, Path: p.cfg.Remote, MTU: mtu})
	}
	if changed {
		r.setFragmentation()
	}
}

// setFragmentation turns fragmentation of outer packets on only if it was asked
// for, or if without it IPv6 inside could not pass: no link may be smaller for
// it than 1280 bytes (RFC 8200, Section 5; RFC 2473, Section 7.1).
func (r *runner) setFragmentation() {
	fragment := r.cfg.Fragment
	for _, p := range r.peers {
		if p.mtu < minMTU && slices.ContainsFunc(p.cfg.Routes, func(n netip.Prefix) bool { return n.Addr().Is6() }) {
			fragment = true
		}
	}
	if err := r.conn.SetDontFragment(!fragment); err != nil {
		r.log.Warn("outer packets may be fragmented", "err", err)
	}
}

// routes is a small table of prefixes, longest first.
type routes []route

type route struct {
	prefix netip.Prefix
	to     *peer
}

func (r *routes) add(prefix netip.Prefix, to *peer) {
	*r = append(*r, route{prefix, to})
	slices.SortStableFunc(*r, func(a, b route) int { return b.prefix.Bits() - a.prefix.Bits() })
}

func (r routes) find(a netip.Addr) *peer {
	for i := range r {
		if r[i].prefix.Contains(a) {
			return r[i].to
		}
	}
	return nil
}

func (r routes) contains(a netip.Addr) bool {
	for i := range r {
		if r[i].prefix.Contains(a) {
			return true
		}
	}
	return false
}
