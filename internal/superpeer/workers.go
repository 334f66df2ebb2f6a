package superpeer

import (
	"context"
	"sync/atomic"
)

// maxQueue is how many steps may wait for a worker before newcomers are told
// "busy": a second of proofs, and less than a client waits if all of them are
// grants whose keys are made on the spot.
const maxQueue = 64

// workers bounds the steps of admissions that compute at the same time: SRP,
// signatures, attribute keys, writing members. Nobody holds a worker while a
// peer's bytes are awaited. TLS handshakes, which the library does not split
// into computing and waiting, run outside; the door's rate bounds them.
type workers struct {
	all       chan struct{}
	strangers chan struct{} // a quarter fewer: the rest is for the others
	waiting   atomic.Int64
}

// newWorkers returns n workers, 4 at least.
func newWorkers(n int) *workers {
	n = max(n, 4)
	return &workers{all: make(chan struct{}, n), strangers: make(chan struct{}, n-n/4)}
}

// crowded says whether a peer that has not begun yet is better off elsewhere.
// Known sources queue twice as long.
func (w *workers) crowded(known bool) bool {
	if known {
		return w.waiting.Load() >= 2*maxQueue
	}
	return w.waiting.Load() >= maxQueue
}

// do runs f on a worker. It is false, and f did not run, if ctx ended before one
// was free. Those who are no strangers, because they come from a known source
// or have proved their secret, find a quarter of the workers free of strangers.
func (w *workers) do(ctx context.Context, stranger bool, f func()) bool {
	w.waiting.Add(1)
	if stranger {
		if !acquire(ctx, w.strangers) {
			w.waiting.Add(-1)
			return false
		}
		defer func() { <-w.strangers }()
	}
	got := acquire(ctx, w.all)
	w.waiting.Add(-1)
	if !got {
		return false
	}
	defer func() { <-w.all }()
	f()
	return true
}

func acquire(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
