package overlay

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"icvpn/internal/id"
)

// publication is an object, or an item as an object without chunks, that is put
// again and again.
//
//	waiting ──timer──> queued ──a place──> under way ──┬─ put ──> waiting, at most half of its life
//	                                                   └─ not ──> waiting, 1 s to 30 s
type publication struct {
	obj   Object
	puts  int           // that succeeded
	retry time.Duration // after one that did not
	timer *timer        // while it is waiting
}

// publications is what this node keeps in the overlay, by target.
type publications struct {
	byID   map[id.ID]*publication
	queue  []*publication // due
	active int            // under way
}

// Publish puts the object, or an item as an Object with a Root alone, now and then
// again after an eighth, a quarter and then each half of its Life, until Unpublish, retrying from 1 s up to every 30 s
// while there is no quorum. One with a higher sequence number takes the place of
// the one before.
func (m *Machine) Publish(obj Object) error {
	if !obj.Root.Verify() {
		return fmt.Errorf("%w: limits or signature", ErrInvalid)
	}
	target := Target(obj.Root.Key, obj.Root.Salt)
	old := m.pubs.byID[target]
	if old != nil {
		if old.obj.Root.newer(obj.Root) {
			return &SupersededError{old.obj.Root.Seq}
		}
		m.timers.stop(old.timer)
	}
	pub := &publication{obj: obj, retry: firstRetry}
	m.pubs.byID[target] = pub
	m.publishAfter(pub, 0)
	return nil
}

// Unpublish ends the publication of the item under key and salt and says whether
// there was one. What is stored expires.
func (m *Machine) Unpublish(key ed25519.PublicKey, salt []byte) bool {
	if len(key) != ed25519.PublicKeySize {
		return false
	}
	target := Target(key, salt)
	pub, ok := m.pubs.byID[target]
	if ok {
		m.timers.stop(pub.timer)
		delete(m.pubs.byID, target)
	}
	return ok
}

func (m *Machine) publishAfter(pub *publication, wait time.Duration) {
	pub.timer = m.after(wait, func() {
		m.pubs.queue = append(m.pubs.queue, pub)
		m.publishNext()
	})
}

// publishNext puts what is due, a few at a time, so that a dead address does not
// hold up all of them.
func (m *Machine) publishNext() {
	p := &m.pubs
	for p.active < publishWorkers && len(p.queue) > 0 {
		pub := p.queue[0]
		p.queue = p.queue[1:]
		if !m.isPublished(pub) {
			continue
		}
		p.active++
		m.PutObject(pub.obj, func(_ int, err error) {
			p.active--
			m.onPublished(pub, err)
			if m.stopped == nil {
				m.publishNext()
			}
		})
	}
}

// isPublished says whether pub was neither replaced nor withdrawn.
func (m *Machine) isPublished(pub *publication) bool {
	return m.pubs.byID[Target(pub.obj.Root.Key, pub.obj.Root.Salt)] == pub
}

// onPublished is called after a publication was put; it decides when next.
func (m *Machine) onPublished(pub *publication, err error) {
	if !m.isPublished(pub) || m.stopped != nil {
		return
	}
	life := m.lifeOf(pub.obj)
	switch {
	case err == nil:
		m.stats.Published.Add(1)
		pub.retry = firstRetry
		// The first copies of one who was early are where others were that early: the
		// next ones come sooner than they must.
		wait := life / 8 << min(pub.puts, 2)
		pub.puts++
		m.publishAfter(pub, wait-time.Duration(float64(wait)*0.2*m.rand.Float64()))
	case errors.Is(err, ErrSuperseded):
		m.cfg.Logger.Warn("overlay publication superseded", "reason", "another writer", "err", err)
		m.Unpublish(pub.obj.Root.Key, pub.obj.Root.Salt)
	default:
		m.stats.Unpublished.Add(1)
		m.publishAfter(pub, m.jitter(pub.retry))
		pub.retry = min(2*pub.retry, lastRetry, life/4)
	}
}
