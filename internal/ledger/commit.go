package ledger

import (
	"sync"
)

// maxBatch changes are written together, so that one failure has an end.
const maxBatch = 256

// change is one transaction of a caller: what it writes, and what follows in
// the indexes once that is on disk. Both are called with mu held, in one order.
type change struct {
	stage func(*batch)
	apply func() // may be nil
	done  chan turn
}

// turn answers a waiting caller: with the end of its change, or with the pen.
type turn struct {
	err  error
	lead bool
}

// writes is the queue in front of the disk. Whoever comes when nobody writes
// writes what has come, for all; so admissions that come together share one
// fsync, and a lone one waits for nobody.
type writes struct {
	mu    sync.Mutex
	queue []*change
	busy  bool

	// owned by whoever writes
	doubt map[spot]bool // keys of which it is not known what the disk has
}

// spot is where a record lies.
type spot struct{ bucket, key string }

// batch gathers what is written together.
type batch struct {
	l    *Ledger
	ops  []op
	uses map[string]uint32 // as this batch leaves them
	nums map[string]uint64
}

func (b *batch) add(o op) { b.ops = append(b.ops, o) }

// use counts an admission by a secret.
func (b *batch) use(secretID string) {
	if _, ok := b.uses[secretID]; !ok {
		u := b.l.usage(secretID)
		b.uses[secretID] = u.uses - u.underway
	}
	b.uses[secretID]++
	b.add(op{bucketSecrets, secretID, number64(uint64(b.uses[secretID]))})
}

func (b *batch) mark(name string, v uint64) {
	b.nums[name] = v
	b.add(op{bucketMarks, name, number64(v)})
}

// number returns a mark as this batch leaves it.
func (b *batch) number(name string) uint64 {
	if v, ok := b.nums[name]; ok {
		return v
	}
	return b.l.marks[name]
}

// commit returns when c is on disk and in the indexes. After an error it is in
// neither, as far as anybody can see: what the disk may have of it is mended by
// the next write.
func (l *Ledger) commit(c *change) error {
	c.done = make(chan turn, 1)
	w := &l.writes
	w.mu.Lock()
	w.queue = append(w.queue, c)
	lead := !w.busy
	w.busy = true
	w.mu.Unlock()
	if !lead {
		if t := <-c.done; !t.lead {
			return t.err
		}
	}
	w.mu.Lock()
	group := w.queue[:min(len(w.queue), maxBatch)]
	w.queue = w.queue[len(group):]
	w.mu.Unlock()
	err := l.write(group)
	for _, other := range group {
		if other != c {
			other.done <- turn{err: err}
		}
	}
	l.passPen()
	return err
}

// passPen has the first of those who came meanwhile write the next batch.
func (l *Ledger) passPen() {
	w := &l.writes
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.queue, w.busy = nil, false
		return
	}
	w.queue[0].done <- turn{lead: true}
}

// write is the only way to the disk. Its steps are where a kill may come.
func (l *Ledger) write(group []*change) error {
	if err := l.step("stage"); err != nil {
		return err
	}
	b := &batch{l: l, uses: map[string]uint32{}, nums: map[string]uint64{}}
	l.mu.Lock()
	b.mend(l.writes.doubt)
	for _, c := range group {
		c.stage(b)
	}
	l.mu.Unlock()
	sealed := make([]op, len(b.ops))
	for i, o := range b.ops {
		sealed[i] = l.place.sealed(o)
	}
	err := l.step("write")
	if err == nil {
		err = l.place.store.update(sealed)
	}
	if err == nil {
		err = l.step("written")
	}
	if err != nil {
		l.doubtful(b.ops)
		return l.place.problem(err)
	}
	l.writes.doubt = nil
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, v := range b.nums {
		l.marks[name] = v
	}
	for _, c := range group {
		if c.apply != nil {
			c.apply()
		}
	}
	return nil
}

func (l *Ledger) step(name string) error {
	if l.fault == nil {
		return nil
	}
	return l.fault(name)
}

// doubtful remembers what a failed write may have written all the same: an
// error of the last fsync leaves that open.
func (l *Ledger) doubtful(ops []op) {
	if l.writes.doubt == nil {
		l.writes.doubt = map[spot]bool{}
	}
	for _, o := range ops {
		l.writes.doubt[spot{o.bucket, o.key}] = true
	}
}

// mend writes again what is true of every doubtful record.
func (b *batch) mend(doubt map[spot]bool) {
	for at := range doubt {
		b.add(op{at.bucket, at.key, b.l.current(at)})
	}
}

// current returns the record that the indexes say is there; nil if there is
// none. Slots are not in the indexes: one whose write failed is not there, and
// one whose deletion failed was not given to anybody, and is lost.
func (l *Ledger) current(at spot) []byte {
	var o op
	switch at.bucket {
	case bucketMembers:
		if e := l.members[idOf(at.key)]; e != nil {
			o = e.op()
		}
	case bucketLeases:
		if host, ok := l.book.host(addrOf(at.key)); ok && int(host) < len(l.book.hosts) {
			if t := l.book.hosts[host]; t.until != 0 {
				o = leaseOp(addrOf(at.key), t)
			}
		}
	case bucketSecrets:
		if u := l.usage(at.key); u.uses > u.underway {
			o.value = number64(uint64(u.uses - u.underway))
		}
	case bucketTickets:
		if t, ok := l.tickets[[16]byte([]byte(at.key))]; ok {
			o = t.op()
		}
	case bucketTombstones:
		if t, ok := l.tombs[idOf(at.key)]; ok {
			o = t.op()
		}
	case bucketMarks:
		if v, ok := l.marks[at.key]; ok {
			o.value = number64(v)
		}
	}
	return o.value
}
