package process

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is the time since the machine started, that of its suspensions
// included, which Go's monotonic clock leaves out.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("process: internal error: CLOCK_BOOTTIME: " + err.Error()) // Linux 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}
