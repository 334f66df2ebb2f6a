//go:build linux

package main

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// When a fleet is calm: two windows, one after the other, in which its machines
// sent and received, and the process used of the processor, no less than three
// quarters of the least of any window before. What still settles falls.
const (
	settleWindow = 10 * time.Second
	settleShare  = 0.75
	settleCalm   = 2
	// settleWindows is the end of it.
	settleWindows = 12
)

// usage is what a fleet has used until now.
type usage struct {
	at               time.Time
	cpu              time.Duration // of this process
	bytes, datagrams float64       // of the peers, sent and received
	superBytes       float64
}

func (w *world) usage() (u usage) {
	for _, p := range w.peers {
		u.bytes += float64(p.host.bytes.Load())
		u.datagrams += float64(p.host.sent.Load() + p.host.received.Load())
	}
	for _, s := range w.supers {
		u.superBytes += float64(s.host.bytes.Load())
	}
	u.at, u.cpu = time.Now(), processCPU()
	return u
}

// since is what was used from an earlier moment on.
func (u usage) since(v usage) (used usage, seconds float64) {
	return usage{cpu: u.cpu - v.cpu, bytes: u.bytes - v.bytes, datagrams: u.datagrams - v.datagrams, superBytes: u.superBytes - v.superBytes}, u.at.Sub(v.at).Seconds()
}

// idle watches a fleet that is asked nothing.
func (w *world) idle(b *bench, rec *recorder, name string, window time.Duration, empty float64) {
	if window == 0 {
		return
	}
	b.say("%s: %v", name, window)
	before := w.usage()
	if b.pause(window) != nil {
		return
	}
	used, seconds := w.usage().since(before)
	n := float64(len(w.peers))
	rec.add(used.bytes/seconds/n, "B/s", "%s: a peer sends and receives", name)
	rec.add(used.datagrams/seconds/n, "1/s", "%s:   datagrams", name)
	rec.add(used.superBytes/seconds/float64(len(w.supers)), "B/s", "%s: a super peer sends and receives", name)
	rec.add(100*used.cpu.Seconds()/seconds/n, "%", "%s: of a core, each peer, super peers' share included", name)
	rec.add((heap()-empty)/n/(1<<20), "MiB", "%s: heap and stacks of each peer, super peers' share included", name)
	rec.add(float64(runtime.NumGoroutine())/n, "", "%s: goroutines of each peer, super peers' share included", name)
}

// calm waits until what the fleet uses does not fall any more, and says how long
// that took from a moment on.
func (w *world) calm(b *bench, rec *recorder, from time.Time) {
	if b.settle == 0 {
		return
	}
	var least usage
	still := 0
	for i := range settleWindows {
		before := w.usage()
		if b.pause(settleWindow) != nil {
			return
		}
		used, _ := w.usage().since(before)
		n := float64(len(w.peers))
		b.say("settling: a peer uses %.0f B/s and %.2f %% of a core", used.bytes/settleWindow.Seconds()/n, 100*used.cpu.Seconds()/settleWindow.Seconds()/n)
		if still++; i == 0 || falls(used, least) {
			still = 0
		}
		if still == settleCalm {
			rec.add(before.at.Sub(from).Seconds()-settleWindow.Seconds(), "s", "after the last join: what an idle fleet uses falls until")
			return
		}
		least.cpu, least.bytes = lower(least.cpu, used.cpu), lower(least.bytes, used.bytes)
	}
	rec.must(0, 1, "an idle fleet becomes calm")
}

// falls says whether a window used clearly less than any before.
func falls(used, least usage) bool {
	return used.bytes < settleShare*least.bytes || float64(used.cpu) < settleShare*float64(least.cpu)
}

// lower is the smaller of the two, of which the first may not be there yet.
func lower[T time.Duration | float64](least, x T) T {
	if least == 0 {
		return x
	}
	return min(least, x)
}

// heap is what is live, with stacks, in bytes.
func heap() float64 {
	runtime.GC()
	runtime.GC() // what pools held is gone with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// processCPU is the processor time of this process, in its code and in the
// kernel.
func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
