//go:build !linux

package superpeer

import "time"

var threadBegan = time.Now()

// threadClock stands in for the clock of a thread's processor time: it shows the time
// that has passed.
type threadClock struct{}

func ownThread() threadClock { return threadClock{} }

func (threadClock) read() time.Duration { return time.Since(threadBegan) }
