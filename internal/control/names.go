package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Names collects which machines bear a name: names are chosen by the machines
// and need not be unique, and somebody who asks for one wants to know.
type Names map[string][]string

// Add adds a machine by its PID; twice is once.
func (n Names) Add(name, pid string) { n[name] = append(n[name], pid) }

// Warnings returns a sentence for each name that several machines bear.
func (n Names) Warnings() (all []string) {
	for _, name := range slices.Sorted(maps.Keys(n)) {
		pids := slices.Compact(slices.Sorted(slices.Values(n[name])))
		if len(pids) < 2 {
			continue
		}
		for i, pid := range pids {
			pids[i] = pid[:min(len(pid), 8)]
		}
		all = append(all, fmt.Sprintf("name %s is used by %d machines (PIDs %s): each is reachable by its address, and by name the one admitted last", name, len(pids), strings.Join(pids, ", ")))
	}
	return all
}
