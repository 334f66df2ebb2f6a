package overlay

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"icvpn/internal/id"
)

// A query answered, with a full table: datagrams a second, and no allocation.
func BenchmarkAnswer(b *testing.B) {
	m := peerOf(b, "m")
	m.cfg.AnswerRate = 1 << 30
	m.answers = newLimiter[netip.Prefix](1 << 30)
	m.Start(day)
	for i := range 200 {
		m.table.onAnswer(day, Node{id.Hash("n", []byte{byte(i)}), at(byte(i))})
	}
	it := signed("", 1, "x")
	m.store.putItem(day, it, own)
	m.Flush(func(Datagram) error { return nil })
	for name, msg := range map[string]message{
		"ping":      {q: ping},
		"find_node": {q: findNode, target: testTarget, has: hasTarget},
		"get":       {q: get, target: Target(it.Key, nil), has: hasTarget},
	} {
		msg.kind, msg.t, msg.id, msg.has = query, []byte("123456789"), id.Hash("n", []byte{1}), msg.has|hasArgs|hasID
		pkt := msg.append(nil)
		b.Run("query="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Receive(day, pkt, at(1), nil)
				m.Flush(func(Datagram) error { return nil })
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "datagrams/s")
		})
	}
}

// What an idle node of a service of a thousand keeps: 60 contacts.
func BenchmarkIdleMemory(b *testing.B) {
	const nodes = 200
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var all []*Overlay
		for i := range nodes {
			o, err := New(Config{Self: id.Hash("node", fmt.Append(nil, i)), Transport: nowhere{}})
			if err != nil {
				b.Fatal(err)
			}
			for j := range 1000 {
				o.machine.table.onAnswer(day, Node{id.Hash("n", fmt.Append(nil, j)), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(j >> 8), byte(j), 1}), 4500)})
			}
			all = append(all, o)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/nodes, "B/node")
		runtime.KeepAlive(all)
	}
}

type nowhere struct{}

func (nowhere) WriteTo([]byte, netip.AddrPort) error { return nil }

// Answering allocates nothing.
func TestAnsweringAllocatesNothing(t *testing.T) {
	m := peerOf(t, "m")
	m.Start(day)
	for i := range 200 {
		m.table.onAnswer(day, Node{id.Hash("n", []byte{byte(i)}), at(byte(i))})
	}
	m.Flush(func(Datagram) error { return nil })
	now := day
	for _, q := range []method{ping, findNode, get} {
		msg := message{kind: query, q: q, t: []byte("123456789"), id: id.Hash("n", []byte{1}), target: testTarget, has: hasArgs | hasID | hasTarget}
		if q == ping {
			msg.has &^= hasTarget
		}
		pkt := msg.append(nil)
		if n := testing.AllocsPerRun(100, func() {
			now = now.Add(time.Millisecond)
			m.Receive(now, pkt, at(1), nil)
			m.Flush(func(Datagram) error { return nil })
		}); n > 0 {
			t.Errorf("%s: %v allocations", q, n)
		}
	}
}
