package node

import (
	"context"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/relay"
	"icvpn/internal/underlay"
	"icvpn/keyex"
)

// How a tunnel comes to lead through a relay, and away from it again:
//
//	exchange ──relayAfter──> askRelays ─> allocation there ─> extend: M1 there, too
//	relayed ──directFirst, directEvery──> tryDirect ─┬─ knock, through the relay ─> onKnock
//	                                                 └─> key exchange without relays ─> direct
//	direct, behind a NAT ──natKept──> keepalive

// askRelays asks for allocations at the relays of a peer whose endpoints have been silent.
func (n *Node) askRelays(t *tunnel, now time.Time) {
	for _, r := range t.relays {
		if _, _, held := n.relaying.holdings.Held(r.PID); n.wantRelay(r.PID, now, relayKept) && held {
			n.extend(t, r.PID)
		}
	}
}

// extend sends M1 through a relay where we have an allocation now, if the peer of a tunnel
// can be reached there.
func (n *Node) extend(t *tunnel, pid id.ID) {
	_, addr, held := n.relaying.holdings.Held(pid)
	if !held || t.tryingDirect || !t.relayAt.IsZero() { // the endpoints still have their start
		return
	}
	for _, r := range t.relays {
		if r.PID == pid {
			path := keyex.Path{Addr: addr, Relay: relay.ID(r.Allocation).String()}
			n.act(n.machine.Extend(t.pid, []keyex.Path{path}))
		}
	}
}

// tendRelayed asks relays when endpoints have had their start, and looks for the direct way
// while a tunnel is relayed.
func (n *Node) tendRelayed(t *tunnel, now time.Time) {
	if !t.relayAt.IsZero() && !now.Before(t.relayAt) {
		t.relayAt = time.Time{}
		n.askRelays(t, now)
	}
	p := t.current()
	if p == nil || t.directAt.IsZero() || now.Before(t.directAt) || n.leaving {
		return
	}
	if at, _, ok := n.relaying.conn.Resolve(p.path); ok {
		n.relaying.holdings.Keep(at, now.Add(relayKept))
	}
	t.directAt = now.Add(directEvery)
	if pair := t.pair.Load(); pair.MayInitiate() && !t.rekeying && t.usedSince(now.Add(-directEvery)) {
		n.tryDirect(t, p)
	}
}

// watchDirect plans the next look for a direct way, for a tunnel that has become relayed,
// or is no more. A tunnel that fell back to a relay waits the longer time: its direct way
// may be one that keys get through and packets do not.
func (n *Node) watchDirect(t *tunnel, p *saPair, now time.Time) {
	switch {
	case !relay.IsVirtual(p.path):
		t.directAt, t.wasDirect = time.Time{}, true
	case t.directAt.IsZero() && t.wasDirect:
		t.directAt = now.Add(directEvery)
	case t.directAt.IsZero():
		t.directAt = now.Add(directFirst)
	}
}

// tryDirect begins a key exchange without relays, and tells the peer from where: what the
// peer then sends there opens its NAT for us, as ours does for it. Whatever comes of it, the
// tunnel stays as it is until it has a direct path.
func (n *Node) tryDirect(t *tunnel, p *saPair) {
	member := *t.member.Load()
	n.loops.Go(func() {
		ctx, cancel := context.WithTimeout(n.ctx, lookupTimeout)
		defer cancel()
		c, err := n.findContact(ctx, member)
		if err != nil {
			n.log.Debug("no other way than a relay is known", "peer", member.Name, "err", err)
			return
		}
		n.post(func() {
			if t.current() != p || t.rekeying || n.leaving {
				return
			}
			t.rekeying, t.tryingDirect = true, true
			own := n.endpoints()
			n.sendNotice(t, p, noticeKnock, uint16(len(own)), own...)
			id := p.result.RekeyID
			n.initiateAt(t, c.Endpoints, &id, n.ring.Current(time.Now()))
		})
	})
}

// onKnock sends a keepalive to where the peer of a relayed tunnel says that it will come
// from: to nobody else, and so rarely and so little that it is of no use against whoever
// is there. Nothing is believed by it. Control loop only.
func (n *Node) onKnock(t *tunnel, p *saPair, endpoints []netip.AddrPort) {
	now := time.Now()
	if !relay.IsVirtual(p.path) || now.Sub(t.knockedAt) < knockEvery {
		return
	}
	t.knockedAt = now
	for _, e := range n.usable(endpoints) {
		n.keepalive(e)
	}
}

// keepalive keeps a NAT open for what comes from an address (RFC 3948, Section 2.3).
func (n *Node) keepalive(to netip.AddrPort) {
	ms := [1]underlay.Message{{Buf: []byte{0xff}, N: 1, Addr: to}}
	if _, err := n.port.WriteESP(ms[:]); err != nil {
		n.log.Debug("keepalive not sent", "addr", to, "err", err)
	}
}

// behindNAT says whether others see us at an address that is none of ours.
func (n *Node) behindNAT() bool { return !n.observed.open.Load() && len(n.observed.all()) > 0 }

// tendNAT keeps our NAT open for the peer of a direct tunnel. Towards a relay the
// allocation's refresh does that.
func (n *Node) tendNAT(t *tunnel, now time.Time) {
	p := t.current()
	if p == nil || relay.IsVirtual(p.path) || n.leaving || !n.behindNAT() {
		t.keepAt = time.Time{}
		return
	}
	sent := time.Unix(0, t.stats.lastTx.Load())
	if !t.keepAt.IsZero() && !now.Before(t.keepAt) && now.Sub(sent) >= natKept {
		n.keepalive(p.path)
		sent = now
	}
	if at := latest(sent, p.born).Add(natKept); t.keepAt.IsZero() || !now.Before(t.keepAt) {
		t.keepAt = at
	}
}
