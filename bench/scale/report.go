//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"

	"icvpn/bench/internal/measure"
)

// recorder gathers the figures of a scenario.
type recorder struct {
	metrics []measure.Metric
	checks  []measure.Check
}

func (r *recorder) add(value float64, unit, format string, args ...any) {
	r.metrics = append(r.metrics, measure.Metric{Name: fmt.Sprintf(format, args...), Unit: unit, Value: value})
}

// times records the middle and the tail of durations in milliseconds.
func (r *recorder) times(took []float64, format string, args ...any) {
	name := fmt.Sprintf(format, args...)
	if len(took) == 0 {
		return
	}
	r.add(measure.Quantile(took, 0.5), "ms", "%s, median", name)
	r.add(measure.Quantile(took, 0.99), "ms", "%s, p99", name)
}

// recordReasons records how often something ended for each reason.
func recordReasons(r *recorder, what string, why map[string]int) {
	for _, text := range slices.Sorted(maps.Keys(why)) {
		r.add(float64(why[text]), "", "  %s: %s", what, text)
	}
}

// must records what has to hold.
func (r *recorder) must(got, want int, format string, args ...any) {
	r.checks = append(r.checks, measure.Check{Name: fmt.Sprintf(format, args...), Got: got, Want: want})
}
