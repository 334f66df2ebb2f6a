package datapath

import (
	"fmt"
	"testing"

	"icvpn/esp"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
)

// What the data path adds to sealing and opening: device and port do nothing.
// 46 packets are one TCP super-packet, one is a ping.
func BenchmarkDatapath(b *testing.B) {
	for _, suite := range []esp.Suite{esp.AES128CBCSHA256, esp.AES128GCM} {
		for _, n := range []int{1, 46} {
			for _, dir := range []string{"out", "in"} {
				b.Run(fmt.Sprintf("suite=%v/packets=%d/dir=%s", suite, n, dir), func(b *testing.B) {
					benchmark(b, suite, n, dir == "in")
				})
			}
		}
	}
}

func benchmark(b *testing.B, suite esp.Suite, n int, inbound bool) {
	const size = 1400
	from, to, _ := newPair(b, simnet.Config{}, suite, Policy{}, size)
	from.path.fewCores, to.path.fewCores = true, true
	from.tunnel.owner, to.tunnel.owner = &quiet{}, &quiet{}
	to.path.cfg.Device = nullDevice{to.dev}
	sealed := make([]underlay.Message, 1)
	sealed[0].Buf = make([]byte, underlay.TrainBuffer)
	from.path.cfg.Send = func(ms []underlay.Message) (int, error) {
		if inbound {
			at := 0
			for i := range ms {
				at += copy(sealed[0].Buf[at:], ms[i].Bytes())
			}
			sealed[0].N, sealed[0].Segment = at, ms[0].N
			if len(ms) == 1 {
				sealed[0].Segment = 0
			}
		}
		return len(ms), nil
	}
	slots, sizes := make([][]byte, n), make([]int, n)
	for i := range slots {
		slots[i] = make([]byte, from.path.mem.slot)
	}
	pkt := udp(in4A, in4B, 0, size)
	b.SetBytes(int64(n * size))
	b.ReportAllocs()
	for b.Loop() {
		if inbound {
			b.StopTimer()
		}
		for i := range slots {
			sizes[i] = copy(slots[i][esp.Headroom:], pkt)
		}
		from.path.route(slots, sizes, true)
		if inbound {
			b.StartTimer()
			to.path.Receive(sealed)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/packet")
}

// quiet allows everything and remembers nothing.
type quiet struct{ owner }

func (*quiet) Sealed(Sealed) {}
func (*quiet) Opened(Opened) {}
