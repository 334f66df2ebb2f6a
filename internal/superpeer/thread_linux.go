package superpeer

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadClock is the clock of the processor time of one thread of this process, for
// clock_gettime(2). Its number is made of the thread's as clock_getcpuclockid(3) does:
// the lowest bits say that it is a thread's (4), and counts what the scheduler does (2).
type threadClock int32

// ownThread returns the clock of the calling thread.
func ownThread() threadClock {
	return threadClock(^int32(unix.Gettid())<<3 | 4 | 2) //nolint:gosec // thread numbers are at most 2^22
}

// read is 0 for a thread that has ended.
func (c threadClock) read() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(c), &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
