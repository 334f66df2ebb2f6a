package superpeer

import (
	"runtime"
	"sync"
	"time"
)

// meter counts the processor time that is spent on something, also while it is being
// done: what takes long would else be missing from a reading in the midst of it. The
// zero value is ready.
type meter struct {
	mu    sync.Mutex
	spent time.Duration
	busy  map[threadClock]time.Duration // what each thread at work showed at first
}

// do runs f on a thread of its own, metered.
func (m *meter) do(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	clock := ownThread()
	m.mu.Lock()
	if m.busy == nil {
		m.busy = map[threadClock]time.Duration{}
	}
	m.busy[clock] = clock.read()
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.spent += clock.read() - m.busy[clock]
		delete(m.busy, clock)
	}()
	f()
}

// total is the time spent so far.
func (m *meter) total() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.spent
	for clock, before := range m.busy {
		all += clock.read() - before
	}
	return all
}
