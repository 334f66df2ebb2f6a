package main

import (
	"runtime"
	"testing"
)

func TestOneTunnelOnTwoProcessorsKeepsToOne(t *testing.T) {
	before := runtime.GOMAXPROCS(2)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	for _, c := range []struct {
		has, tunnels int
		env          string
		want         int
	}{
		{has: 2, tunnels: 1, want: 1},
		{has: 2, tunnels: 1, env: "2", want: 2},
		{has: 2, tunnels: 2, want: 2},
		{has: 4, tunnels: 1, want: 4},
		{has: 1, tunnels: 1, want: 1},
	} {
		runtime.GOMAXPROCS(c.has)
		t.Setenv("GOMAXPROCS", c.env)
		oneProcessor(c.tunnels)
		if got := runtime.GOMAXPROCS(0); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
