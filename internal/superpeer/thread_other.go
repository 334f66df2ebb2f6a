//go:build !linux

package superpeer

import "time"

var threadBegan = time.Now()

// threadTime stands in for the processor time that the calling thread has used: it is
// the time that has passed.
func threadTime() time.Duration { return time.Since(threadBegan) }
