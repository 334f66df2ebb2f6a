package overlay

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"slices"
)

// AskItemAt asks one node for the item under key and salt, as AskItem asks a
// replica. A publisher learns so what a node has that should have everything.
func (m *Machine) AskItemAt(at netip.AddrPort, key ed25519.PublicKey, salt []byte, done func(it Item, err error)) *Call {
	if len(key) != ed25519.PublicKeySize || len(salt) > MaxSalt {
		done(Item{}, fmt.Errorf("%w: key or salt", ErrInvalid))
		return nil
	}
	return m.askOne([]netip.AddrPort{unmap(at)}, key, salt, done)
}

// PutObjectAt gives one node an object unless it has it: the chunks, and last the
// root. It is for a node that has missed a put, or came after it; the object's
// quorum is not its business. It borrows obj until the call ends.
func (m *Machine) PutObjectAt(at netip.AddrPort, obj Object, done func(err error)) *Call {
	if !obj.Root.Verify() {
		done(fmt.Errorf("%w: limits or signature", ErrInvalid))
		return nil
	}
	o := &offering{m: m, at: unmap(at), obj: obj, asked: map[int]*question{}}
	c := m.begin(func(cause error) { o.finish(cause) })
	if c == nil {
		done(ErrNotRunning)
		return nil
	}
	o.done = func(err error) {
		m.end(c)
		done(err)
	}
	o.check()
	return c
}

// offering puts an object on one node.
//
//	get root ──has it──────────────────────────────────────────> done
//	    └─ not ─> for each chunk: get ─has it─┬─> get root ─> put ─> done
//	                               └─> put ───┘
type offering struct {
	m     *Machine
	at    netip.AddrPort
	obj   Object
	next  int // chunk to offer next
	asked map[int]*question
	over  bool
	done  func(error)
}

// root is the number of the root among the parts.
func (o *offering) root() int { return len(o.obj.chunks) }

// check ends the offering if the node has the root: it was given the chunks before.
func (o *offering) check() {
	o.get(o.root(), func(has bool, _ []byte) {
		if has {
			o.finish(nil)
			return
		}
		o.proceed()
	})
}

func (o *offering) proceed() {
	for !o.over && len(o.asked) < objectWorkers && o.next < len(o.obj.chunks) {
		o.next++
		o.offer(o.next-1, o.proceed)
	}
	if !o.over && len(o.asked) == 0 {
		o.offer(o.root(), func() { o.finish(nil) })
	}
}

// offer puts part i unless the node has it.
func (o *offering) offer(i int, then func()) {
	o.get(i, func(has bool, token []byte) {
		if has {
			then()
			return
		}
		msg := o.message(i)
		msg.token, msg.has = token, msg.has|hasToken
		o.ask(i, msg, storeTries, func(reply) { then() })
	})
}

// get asks whether the node has part i, and for a token.
func (o *offering) get(i int, then func(has bool, token []byte)) {
	var s *search
	if i < len(o.obj.chunks) {
		s = o.m.chunkSearch(o.obj.chunks[i].name())
	} else {
		s = o.m.itemSearch(o.obj.Root.Key, o.obj.Root.Salt)
	}
	o.ask(i, message{q: get, target: s.target}, queryTries, func(r reply) {
		has := false
		if r.msg.all(hasValue) {
			it, ok := s.accept(r.msg)
			if ok && it.Key != nil && it.Seq > o.obj.Root.Seq {
				o.finish(&SupersededError{it.Seq})
				return
			}
			has = ok && (it.Key == nil || it.equal(o.obj.Root))
		}
		then(has, slices.Clone(r.msg.token))
	})
}

// message is the put of part i, without a token.
func (o *offering) message(i int) message {
	if i < len(o.obj.chunks) {
		return putOfChunk(o.obj.chunks[i], o.m.lifeOf(o.obj))
	}
	return putOfItem(o.obj.Root)
}

// ask sends a query about part i; silence or a refusal ends the offering.
func (o *offering) ask(i int, msg message, tries int, then func(reply)) {
	o.asked[i] = o.m.ask(o.at, msg, tries, func(r reply, err error) {
		delete(o.asked, i)
		if err != nil {
			o.finish(err)
			return
		}
		then(r)
	})
}

func (o *offering) finish(err error) {
	if o.over {
		return
	}
	o.over = true
	for _, q := range o.asked {
		o.m.forget(q)
	}
	o.done(err)
}

// AskItemAt is Machine.AskItemAt.
func (o *Overlay) AskItemAt(ctx context.Context, at netip.AddrPort, key ed25519.PublicKey, salt []byte) (it Item, err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.AskItemAt(at, key, salt, func(found Item, e error) {
			it, err = found, e
			done()
		})
	})
	return it, err
}

// PutObjectAt is Machine.PutObjectAt.
func (o *Overlay) PutObjectAt(ctx context.Context, at netip.AddrPort, obj Object) (err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.PutObjectAt(at, obj, func(e error) {
			err = e
			done()
		})
	})
	return err
}
