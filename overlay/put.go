package overlay

import (
	"fmt"
	"time"

	"icvpn/internal/id"
)

// SupersededError says that a newer item is stored: a writer goes on from Seq.
type SupersededError struct {
	Seq int64 // of the stored item
}

func (e *SupersededError) Error() string {
	return fmt.Sprintf("%v: sequence number %d", ErrSuperseded, e.Seq)
}

// Is makes a SupersededError an ErrSuperseded.
func (e *SupersededError) Is(target error) bool { return target == ErrSuperseded }

// Put stores the item here, on the nodes nearest to its target and on the
// replicas, and counts the nodes that acknowledged it, this one included. Fewer
// than the quorum is ErrNoQuorum, none but ourselves ErrUnreachable, except that
// a node alone is a quorum. It borrows it until the call ends.
func (m *Machine) Put(it Item, done func(acks int, err error)) *Call {
	if !it.Verify() {
		done(0, fmt.Errorf("%w: limits or signature", ErrInvalid))
		return nil
	}
	var p *placing
	c := m.begin(func(cause error) { p.cancel(cause) })
	if c == nil {
		done(0, ErrNotRunning)
		return nil
	}
	p = m.placeItem(it, func(acks int, err error) {
		m.end(c)
		done(acks, err)
	})
	return c
}

// placing puts an item or chunk on the nodes it belongs on: a walk that also asks
// every replica, then a put to each that gave a token.
type placing struct {
	m       *Machine
	msg     message // the put, without a token
	find    *search
	holders []holder
	asked   []*question
	waiting int
	acks    []id.ID // of those who acknowledged, each counted once
	own     int     // 1 if it is stored here
	over    bool
	done    func(acks int, err error)
}

// putOfItem is the put of an item, without a token.
func putOfItem(it Item) message {
	msg := message{q: put, has: hasSalt, salt: it.Salt}
	if len(it.Salt) == 0 {
		msg.has &^= hasSalt
	}
	msg.setItem(it)
	return msg
}

// putOfChunk is the put of a chunk, without a token.
func putOfChunk(c chunk, life time.Duration) message {
	return message{q: put, has: hasValue | hasLife, value: c, life: int64(life / time.Second)}
}

// placeItem is Put for an item that was verified. done may be called at once.
func (m *Machine) placeItem(it Item, done func(int, error)) *placing {
	p := &placing{m: m, msg: putOfItem(it), done: done}
	switch m.store.putItem(m.now, it, own) {
	case 0:
		p.own = 1
	case codeSequence:
		if stored, ok := m.store.get(m.now, Target(it.Key, it.Salt)); ok {
			p.finish(0, &SupersededError{stored.Seq})
			return p
		}
	}
	p.find = m.itemSearch(it.Key, it.Salt)
	p.run(func() error {
		newest := p.find.best
		if !p.find.found || newest.Seq < it.Seq || newest.equal(it) {
			return nil
		}
		m.store.putItem(m.now, newest, own)
		return &SupersededError{newest.Seq}
	})
	return p
}

// placeChunk stores a chunk as placeItem does an item.
func (m *Machine) placeChunk(c chunk, life time.Duration, done func(int, error)) *placing {
	p := &placing{m: m, msg: putOfChunk(c, life), done: done}
	if m.store.putChunk(m.now, c, own, life) == 0 {
		p.own = 1
	}
	p.find = m.chunkSearch(c.name())
	p.run(func() error { return nil })
	return p
}

// run finds the nodes to store on, and stores unless check objects to what they
// have.
func (p *placing) run(check func() error) {
	p.find.need = maxWalk // every copy counts: the walk is for the nodes, not the item
	p.find.run(first(p.m.replicaAddrs(), maxReplicas), func() {
		if err := check(); err != nil {
			p.finish(0, err)
			return
		}
		if w := p.find.walk; w != nil {
			p.holders = w.holders()
		}
		if p.find.cause != nil {
			p.conclude(p.find.cause)
			return
		}
		p.store()
	})
}

// store puts to every holder at once.
func (p *placing) store() {
	p.waiting = len(p.holders)
	for _, h := range p.holders {
		msg := p.msg
		msg.token, msg.has = h.token, msg.has|hasToken
		p.asked = append(p.asked, p.m.ask(h.Addr, msg, storeTries, func(_ reply, err error) {
			p.waiting--
			if err == nil && !p.acknowledged(h.ID) {
				p.acks = append(p.acks, h.ID)
			}
			if p.waiting == 0 {
				p.conclude(nil)
			}
		}))
	}
	if p.waiting == 0 {
		p.conclude(nil)
	}
}

func (p *placing) acknowledged(n id.ID) bool {
	for _, a := range p.acks {
		if a == n {
			return true
		}
	}
	return false
}

// cancel ends the placing because of cause; what was acknowledged counts.
func (p *placing) cancel(cause error) {
	if p.find != nil && !p.find.over {
		p.find.cancel(cause)
		return
	}
	p.conclude(cause)
}

// conclude adds up the acknowledgements and holds them against the quorum.
func (p *placing) conclude(cause error) {
	remote := len(p.acks)
	acks, quorum := p.own+remote, min(p.m.cfg.Quorum, len(p.holders)+1)
	var err error
	switch {
	case acks > 0 && p.m.alone():
	case cause == ErrNotRunning: //nolint:errorlint // it is ours
		err = ErrNotRunning
	case cause != nil && (acks < quorum || remote == 0):
		err = fmt.Errorf("%w: %w", ErrNoQuorum, cause)
	case len(p.holders) == 0:
		err = ErrUnreachable
	case acks < quorum:
		err = fmt.Errorf("%w: %d of %d", ErrNoQuorum, acks, quorum)
	}
	p.finish(acks, err)
}

func (p *placing) finish(acks int, err error) {
	if p.over {
		return
	}
	p.over = true
	for _, q := range p.asked {
		p.m.forget(q)
	}
	p.done(acks, err)
}

// abandon ends the placing without done being called.
func (p *placing) abandon() {
	p.done = func(int, error) {}
	p.cancel(ErrNotRunning)
}
