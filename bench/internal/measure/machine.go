//go:build linux

package measure

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine says where figures are from.
type Machine struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Go     string `json:"go"`
}

// ThisMachine describes the machine.
func ThisMachine() Machine {
	return Machine{
		OS: runtime.GOOS, Arch: runtime.GOARCH, Kernel: kernel(), CPU: cpuInfo("model name"),
		CPUs: runtime.NumCPU(), Go: runtime.Version(),
	}
}

// String is one line for people.
func (m Machine) String() string {
	return fmt.Sprintf("%d x %s, %s %s, %s", m.CPUs, cmp.Or(m.CPU, m.Arch), m.OS, m.Kernel, m.Go)
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// cpuInfo returns a field of the first processor.
func cpuInfo(field string) string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == field {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// CPUFlags returns those of names that the processor has.
func CPUFlags(names ...string) []string {
	has := strings.Fields(cmp.Or(cpuInfo("flags"), cpuInfo("Features")))
	found := []string{}
	for _, n := range names {
		if slices.Contains(has, n) {
			found = append(found, n)
		}
	}
	return found
}

// LoadAverage is the kernel's, of one minute.
func LoadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}

// Busy returns how long all processors together have been busy since the machine
// started, interrupts and what a hypervisor took away included.
func Busy() (time.Duration, error) {
	const file = "/proc/stat"
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("%s is not as proc(5) says", file)
	}
	var ticks int64
	for i, field := range f[1:9] { // user nice system idle iowait irq softirq steal
		if i == 3 || i == 4 {
			continue
		}
		n, _ := strconv.ParseInt(field, 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * cpuTick, nil
}

// Revision is what the go command stamped on a binary, "+" if the source had
// been changed, or "".
func Revision(binary string) (rev string) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return ""
	}
	changed := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	return rev + changed
}

// Binary returns the absolute path of the icvpn to measure: the given one, or one
// built into dir.
func Binary(ctx context.Context, given, dir string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	path := filepath.Join(dir, "icvpn")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "icvpn/cmd/icvpn").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("icvpn cannot be built here; name a binary with -icvpn: %w: %s", err, out)
	}
	return path, nil
}
