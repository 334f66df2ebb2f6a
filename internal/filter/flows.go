package filter

import (
	"sync"
	"time"
)

// flowKey names a flow by its first packet, or a fragmented datagram. It has no
// padding, so it is hashed as plain memory.
type flowKey struct {
	src, dst [16]byte
	ports    uint32 // source ‖ destination, or the datagram's identification
	proto    uint32 // version ‖ protocol
}

func (p *packet) flow() flowKey {
	return flowKey{p.src, p.dst, uint32(p.sport)<<16 | uint32(p.dport), uint32(p.version)<<8 | uint32(p.proto)}
}

// reverse is the flow that p answers.
func (p *packet) reverse() flowKey {
	return flowKey{p.dst, p.src, uint32(p.dport)<<16 | uint32(p.sport), uint32(p.version)<<8 | uint32(p.proto)}
}

// datagram names what p is a fragment of. IPv6 has no protocol in it
// (RFC 8200, Section 4.5), IPv4 has (RFC 791).
func (p *packet) datagram() flowKey {
	k := flowKey{p.src, p.dst, p.ident, uint32(p.version) << 8}
	if p.version == 4 {
		k.proto |= uint32(p.proto)
	}
	return k
}

// table is a bounded map whose entries age. Full, it gives up the least recently
// used entry.
type table struct {
	// set at start
	limit int
	idle  time.Duration

	mu      sync.Mutex
	base    time.Time // ages count from here, so entries hold no pointers
	index   map[flowKey]int32
	entries []entry
	newest  int32 // ends of the list through entries, which is in order of use
	oldest  int32
}

type entry struct {
	key          flowKey
	value        int           // for datagrams: where the judged header ends
	used         time.Duration // after base
	newer, older int32
}

const none = -1

// touch enters key or makes it the most recently used. An entry's value only
// grows.
func (t *table) touch(key flowKey, value int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetIdle(now)
	at, ok := t.lookup(key)
	if !ok {
		at = t.take()
		t.entries[at].key, t.entries[at].value = key, 0
		t.index[key] = at
		t.pushNewest(at)
	}
	e := &t.entries[at]
	e.value = max(e.value, value)
	t.use(at, now)
}

// lookup tries the newest entry first: most packets belong to the flow of the one
// before.
func (t *table) lookup(key flowKey) (int32, bool) {
	if len(t.entries) > 0 && t.entries[t.newest].key == key {
		return t.newest, true
	}
	at, ok := t.index[key]
	return at, ok
}

// use makes at the most recently used.
func (t *table) use(at int32, now time.Time) {
	t.entries[at].used = now.Sub(t.base)
	if at != t.newest {
		t.unlink(at)
		t.pushNewest(at)
	}
}

// find returns the value of key; refresh makes it the most recently used.
func (t *table) find(key flowKey, refresh bool, now time.Time) (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.lookup(key)
	if !ok || t.stale(at, now) {
		return 0, false
	}
	if refresh {
		t.use(at, now)
	}
	return t.entries[at].value, true
}

// inherit moves the entries of old here. Fresh tables only: what t held is lost.
func (t *table) inherit(old *table) {
	old.mu.Lock()
	defer old.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.base, t.index, t.entries, t.newest, t.oldest = old.base, old.index, old.entries, old.newest, old.oldest
	old.index, old.entries = nil, nil
}

func (t *table) stale(at int32, now time.Time) bool {
	return now.Sub(t.base)-t.entries[at].used >= t.idle
}

// forgetIdle starts anew once everything is stale: an idle tunnel holds nothing.
func (t *table) forgetIdle(now time.Time) {
	if t.index != nil && !t.stale(t.newest, now) {
		return
	}
	t.base, t.index, t.entries = now, make(map[flowKey]int32), nil
	t.newest, t.oldest = none, none
}

// take returns a free place, of the oldest entry if need be.
func (t *table) take() int32 {
	if len(t.entries) < t.limit {
		t.entries = append(t.entries, entry{})
		return int32(len(t.entries) - 1)
	}
	at := t.oldest
	t.unlink(at)
	delete(t.index, t.entries[at].key)
	return at
}

func (t *table) pushNewest(at int32) {
	e := &t.entries[at]
	e.newer, e.older = none, t.newest
	if t.newest != none {
		t.entries[t.newest].newer = at
	} else {
		t.oldest = at
	}
	t.newest = at
}

func (t *table) unlink(at int32) {
	e := &t.entries[at]
	if e.newer != none {
		t.entries[e.newer].older = e.older
	} else {
		t.newest = e.older
	}
	if e.older != none {
		t.entries[e.older].newer = e.newer
	} else {
		t.oldest = e.newer
	}
}
