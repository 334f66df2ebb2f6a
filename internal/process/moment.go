package process

import (
	"os"
	"strings"
	"time"

	"icvpn/internal/node"
)

// moment reads the machine's clocks.
func moment() node.Moment {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		boot = nil
	}
	return node.Moment{Wall: time.Now(), Elapsed: sinceBoot(), Boot: strings.TrimSpace(string(boot))}
}
