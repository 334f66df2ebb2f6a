//go:build linux

package measure

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cpuTick is the unit of times in /proc: USER_HZ is 100 on every architecture
// that Go runs on.
const cpuTick = 10 * time.Millisecond

// Process is a running process by its number.
type Process int

// CPU returns the CPU time that the process has used, in its code and in the
// kernel.
func (p Process) CPU() (time.Duration, error) {
	b, err := os.ReadFile(p.file("stat"))
	if err != nil {
		return 0, err
	}
	// The second field, the name, may hold spaces, but ends with the last ')'.
	f := strings.Fields(string(b[lastIndex(b, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("%s is not as proc(5) says", p.file("stat"))
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * cpuTick, nil
}

func lastIndex(b []byte, c byte) int {
	for i, v := range slices.Backward(b) {
		if v == c {
			return i
		}
	}
	return -1
}

// Memory is resident memory in MiB.
type Memory struct {
	Resident float64
	Own      float64 // heap and stacks, without the pages of the binary
	Peak     float64 // the highest Resident so far
}

// Memory returns the memory of the process.
func (p Process) Memory() (m Memory, err error) {
	b, err := os.ReadFile(p.file("status"))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			m.Resident = kib / 1024
		case "RssAnon:":
			m.Own = kib / 1024
		case "VmHWM:":
			m.Peak = kib / 1024
		}
	}
	if m.Resident == 0 {
		return m, fmt.Errorf("no VmRSS in %s", p.file("status"))
	}
	return m, nil
}

func (p Process) file(name string) string {
	return filepath.Join("/proc", strconv.Itoa(int(p)), name)
}
