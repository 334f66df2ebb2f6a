package underlay

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
)

// One TCP super-packet of the TUN device, sealed.
const (
	benchSize  = 1428
	benchBatch = 46
)

// BenchmarkLoopback is one goroutine that writes and reads: the cost of the
// calls alone.
func BenchmarkLoopback(b *testing.B) {
	for _, trains := range []bool{true, false} {
		b.Run(fmt.Sprintf("trains=%v", trains), func(b *testing.B) {
			c := listen(b)
			c.v4.trains = trains
			r, in := c.Readers()[0], benchBuffers(trains)
			out := sized(netip.AddrPortFrom(loop4, c.Port()), repeat(benchBatch, benchSize)...)
			b.SetBytes(benchBatch * benchSize)
			b.ReportAllocs()
			for b.Loop() {
				c.WriteBatch(out)
				for n := 0; n < len(out); {
					k, _ := r.ReadBatch(in)
					for i := range in[:k] {
						n += in[i].Count()
					}
				}
			}
		})
	}
}

func benchBuffers(trains bool) []Message {
	if trains {
		return NewBatch(BatchSize, TrainBuffer)
	}
	return NewBatch(BatchSize, DefaultBuffer)
}

// BenchmarkPath sends from one namespace through the lab's router to another:
// two veth links, with and without their offloads, with trains and with single
// datagrams. It reports what arrives, and the CPU time of both ends and of the
// kernel on their behalf.
func BenchmarkPath(b *testing.B) {
	for _, offload := range []bool{true, false} {
		for _, family := range []string{"IPv4", "IPv6"} {
			for _, trains := range []bool{true, false} {
				b.Run(fmt.Sprintf("offload=%v/family=%s/trains=%v", offload, family, trains), func(b *testing.B) {
					p := newPath(b, lab.Config{}, offload)
					if p.reader[family] == nil {
						b.Skip("this machine has no " + family)
					}
					for _, s := range []*socket{p.a.v4, p.a.v6} {
						if s != nil {
							s.trains = trains
						}
					}
					stream(b, p, family, benchBuffers(trains))
				})
			}
		}
	}
}

// streamWindow bounds what is under way, as the inner TCP's window does: less
// than a socket buffer, and less than the 1000 packets of the kernel's backlog.
const streamWindow = 12 * benchBatch * benchSize

// stream moves b.N batches and reports.
func stream(b *testing.B, p *path, family string, in []Message) {
	out := sized(p.to[family], repeat(benchBatch, benchSize)...)
	var got, calls atomic.Int64
	room := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			k, err := p.reader[family].ReadBatch(in)
			if err != nil {
				return
			}
			for i := range in[:k] {
				got.Add(int64(in[i].N))
			}
			calls.Add(1)
			select {
			case room <- struct{}{}:
			default:
			}
		}
	}()
	sent, lost := int64(0), int64(0)
	await := func(window int64) {
		for sent-lost-got.Load() > window {
			select {
			case <-room:
			case <-time.After(100 * time.Millisecond): // what is missing by now is lost
				lost = sent - got.Load()
			}
		}
	}
	b.ResetTimer()
	start, cpu := time.Now(), cpuTime()
	for range b.N {
		await(streamWindow)
		if _, err := p.a.WriteBatch(out); err != nil {
			b.Fatal(err)
		}
		sent += benchBatch * benchSize
	}
	await(0)
	took, used := time.Since(start), cpuTime()-cpu
	b.StopTimer()
	p.b.Close()
	<-done
	bytes := float64(got.Load())
	b.SetBytes(benchBatch * benchSize)
	b.ReportMetric(bytes/benchSize/took.Seconds(), "datagrams/s")
	b.ReportMetric(used.Seconds()/bytes*1e9, "cpu-s/GB")
	b.ReportMetric(bytes/benchSize/float64(calls.Load()), "datagrams/read")
	b.ReportMetric(100*(1-bytes/float64(sent)), "%lost")
}

// cpuTime is user and system time of this process.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
