package overlay

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"slices"
)

// AskItem asks one replica for the item under key and salt, and nobody else: a
// question for those who look again and again, and mostly in vain. A replica that
// knows nothing is ErrNotFound, one that is silent, or none at all, ErrUnreachable.
// It may be behind; Get asks more of them.
func (m *Machine) AskItem(key ed25519.PublicKey, salt []byte, done func(it Item, err error)) *Call {
	if len(key) != ed25519.PublicKeySize || len(salt) > MaxSalt {
		done(Item{}, fmt.Errorf("%w: key or salt", ErrInvalid))
		return nil
	}
	return m.askOne(m.replicasAtRandom(), key, salt, done)
}

// askOne asks the first of replicas.
func (m *Machine) askOne(replicas []netip.AddrPort, key ed25519.PublicKey, salt []byte, done func(it Item, err error)) *Call {
	var q *question
	c := m.begin(func(cause error) {
		m.forget(q)
		done(Item{}, cause)
	})
	if c == nil {
		done(Item{}, ErrNotRunning)
		return nil
	}
	if len(replicas) == 0 {
		m.end(c)
		done(Item{}, fmt.Errorf("%w: there is no replica", ErrUnreachable))
		return c
	}
	s := m.itemSearch(key, salt)
	q = m.ask(replicas[0], message{q: get, target: s.target}, queryTries, func(r reply, err error) {
		m.end(c)
		if err == nil {
			err = ErrNotFound
			if r.msg.all(hasValue) {
				if it, ok := s.accept(r.msg); ok {
					it.Key, it.Salt, it.Value = slices.Clone(it.Key), slices.Clone(it.Salt), slices.Clone(it.Value)
					done(it, nil)
					return
				}
				m.stats.Contradicted.Add(1)
			}
		}
		done(Item{}, err)
	})
	return c
}

// AskItem is Machine.AskItem.
func (o *Overlay) AskItem(ctx context.Context, key ed25519.PublicKey, salt []byte) (it Item, err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.AskItem(key, salt, func(found Item, e error) {
			it, err = found, e
			done()
		})
	})
	return it, err
}

// ReadObject reads the chunks of an object whose root is known, as AskItem finds
// it: from the own store and replicas, and where they have not all, by walks. It is
// ErrObject if it is no root, names more than Config.MaxObject bytes, or chunks
// are missing.
func (m *Machine) ReadObject(root Item, done func(data []byte, err error)) *Call {
	f := &fetching{m: m, rooted: true, root: root}
	c := m.begin(func(cause error) { f.cancel(cause) })
	if c == nil {
		done(nil, ErrNotRunning)
		return nil
	}
	f.done = func(data []byte, err error) {
		m.end(c)
		done(data, err)
	}
	f.begin()
	return c
}

// ReadObject is Machine.ReadObject.
func (o *Overlay) ReadObject(ctx context.Context, root Item) (data []byte, err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.ReadObject(root, func(b []byte, e error) {
			data, err = b, e
			done()
		})
	})
	return data, err
}
