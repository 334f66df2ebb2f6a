package node

import (
	"time"

	"icvpn/esp"
	"icvpn/internal/underlay"
)

// upkeep looks at every tunnel that is not idle, and says when to look again.
// An idle peer costs nothing: it is in nobody's list.
func (n *Node) upkeep(now time.Time) {
	next := now.Add(upkeepMax)
	for t := range n.active {
		if t.state == tunnelIdle && t.hasStaged() {
			n.connect(t)
		}
		n.tendPairs(t, now)
		n.tendEpoch(t, now)
		n.tendLife(t, now)
		n.tendLiveness(t, now)
		n.tendRelayed(t, now)
		n.tendNAT(t, now)
		n.tendMTU(t, now)
		if len(t.pairs) == 0 && t.state == tunnelIdle && !t.hasStaged() {
			delete(n.active, t)
			continue
		}
		if at := n.nextLook(t, now); at.Before(next) {
			next = at
		}
	}
	if floor := now.Add(upkeepMin); next.Before(floor) {
		next = floor
	}
	n.upkeepAt = next
}

// tendPairs erases what is over and repeats dummies until the peer is heard.
func (n *Node) tendPairs(t *tunnel, now time.Time) {
	for _, p := range append([]*saPair(nil), t.pairs...) {
		_, hardIn := p.in.Deadlines()
		if !p.removeAt.IsZero() && !now.Before(p.removeAt) || !now.Before(hardIn) {
			n.removePair(t, p)
			continue
		}
		if !p.dummyAt.IsZero() && !now.Before(p.dummyAt) {
			n.sendDummy(t, p, now)
		}
	}
}

// sendDummy shows the peer that we have the keys (RFC 4303, Section 2.6).
func (n *Node) sendDummy(t *tunnel, p *saPair, now time.Time) {
	if p.dummies == confirmTries {
		p.dummyAt = time.Time{} // dead peer detection takes over
		return
	}
	p.dummyAt = now.Add(confirmEvery << p.dummies)
	p.dummies++
	pkts := [1]esp.Packet{{Buf: make([]byte, esp.Headroom+dummySize+esp.Tailroom)}}
	if sealed, _ := p.out.SealDummy(now, pkts[:], dummySize); sealed == 0 {
		return
	}
	ms := [1]underlay.Message{{Buf: pkts[0].Bytes(), N: pkts[0].Len, Addr: p.path}}
	if _, err := n.port.WriteESP(ms[:]); err != nil {
		n.log.Debug("dummy not sent", "peer", t.name(), "err", err)
	}
}

// dummySize looks like a short TCP segment.
const dummySize = 52

// lifeEnds is told by the data path that an SA has passed a limit. Only that
// tunnel is looked at: its peer may make this happen often, with packets that do
// not count as use.
func (n *Node) lifeEnds(t *tunnel) {
	if t.ending.Swap(true) {
		return
	}
	n.signal(func() {
		now := time.Now()
		n.tendLife(t, now)
		if at := n.nextLook(t, now); at.Before(n.upkeepAt) {
			n.upkeepAt = at
		}
	})
}

// tendLife begins a rekey when a soft limit has passed and the tunnel is used;
// keys that nobody needs just expire.
func (n *Node) tendLife(t *tunnel, now time.Time) {
	p := t.current()
	if p == nil || n.leaving {
		return
	}
	life := max(p.out.Life(now), p.in.Life(now))
	switch {
	case life == esp.LifeFresh:
		t.ending.Store(false) // it was a retired pair's
	case life == esp.LifeExpired:
		n.removePair(t, p)
		if t.usedSince(p.born) {
			n.connect(t)
		}
	case life == esp.LifeRekey && !t.rekeying && t.needed(p) && !now.Before(t.retryAt):
		t.rekeying = true
		id := p.result.RekeyID
		n.initiate(t, &id)
	}
}

// usedSince says whether the tunnel carried packets of ours or the peer's.
func (t *tunnel) usedSince(at time.Time) bool { return t.stats.lastData.Load() > at.UnixNano() }

// needed says whether a pair past a soft limit is to have a successor. If not, its
// first use will call lifeEnds: nobody has to look before.
func (t *tunnel) needed(p *saPair) bool {
	if t.usedSince(p.born) {
		return true
	}
	t.ending.Store(false) // before looking again, so that no packet is overlooked
	return t.usedSince(p.born)
}

// tendLiveness finds peers that died: packets go out, nothing comes back. Probes
// are asked first, new keys after, since a peer that restarted has lost its own.
func (n *Node) tendLiveness(t *tunnel, now time.Time) {
	p := t.current()
	if p == nil || n.leaving {
		return
	}
	n.tendLost(t, p, now)
	rx, tx := t.stats.lastRx.Load(), t.stats.lastTx.Load()
	if since := now.UnixNano() - t.stats.lastData.Load(); since > int64(idleLife) && now.Sub(p.born) > idleLife {
		n.log.Info("tunnel idle, deleted", "peer", t.name())
		n.deleteTunnel(t)
		return
	}
	if tx <= rx {
		t.armed.Store(false)
		t.probes = 0
		return
	}
	if now.UnixNano()-max(rx, p.born.UnixNano()) < int64(deadAfter) || now.Sub(t.lastProbe) < probeEvery {
		return
	}
	if t.probes < probeTries {
		t.probes++
		t.lastProbe = now
		n.sendNotice(t, p, noticePing, 0)
		return
	}
	if !t.rekeying && !now.Before(t.retryAt) {
		path, _ := n.shown(p.path)
		n.log.Warn("peer does not answer, looking for it", "peer", t.name(), "addr", path)
		t.rekeying, t.probes = true, 0
		n.lookup(t)
	}
}

// nextLook is when the tunnel needs attention again.
func (n *Node) nextLook(t *tunnel, now time.Time) time.Time {
	next := now.Add(upkeepMax)
	earliest := func(at time.Time) {
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	for _, p := range t.pairs {
		soft, hard := p.in.Deadlines()
		softOut, _ := p.out.Deadlines()
		earliest(hard)
		earliest(p.removeAt)
		earliest(p.dummyAt)
		for _, at := range []time.Time{soft, softOut} {
			if p.retired.IsZero() && at.After(now) {
				earliest(at)
			}
		}
	}
	if t.state == tunnelIdle && t.hasStaged() {
		earliest(t.retryAt)
	}
	if p := t.current(); p != nil {
		if life := max(p.out.Life(now), p.in.Life(now)); life != esp.LifeFresh && !t.rekeying && t.usedSince(p.born) {
			earliest(latest(now.Add(time.Second), t.retryAt))
		}
		if !p.epochAt.IsZero() && !t.rekeying && t.usedSince(p.born) {
			earliest(latest(p.epochAt, t.retryAt))
		}
		earliest(latest(p.born, time.Unix(0, t.stats.lastData.Load())).Add(idleLife + time.Second))
	}
	if t.mtu.machine != nil {
		earliest(t.mtu.machine.Deadline())
	}
	earliest(t.relayAt)
	earliest(t.keepAt)
	if t.current() != nil {
		earliest(t.directAt)
	}
	if t.doubted {
		earliest(t.lostAt.Add(lostWait))
	}
	if t.armed.Load() {
		earliest(now.Add(probeEvery))
	}
	return next
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// deleteTunnel tells the peer and erases every key.
func (n *Node) deleteTunnel(t *tunnel) {
	if p := t.current(); p != nil {
		n.sendNotice(t, p, noticeDelete, 0)
	}
	for len(t.pairs) > 0 {
		n.removePair(t, t.pairs[0])
	}
	t.state = tunnelIdle
}
