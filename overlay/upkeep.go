package overlay

import (
	"net/netip"
	"time"

	"icvpn/internal/id"
)

// upkeep keeps the table true: it enters the overlay again and again, asks contacts
// that were not heard for a while, walks through buckets that nobody touched, and
// sweeps what has expired. All of it becomes rare while nothing changes.
type upkeep struct {
	every      time.Duration // until the next bootstrap, while all is well
	retry      time.Duration // until it, if the last one found nobody
	timer      *timer        // of the next bootstrap
	refreshing bool          // a walk through a bucket is under way
	silence    float64       // share of contacts that did not answer lately, 0 to 1
	swept      time.Time
}

func (m *Machine) startUpkeep() {
	m.upkeep.retry, m.upkeep.every = firstRetry, m.cfg.Refresh
	m.bootstrap()
	m.after(m.jitter(m.cfg.Revalidate/4), m.tend)
}

// bootstrap asks every bootstrap address, and walks from them and the table to our
// own ID. The addresses are asked each time, and not only when the table is empty:
// it is what joins an island to the rest again.
func (m *Machine) bootstrap() {
	m.stats.Bootstraps.Add(1)
	_, before := m.table.counts()
	addrs := m.bootstrapAddrs()
	waiting, silent := len(addrs), false
	walk := func() {
		m.walk(walkSpec{q: findNode, target: m.cfg.Self, done: func(*walk) { m.onBootstrap(before, silent) }})
	}
	for _, a := range addrs {
		m.ask(a, message{q: ping}, queryTries, func(_ reply, err error) {
			silent = silent || err != nil
			if waiting--; waiting == 0 {
				walk()
			}
		})
	}
	if waiting == 0 {
		walk()
	}
}

// onBootstrap decides when the next bootstrap is due.
//
//	no contact that answers     the retry interval, doubling from 1 s to 30 s
//	few contacts                a fifth of Refresh
//	a bootstrap address silent  Refresh, so that islands join again
//	else                        doubling from Refresh to four times that
func (m *Machine) onBootstrap(before int, silent bool) {
	u := &m.upkeep
	all, answering := m.table.counts()
	var wait time.Duration
	switch {
	case answering == 0:
		wait = u.retry
		u.retry = min(2*u.retry, lastRetry)
	case answering < bucketSize:
		wait, u.every = m.cfg.Refresh/5, m.cfg.Refresh
	case silent:
		wait, u.every = m.cfg.Refresh, m.cfg.Refresh
	default:
		wait = u.every
		u.every = min(2*u.every, 4*m.cfg.Refresh)
	}
	if answering > 0 {
		u.retry = firstRetry
		if before == 0 {
			m.cfg.Logger.Info("overlay reached", "peers", all)
		}
	}
	u.timer = m.after(m.jitter(wait), m.bootstrap)
}

// tend is called four times per Revalidate.
func (m *Machine) tend() {
	m.table.readmit(m.now, func(n Node) bool { return !m.ourselves[n.Addr] && m.cfg.Admit(n.ID, n.Addr) })
	for _, n := range m.table.due(m.now, m.cfg.Revalidate, m.patience(), bucketSize) {
		m.check(n)
	}
	m.refresh()
	m.sweep()
	m.hurry()
	m.after(m.jitter(m.cfg.Revalidate/4), m.tend)
}

// hurry brings the next bootstrap forward if contacts were lost since it was planned.
func (m *Machine) hurry() {
	_, answering := m.table.counts()
	wait := m.cfg.Refresh / 5
	switch {
	case answering == 0:
		wait = lastRetry
	case answering >= bucketSize:
		return
	}
	if t := m.upkeep.timer; t.pending() && t.at.After(m.now.Add(2*wait)) {
		m.timers.stop(t)
		m.upkeep.timer = m.after(m.jitter(wait), m.bootstrap)
	}
}

