package overlay

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// PutObject stores the chunks and then the root, so that a reader never sees a
// root whose chunks were not there. A part that too few nodes took is put again,
// three times in all, after waits that double. acks is the fewest acknowledgements
// any of them got. Putting the same chunks again renews them and takes no
// further room. It borrows obj until the call ends.
func (m *Machine) PutObject(obj Object, done func(acks int, err error)) *Call {
	if !obj.Root.Verify() {
		done(0, fmt.Errorf("%w: limits or signature", ErrInvalid))
		return nil
	}
	d := &deposit{m: m, obj: obj, fewest: math.MaxInt, parts: make(map[int]*part)}
	c := m.begin(d.cancel)
	if c == nil {
		done(0, ErrNotRunning)
		return nil
	}
	d.done = func(acks int, err error) {
		m.end(c)
		done(acks, err)
	}
	d.proceed()
	return c
}

// deposit puts an object, some chunks at a time and the root at last.
type deposit struct {
	m      *Machine
	obj    Object
	next   int // chunk to put next
	rooted bool
	parts  map[int]*part // under way
	fewest int
	cause  error // why it was made to end
	over   bool
	done   func(acks int, err error)
}

// part is a chunk or, with number len(chunks), the root, on its way.
type part struct {
	tries int
	put   *placing
	wait  *timer
}

func (d *deposit) proceed() {
	for !d.over && len(d.parts) < objectWorkers && d.next < len(d.obj.chunks) {
		d.next++
		d.put(d.next-1, &part{})
	}
	if !d.over && len(d.parts) == 0 && !d.rooted {
		d.rooted = true
		d.put(d.next, &part{})
	}
}

// put puts part i, and again while too few nodes take it. The waits differ, so that
// parts refused together do not come back together.
func (d *deposit) put(i int, p *part) {
	d.parts[i] = p
	p.tries++
	ended := false
	end := func(acks int, err error) {
		ended = true
		if errors.Is(err, ErrNoQuorum) && p.tries < putTries && d.cause == nil {
			wait := d.m.jitter(firstRetry << (p.tries - 1))
			p.put, p.wait = nil, d.m.after(wait, func() { d.put(i, p) })
			return
		}
		d.onPut(i, acks, err)
	}
	var put *placing
	if i < len(d.obj.chunks) {
		put = d.m.placeChunk(d.obj.chunks[i], d.m.lifeOf(d.obj), end)
	} else {
		put = d.m.placeItem(d.obj.Root, end)
	}
	if !ended {
		p.put = put
	}
}

// onPut is called when part i has been put for the last time.
func (d *deposit) onPut(i, acks int, err error) {
	if d.over {
		return
	}
	delete(d.parts, i)
	d.fewest = min(d.fewest, acks)
	switch {
	case err != nil && i < len(d.obj.chunks):
		d.fail(fmt.Errorf("chunk: %w", err))
	case d.rooted:
		d.finish(d.fewest, err)
	default:
		d.proceed()
	}
}

// fail ends the deposit before its root was put. Others must not see the root yet;
// this node alone may, if it has the rest.
func (d *deposit) fail(err error) {
	life := d.m.lifeOf(d.obj)
	kept := true
	for _, c := range d.obj.chunks {
		kept = kept && d.m.store.putChunk(d.m.now, c, own, life) == 0
	}
	if kept {
		d.m.store.putItem(d.m.now, d.obj.Root, own)
	}
	d.finish(min(d.fewest, bucketSize), err)
}

// cancel ends the deposit because of cause.
func (d *deposit) cancel(cause error) {
	d.cause = cause
	if !d.rooted {
		d.fail(fmt.Errorf("chunk: %w", reason(cause)))
		return
	}
	if p := d.parts[d.next]; p.put != nil {
		p.put.cancel(cause)
		return
	}
	d.finish(0, reason(cause))
}

// reason is what a put that was made to end returns.
func reason(cause error) error {
	if cause == ErrNotRunning { //nolint:errorlint // it is ours
		return cause
	}
	return fmt.Errorf("%w: %w", ErrNoQuorum, cause)
}

func (d *deposit) finish(acks int, err error) {
	d.over = true
	for _, p := range d.parts {
		d.m.timers.stop(p.wait)
		if p.put != nil {
			p.put.abandon()
		}
	}
	d.done(acks, err)
}

// lifeOf is how long obj is to be stored.
func (m *Machine) lifeOf(obj Object) time.Duration {
	if obj.Life == 0 {
		return m.cfg.Expiry
	}
	return min(max(obj.Life, minLife), m.cfg.Expiry)
}
