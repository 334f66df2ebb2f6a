package node

import (
	"errors"
	"net/netip"
	"time"

	"icvpn/esp"
	"icvpn/internal/datapath"
	"icvpn/internal/datapath/plpmtud"
	"icvpn/internal/relay"
	"icvpn/internal/underlay"
)

// The path MTU of a tunnel (RFC 8899). Datagrams go out with DF; the machine of
// package plpmtud says which lengths to try, dummy packets try them, and the
// peer says what arrived. All of it on the control loop, but the first look at
// what arrived.
//
//	probe:  upkeep ─> tendMTU ─> Machine.Tick ─> Tunnel.Dummy
//	peer:   Opened.Dummy ─> signal ─> noticeArrived
//	here:   noticeArrived ─> Machine.Acked ─> Way.MTU
//
// Until the first probe has been lost, packets of the interface's full MTU go
// out unproved: most paths take them, and a connection whose SYN came first
// would otherwise keep small segments for ever.

// pathMTU is what a tunnel knows of its path. Control loop only.
type pathMTU struct {
	machine *plpmtud.Machine
	path    netip.AddrPort
	doubted bool // something did not get through
	probe   int  // length of the datagram under way ...
	size    int  // ... and the outer packet that it stands for
}

// mtuLook is how often traffic makes the machine look at its path.
const mtuLook = 5 * time.Second

// probeLeast is the length from which a dummy may be a probe, alignment taken off;
// those that keep a tunnel alive are shorter.
var probeLeast = plpmtud.DefaultMin - esp.OuterLen(true) - 16

func outerLen(path netip.AddrPort) int { return esp.OuterLen(path.Addr().Is6()) }

// startMTU begins the search on a new path. A rekey keeps what is known.
func (n *Node) startMTU(t *tunnel, p *saPair, now time.Time) {
	if t.mtu.machine != nil && t.mtu.path == p.path {
		n.setWay(t, p)
		return
	}
	suite := esp.Suite(p.result.Suite)
	longest := n.deviceMTU + suite.Overhead(n.deviceMTU, p.path.Addr().Is6())
	config := plpmtud.Config{Max: longest}
	if relay.IsVirtual(p.path) {
		// Sizes are those of IPv6 packets without the relay's header; on either leg they
		// are longer by that, at most.
		config.Base = plpmtud.DefaultBase - relay.HeaderLen
	}
	t.mtu = pathMTU{path: p.path, machine: plpmtud.New(config)}
	n.setWay(t, p)
	n.onMTU(t, t.mtu.machine.Start(now), now)
}

// setWay puts a pair and what is known of the path in force.
func (n *Node) setWay(t *tunnel, p *saPair) {
	m := n.deviceMTU
	if proved := t.mtu.machine.Deadline().IsZero(); proved || t.mtu.doubted {
		m = min(m, esp.Suite(p.result.Suite).MaxInner(t.mtu.machine.MTU(), p.path.Addr().Is6()))
	}
	t.path.SetWay(&datapath.Way{SA: p.out, Path: p.path, MTU: m})
}

// onMTU does what the machine wants.
func (n *Node) onMTU(t *tunnel, out plpmtud.Output, now time.Time) {
	for out.Probe > 0 {
		t.mtu.size = out.Probe
		sent, err := t.path.Dummy(now, out.Probe-outerLen(t.mtu.path))
		if t.mtu.probe = sent; !errors.Is(err, underlay.ErrTooLong) {
			break
		}
		t.mtu.doubted = true
		out = t.mtu.machine.Refused(now, out.Probe)
	}
	p := t.current()
	w := t.path.Way()
	if p == nil || w == nil {
		return
	}
	if n.setWay(t, p); t.path.Way().MTU != w.MTU {
		path, _ := n.shown(p.path)
		n.log.Info("path MTU", "peer", t.name(), "addr", path, "mtu", t.path.Way().MTU)
	}
	n.upkeepAt = now // its deadline may be the next thing to do
}

// tendMTU repeats probes, and looks at the path while there is traffic.
func (n *Node) tendMTU(t *tunnel, now time.Time) {
	m := t.mtu.machine
	if m == nil || t.current() == nil {
		return
	}
	if d := m.Deadline(); !d.IsZero() && !now.Before(d) {
		t.mtu.doubted = true
		n.onMTU(t, m.Tick(now), now)
		return
	}
	if now.UnixNano()-t.stats.lastTx.Load() < int64(mtuLook) {
		if out := m.Sent(now); out.Probe > 0 {
			n.onMTU(t, out, now)
		}
	}
}

// onTooLong is told that the interface was too small for a datagram of length.
func (n *Node) onTooLong(t *tunnel, length int) {
	if m := t.mtu.machine; m != nil && t.current() != nil {
		t.mtu.doubted = true
		now := time.Now()
		n.onMTU(t, m.TooBig(now, length+outerLen(t.mtu.path)-1), now)
	}
}

// onArrived is the peer's word that a dummy of some length arrived.
func (n *Node) onArrived(t *tunnel, length int) {
	if m := t.mtu.machine; m != nil && length == t.mtu.probe {
		now := time.Now()
		n.onMTU(t, m.Acked(now, t.mtu.size), now)
	}
}

// sawDummy tells the peer which long dummy arrived. Called by the data path.
func (t *tunnel) sawDummy(sa *esp.Inbound, length int) {
	if length < probeLeast || t.arrived.Swap(int32(length)) != 0 {
		return // an answer is on its way already, about this one or one before
	}
	t.node.signal(func() {
		length := t.arrived.Swap(0)
		for _, p := range t.pairs {
			if p.in == sa {
				t.node.sendNotice(t, p, noticeArrived, uint16(length))
			}
		}
	})
}
