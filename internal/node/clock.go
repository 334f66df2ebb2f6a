package node

import (
	"sync"
	"time"
)

// The service's clock is ours and an offset that admission showed. If somebody
// sets the machine's clock later, the offset must move the other way: otherwise
// every sealed datagram would be out of its window until the next renewal.

// clockWatch remembers how clock and elapsed time stood when the offset held.
type clockWatch struct {
	mu      sync.Mutex
	wall    time.Time // without its monotonic reading
	elapsed time.Duration
}

// clockStep is what slewing and rounding never reach between two looks.
const clockStep = 500 * time.Millisecond

// setClock puts an offset in force that was learnt just now.
func (n *Node) setClock(offset time.Duration) {
	n.clock.mu.Lock()
	defer n.clock.mu.Unlock()
	n.ring.SetClockOffset(offset)
	n.clock.wall, n.clock.elapsed = time.Now().Round(0), n.cfg.Elapsed()
}

// watchClock corrects the offset by what the clock was set since the last look.
func (n *Node) watchClock() {
	n.clock.mu.Lock()
	defer n.clock.mu.Unlock()
	wall, elapsed := time.Now().Round(0), n.cfg.Elapsed()
	step := wall.Sub(n.clock.wall) - (elapsed - n.clock.elapsed)
	n.clock.wall, n.clock.elapsed = wall, elapsed
	if step.Abs() < clockStep {
		return
	}
	offset := n.ring.ClockOffset() - step
	n.ring.SetClockOffset(offset)
	n.log.Warn("the clock of this machine was set; the difference is taken into account", "offset", offset)
}
