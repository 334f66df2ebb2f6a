package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"icvpn/internal/id"
)

// Errors of a single query; callers of the package see them only from Ping.
var (
	errOwn         = errors.New("overlay: the address is our own")
	errNotAdmitted = errors.New("overlay: the node is not admitted")
)

// refusedError is the code of a refusal.
type refusedError int

func (e refusedError) Error() string { return fmt.Sprintf("overlay: refused with code %d", int(e)) }

// question is a query in flight.
//
//	ask ──> waiting for its turn ──> sent ──wait──> sent again ──2 waits──> silent
//	                                  └──────────── answer ────────────> done
type question struct {
	to    netip.AddrPort
	msg   message
	n     uint64        // transaction
	left  int           // sends left
	sent  time.Time     // first
	wait  time.Duration // after the last send
	timer *timer
	slow  func() // called after the first silence; may be nil
	done  func(reply, error)
}

// reply is what a node answered to a query of ours. msg and what it points to are
// borrowed from the datagram until done returns.
type reply struct {
	from  Node
	nodes []Node
	msg   *message // token, key, seq, sig and value, as far as has says
}

// ask sends a query, as often as tries says while there is no answer, and calls
// done once, later. A silent node is noted in the table. What msg points to is
// borrowed until then.
func (m *Machine) ask(to netip.AddrPort, msg message, tries int, done func(reply, error)) *question {
	m.count++
	msg.kind, msg.id, msg.has = query, m.cfg.Self, msg.has|hasArgs|hasID
	if msg.q == get || msg.q == findNode {
		msg.has |= hasTarget
	}
	msg.t = m.proofs.transaction(m.count, to)
	q := &question{to: to, msg: msg, n: m.count, left: tries, done: done}
	m.asked[q.n] = q
	m.stats.Asked.Add(1)
	if wait := m.queries.take(m.now, to, true); wait > 0 {
		q.timer = m.after(wait, func() { m.transmit(q) })
	} else {
		m.transmit(q)
	}
	return q
}

// transmit sends q once and sees to what comes if there is no answer.
func (m *Machine) transmit(q *question) {
	q.left--
	m.post(&q.msg, q.to, nil)
	if q.wait == 0 {
		q.sent, q.wait = m.now, m.trips.wait(m.cfg.Resend)
		if q.left == 0 {
			q.wait *= 3 // sent once, it has as long as one that is sent twice
		}
	} else {
		q.wait *= 2 // RFC 6298, Section 5.5
	}
	q.timer = m.after(q.wait, func() {
		slow := q.slow
		if q.left > 0 {
			m.transmit(q)
			if q.slow = nil; slow != nil {
				slow()
			}
			return
		}
		delete(m.asked, q.n)
		m.onSilence(q.to)
		q.done(reply{}, fmt.Errorf("%w: %v", ErrUnreachable, q.to))
	})
}

// roundTrips is how long answers take, over all nodes: a machine far from the others,
// or a busy one, waits longer before it sends again (RFC 6298, Section 2). An answer
// to a query that was sent twice counts from the first time: it may have been that
// one's.
type roundTrips struct{ mean, deviation time.Duration }

func (p *roundTrips) learn(took time.Duration) {
	if p.mean == 0 {
		p.mean, p.deviation = took, took/2
		return
	}
	p.deviation += ((took - p.mean).Abs() - p.deviation) / 4
	p.mean += (took - p.mean) / 8
}

// wait is at least least, and at most maxResend times that.
func (p *roundTrips) wait(least time.Duration) time.Duration {
	return min(max(least, p.mean+4*p.deviation), maxResend*least)
}

// forget ends q, which may be nil or over, without done being called.
func (m *Machine) forget(q *question) {
	if q != nil && m.asked[q.n] == q {
		m.timers.stop(q.timer)
		delete(m.asked, q.n)
	}
}

// onAnswer is called with an answer or refusal.
func (m *Machine) onAnswer(msg *message, from netip.AddrPort) Drop {
	n, ok := m.proofs.untag(from, msg.t)
	if !ok {
		return DropUnasked
	}
	var err error
	if msg.kind == response {
		err = m.meet(Node{msg.id, from})
	} else {
		err = refusedError(msg.code)
	}
	q := m.asked[n]
	if q == nil || q.to != from {
		return DropNone // too late to be of use, but it showed that the node lives
	}
	m.forget(q)
	m.trips.learn(m.now.Sub(q.sent))
	if msg.kind == refusal && q.msg.q != put {
		m.onNoAnswer(from) // there is no reason to refuse anything else
	}
	if err != nil {
		q.done(reply{}, err)
		return DropNone
	}
	r := reply{from: Node{msg.id, from}, msg: msg}
	for _, n := range readNodes(msg.nodes) {
		if n.ID != m.cfg.Self && m.askable(n.Addr, from) {
			r.nodes = append(r.nodes, n)
		}
	}
	q.done(r, nil)
	return DropNone
}

// meet notes that n answered us, and says whether it counts for anything.
func (m *Machine) meet(n Node) error {
	if n.ID == m.cfg.Self {
		if len(m.ourselves) < maxReplicas {
			// We asked ourselves: the address, a bootstrap address for one, is ours.
			m.ourselves[n.Addr] = true
		}
		m.onNoAnswer(n.Addr)
		return errOwn
	}
	if !m.cfg.Admit(n.ID, n.Addr) {
		m.onNoAnswer(n.Addr)
		return errNotAdmitted
	}
	m.lastHeard = m.now
	if doubtful := m.table.onAnswer(m.now, n); doubtful.IsValid() {
		// The address it had is asked; if it is silent, the new one once more.
		m.verify(doubtful, func() { m.verify(n.Addr, nil) })
	}
	return nil
}

// onSilence notes that nobody answered at addr. While nothing at all is heard the
// fault is taken to be ours, and the table kept, though not for ever.
func (m *Machine) onSilence(addr netip.AddrPort) {
	m.stats.Silent.Add(1)
	online := m.now.Sub(m.lastHeard) < onlineWindow
	m.table.onSilence(m.now, addr, m.now.Add(-10*m.cfg.Revalidate), online)
}

// onNoAnswer notes that what came from addr is no answer that counts: a contact
// there is as good as silent, and it is not our link's fault.
func (m *Machine) onNoAnswer(addr netip.AddrPort) { m.table.onSilence(m.now, addr, m.now, true) }

// Ping asks the node at addr for its ID.
func (m *Machine) Ping(addr netip.AddrPort, done func(id.ID, error)) *Call {
	var q *question
	c := m.begin(func(cause error) {
		m.forget(q)
		done(id.ID{}, cause)
	})
	if c == nil {
		done(id.ID{}, ErrNotRunning)
		return nil
	}
	q = m.ask(unmap(addr), message{q: ping}, queryTries, func(r reply, err error) {
		m.end(c)
		done(r.from.ID, err)
	})
	return c
}
