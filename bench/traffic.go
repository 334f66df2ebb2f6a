//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"icvpn/bench/internal/measure"
	"icvpn/internal/lab"
)

const bulkPort = 5001

// received is what came out of a TCP stream.
type received struct {
	bytes int64
	took  time.Duration
}

func (r received) megabits() float64 { return float64(r.bytes) * 8 / 1e6 / r.took.Seconds() }

// bulk sends one TCP stream for d and returns what the receiver got.
func bulk(ctx context.Context, from, to *lab.Host, addr netip.Addr, d time.Duration) (received, error) {
	began := time.Now()
	s, err := measure.StartStream(measure.TCP{From: from, To: to, At: netip.AddrPortFrom(addr, bulkPort)})
	if err != nil {
		return received{}, err
	}
	err = measure.Sleep(ctx, d)
	err = errors.Join(err, s.Stop())
	return received{s.Received(), time.Since(began)}, err
}