// sweep forgets what has expired, once per Revalidate.
func (m *Machine) sweep() {
	if m.now.Sub(m.upkeep.swept) < m.cfg.Revalidate {
		return
	}
	m.upkeep.swept = m.now
	m.store.sweep(m.now)
	m.answers.sweep(m.now)
	m.regulars.sweep(m.now)
	m.queries.sweep(m.now)
}

// patience is the longest time that a contact may be unheard: long while those we
// ask do answer, and Revalidate itself when an eighth of them are silent.
func (m *Machine) patience() time.Duration {
	longest := float64(m.cfg.Revalidate) * (1 + (maxPatience-1)*max(0, 1-8*m.upkeep.silence))
	return time.Duration(longest)
}

// check asks a contact whether it is there.
func (m *Machine) check(n Node) {
	m.table.onAsked(n, m.now)
	m.ping(n.Addr, func(answered bool) {
		sample := 1.0
		if answered {
			sample = 0
		}
		m.upkeep.silence += (sample - m.upkeep.silence) / 16
	})
}

// refresh walks through the bucket that was not touched for longest, if that is
// long enough: to an ID of which nobody but chance decides where in it.
func (m *Machine) refresh() {
	i, ok := m.table.untouched(m.now.Add(-refreshFactor * m.cfg.Refresh))
	if !ok || m.upkeep.refreshing {
		return
	}
	m.upkeep.refreshing = true
	m.walk(walkSpec{q: findNode, target: m.idInBucket(i), done: func(*walk) { m.upkeep.refreshing = false }})
}

// idInBucket returns a random ID whose distance from ours has i leading zero bits.
func (m *Machine) idInBucket(i int) (n id.ID) {
	for j := range n {
		n[j] = byte(m.rand.Uint32())
	}
	for j := range i {
		n[j/8] = n[j/8]&^(0x80>>(j%8)) | m.cfg.Self[j/8]&(0x80>>(j%8))
	}
	n[i/8] = n[i/8]&^(0x80>>(i%8)) | ^m.cfg.Self[i/8]&(0x80>>(i%8))
	return n
}

// AddNode asks for addr to be pinged soon, and to be a contact if it answers.
// Before Start it is remembered.
func (m *Machine) AddNode(addr netip.AddrPort) {
	m.after(0, func() { m.verify(unmap(addr), nil) })
}

// verify pings addr, which may become a contact by answering, and calls silent,
// which may be nil, if it does not. If there is much to verify, the occasion will
// come again.
func (m *Machine) verify(addr netip.AddrPort, silent func()) {
	m.ping(addr, func(answered bool) {
		if !answered && silent != nil {
			silent()
		}
	})
}

func (m *Machine) ping(addr netip.AddrPort, done func(answered bool)) {
	if m.mayPing(addr) {
		m.pingNow(addr, queryTries, done)
	}
}

func (m *Machine) mayPing(addr netip.AddrPort) bool {
	return dialable(addr) && !m.verifying[addr] && !m.ourselves[addr] && len(m.verifying) < verifyQueue && m.stopped == nil
}

func (m *Machine) pingNow(addr netip.AddrPort, tries int, done func(answered bool)) {
	m.verifying[addr] = true
	m.ask(addr, message{q: ping}, tries, func(_ reply, err error) {
		delete(m.verifying, addr)
		done(err == nil)
	})
}

// returnVisit pings who has queried us, once: the address may be forged. A member
// can send queries from as many silent addresses as it likes, so they get half of
// the places at most, and two of them from one prefix.
func (m *Machine) returnVisit(addr netip.AddrPort) {
	p := sourcePrefix(addr.Addr())
	if m.visits[p] >= visitsPerPrefix || m.visiting >= verifyQueue/2 || !m.mayPing(addr) {
		return
	}
	count(m.visits, p, 1)
	m.visiting++
	m.pingNow(addr, 1, func(bool) {
		count(m.visits, p, -1)
		m.visiting--
	})
}
