package overlay

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/netip"

	"icvpn/internal/id"
)

// What follows are the machine's calls for those who wait: each tells the loop,
// and returns when the machine is done with it. When ctx ends before, the call
// ends, and what it has found by then counts.

// await starts a call and waits until it ends. Start must call done once, at once
// or later.
func await(ctx context.Context, o *Overlay, start func(m *Machine, done func()) *Call) {
	over := make(chan struct{})
	var call *Call // owned by the loop
	o.tell(func(m *Machine) { call = start(m, func() { close(over) }) })
	select {
	case <-over:
	case <-ctx.Done():
		o.tell(func(m *Machine) { m.Cancel(o.cfg.Now(), call, ctx.Err()) })
		<-over
	}
}

// Get returns the item with the highest sequence number that a node near its
// target, a replica or this node itself has. A withdrawn item is returned with
// an error that is ErrNotFound, for its sequence number.
func (o *Overlay) Get(ctx context.Context, key ed25519.PublicKey, salt []byte) (it Item, err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.Get(key, salt, func(found Item, _ int, e error) {
			it, err = found, e
			done()
		})
	})
	return it, err
}

// Put stores the item here, on the nodes nearest to its target and on the
// replicas, and returns how many nodes acknowledged it, this one included. Fewer
// than the quorum is ErrNoQuorum, none but ourselves ErrUnreachable, except that
// a node alone is a quorum. It borrows it.
func (o *Overlay) Put(ctx context.Context, it Item) (acks int, err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.Put(it, func(n int, e error) {
			acks, err = n, e
			done()
		})
	})
	return acks, err
}

// PutObject is Machine.PutObject: chunks, then the root. It borrows obj.
func (o *Overlay) PutObject(ctx context.Context, obj Object) (acks int, err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.PutObject(obj, func(n int, e error) {
			acks, err = n, e
			done()
		})
	})
	return acks, err
}

// GetObject returns the object under key and salt and its root, which has the
// sequence number. It is ErrObject if the root is not one or chunks are missing.
func (o *Overlay) GetObject(ctx context.Context, key ed25519.PublicKey, salt []byte) ([]byte, Item, error) {
	return o.GetObjectAfter(ctx, key, salt, -1)
}

// GetObjectAfter is GetObject for a reader that has the object with sequence number
// after. Of that one it returns the root and ErrUnchanged, and asks for no chunk;
// of an older one, or its withdrawal, nothing and ErrRollback. Copies of an older
// one do not end the search, so it takes one honest node that has the newer.
func (o *Overlay) GetObjectAfter(ctx context.Context, key ed25519.PublicKey, salt []byte, after int64) (data []byte, root Item, err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.GetObject(key, salt, after, func(b []byte, it Item, e error) {
			data, root, err = b, it, e
			done()
		})
	})
	return data, root, err
}

// Ping asks the node at addr for its ID.
func (o *Overlay) Ping(ctx context.Context, addr netip.AddrPort) (n id.ID, err error) {
	await(ctx, o, func(m *Machine, done func()) *Call {
		return m.Ping(addr, func(found id.ID, e error) {
			n, err = found, e
			done()
		})
	})
	return n, err
}

// AddNode asks for addr to be pinged soon, and to be a contact if it answers.
func (o *Overlay) AddNode(addr netip.AddrPort) { o.tell(func(m *Machine) { m.AddNode(addr) }) }

// Publish puts the item now and then again, at half of Expiry at the latest, until
// Withdraw or Unpublish, retrying from 1 s up to every 30 s while there is no quorum. An item
// with a higher sequence number takes the place of the one before. It may be
// called before Run.
func (o *Overlay) Publish(it Item) error { return o.PublishObject(Object{Root: it}) }

// PublishObject keeps an object in the overlay as Publish does an item, by its Life
// in the place of Expiry.
func (o *Overlay) PublishObject(obj Object) error {
	answer := make(chan error, 1)
	o.tell(func(m *Machine) { answer <- m.Publish(obj) })
	return <-answer
}

// Unpublish ends the publication of the item under key and salt and says whether
// there was one. What is stored expires.
func (o *Overlay) Unpublish(key ed25519.PublicKey, salt []byte) bool {
	answer := make(chan bool, 1)
	o.tell(func(m *Machine) { answer <- m.Unpublish(key, salt) })
	return <-answer
}

// Withdraw ends the publication of the withdrawal's key and salt and puts the
// withdrawal, a signed item with a higher sequence number and an empty value, in
// its place: readers then get ErrNotFound.
func (o *Overlay) Withdraw(ctx context.Context, withdrawal Item) (acks int, err error) {
	if !withdrawal.Withdrawn() {
		return 0, fmt.Errorf("%w: a withdrawal has an empty value", ErrInvalid)
	}
	o.Unpublish(withdrawal.Key, withdrawal.Salt)
	return o.Put(ctx, withdrawal)
}
