package datapath

import "sync"

// lane is one direction of a tunnel: at any moment at most one goroutine works
// on it, so packets keep their order.
//
//	idle ──submit, small or lone──> busy: the submitter itself ──done──> idle
//	 │                                │ more came meanwhile
//	 └──submit, others─────────────> busy: the lane's goroutine, until the queue is empty
//
// The goroutine is started when it is needed and ends when there is nothing to
// do: an idle tunnel has none, and no channel. A lane is made with its tunnel
// and never copied.
type lane struct {
	// set at start
	handle func(*batch) // borrows
	d      *Datapath

	mu         sync.Mutex // guards what follows; never held over handle
	busy       bool       // Invariant: while it is false, the queue is empty
	head, tail *batch
	waiting    int       // packets in the queue
	room       sync.Cond // packets have left the queue; on mu
	slot       int64
	spent      int // packets processed inline within slot
}

func (l *lane) init(d *Datapath, handle func(*batch)) {
	l.d, l.handle = d, handle
	l.room.L = &l.mu
}

// submit takes b: processes it, or queues it, or drops it when the queue is
// full. now is in nanoseconds of any clock; lone says that the submitter, a
// reader, has nobody else to serve.
func (l *lane) submit(b *batch, now int64, lone bool) {
	if l.claim(b.n, now, lone) {
		l.finish(b)
		return
	}
	l.enqueue(b, lone)
}

// claim reserves the lane for the caller to process n packets inline; the caller
// then calls finish.
func (l *lane) claim(n int, now int64, lone bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy {
		return false
	}
	if lone && l.d.fewCores {
		l.busy = true
		return true
	}
	if n > inlineMax {
		return false
	}
	if s := now / inlineSlot; s != l.slot {
		l.slot, l.spent = s, 0
	}
	l.spent += n
	if l.spent > inlineBudget {
		return false
	}
	l.busy = true
	return true
}

// finish processes a batch on a claimed lane and takes it.
func (l *lane) finish(b *batch) {
	l.handle(b)
	l.d.mem.put(b)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head == nil {
		l.busy = false
		return
	}
	l.d.workers.Go(l.workLoop)
}

// enqueue takes b and sees to it that somebody works on the lane. With nobody
// else to serve it waits for room rather than drop: what follows then waits in
// the kernel.
func (l *lane) enqueue(b *batch, lone bool) {
	l.mu.Lock()
	for lone && l.waiting+b.n > laneQueue && l.head != nil {
		l.room.Wait()
	}
	switch {
	case l.waiting+b.n > laneQueue && l.head != nil:
		l.mu.Unlock()
		l.d.stats.QueueDrops.Add(uint64(b.n))
		l.d.mem.put(b)
		return
	case l.head == nil:
		l.head, l.tail = b, b
		l.waiting += b.n
		b = nil
	default:
		l.waiting += b.n
		if l.tail.merge(b) {
			break
		}
		l.tail.next, l.tail = b, b
		b = nil
	}
	start := !l.busy
	l.busy = true
	l.mu.Unlock()
	if b != nil {
		l.d.mem.put(b) // merged: empty
	}
	if start {
		l.d.workers.Go(l.workLoop)
	}
}

// workLoop empties the queue and ends.
func (l *lane) workLoop() {
	for {
		b := l.pop()
		if b == nil {
			return
		}
		l.handle(b)
		l.d.mem.put(b)
	}
}

// pop returns the next batch, or nil and the lane is idle.
func (l *lane) pop() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.head
	if b == nil {
		l.busy = false
		return nil
	}
	l.head = b.next
	if l.head == nil {
		l.tail = nil
	}
	b.next = nil
	l.waiting -= b.n
	l.room.Broadcast()
	return b
}
