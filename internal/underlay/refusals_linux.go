package underlay

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// refusalTime is how long trains are not tried again where they were
	// refused: routes and path MTUs change, and a vain try costs one copy.
	refusalTime = 10 * time.Second
	// maxRefusals bounds the memory of refusals.
	maxRefusals = 64
)

// refusals remembers the destinations to which the kernel takes no trains. The
// zero value is ready. While it is empty, asking costs one atomic load.
type refusals struct {
	some atomic.Bool

	mu sync.Mutex // guards what follows
	by map[netip.Addr]refusal
}

// refusal says that trains of segments of size bytes or more are refused.
type refusal struct {
	size  int
	until time.Time
}

// at reports whether trains of segments of size bytes to an address were
// refused lately.
func (r *refusals) at(to netip.Addr, size int) bool {
	if !r.some.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.by[to]
	if ok && time.Now().After(known.until) {
		delete(r.by, to)
		r.some.Store(len(r.by) > 0)
		return false
	}
	return ok && size >= known.size
}

// add remembers a refusal. Where there is no room, any older one goes: its
// destination merely tries again.
func (r *refusals) add(to netip.Addr, size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = make(map[netip.Addr]refusal)
	}
	if _, known := r.by[to]; !known && len(r.by) >= maxRefusals {
		for old := range r.by {
			delete(r.by, old)
			break
		}
	}
	r.by[to] = refusal{size: size, until: time.Now().Add(refusalTime)}
	r.some.Store(true)
}
