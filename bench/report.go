//go:build linux

package main

import "icvpn/bench/internal/measure"

// recorder gathers the figures of a scenario.
type recorder struct{ metrics []measure.Metric }

// maxSamples is how many measurements are worth keeping one by one.
const maxSamples = 32

func (r *recorder) add(name, unit string, value float64, samples ...float64) {
	if len(samples) > maxSamples {
		samples = nil
	}
	r.metrics = append(r.metrics, measure.Metric{Name: name, Unit: unit, Value: value, Samples: samples})
}

// median records the middle one of the samples.
func (r *recorder) median(name, unit string, samples []float64) {
	r.add(name, unit, measure.Quantile(samples, 0.5), samples...)
}
