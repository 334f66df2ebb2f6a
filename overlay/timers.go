package overlay

import (
	"container/heap"
	"time"
)

// timer is something to do at a time.
type timer struct {
	at    time.Time
	order uint64 // of two at the same time the one that was set first
	index int    // in the heap, -1 when it is not in it
	fire  func()
}

// pending says whether t, which may be nil, has yet to fire.
func (t *timer) pending() bool { return t != nil && t.index >= 0 }

// timers are what a machine waits for. They read no clock: whoever has one asks
// for the next and takes what is due.
type timers struct {
	heap timerHeap
	set  uint64
}

// at arranges for fire to be called at when.
func (t *timers) at(when time.Time, fire func()) *timer {
	t.set++
	x := &timer{at: when, order: t.set, fire: fire}
	heap.Push(&t.heap, x)
	return x
}

// stop takes x out, which may be nil, have fired or be stopped.
func (t *timers) stop(x *timer) {
	if x.pending() {
		heap.Remove(&t.heap, x.index)
	}
}

// clear stops all.
func (t *timers) clear() {
	for _, x := range t.heap {
		x.index = -1
	}
	t.heap = nil
}

// due returns a timer that is due, taken out; nil if none is.
func (t *timers) due(now time.Time) *timer {
	if len(t.heap) == 0 || t.heap[0].at.After(now) {
		return nil
	}
	return heap.Pop(&t.heap).(*timer)
}

// next returns when the next one is due, zero if there is none.
func (t *timers) next() time.Time {
	if len(t.heap) == 0 {
		return time.Time{}
	}
	return t.heap[0].at
}

type timerHeap []*timer

func (h timerHeap) Len() int { return len(h) }

func (h timerHeap) Less(i, j int) bool {
	if c := h[i].at.Compare(h[j].at); c != 0 {
		return c < 0
	}
	return h[i].order < h[j].order
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *timerHeap) Pop() any {
	old := *h
	n := len(old) - 1
	t := old[n]
	old[n], t.index = nil, -1
	*h = old[:n]
	return t
}
