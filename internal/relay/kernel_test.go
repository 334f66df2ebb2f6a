package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"icvpn/internal/underlay"
)

// loopback is a relay and two members on sockets of the kernel, which joins what it can to
// trains.
type loopback struct {
	relay, alice, bob *underlay.Conn
	sender, receiver  *Conn
	to                netip.AddrPort // bob, for alice
}

func newLoopback(t testing.TB, l Limits) *loopback {
	t.Helper()
	listen := func() (*underlay.Conn, netip.AddrPort) {
		c, err := underlay.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.Port())
	}
	n := new(loopback)
	var at, a, b netip.AddrPort
	n.relay, at = listen()
	n.alice, a = listen()
	n.bob, b = listen()
	n.sender, n.receiver = NewConn(n.alice), NewConn(n.bob)
	n.sender.setRoutes([]route{{n: 1, relay: at, own: ID{1}}})
	n.receiver.setRoutes([]route{{n: 1, relay: at, own: ID{2}}})
	n.to = virtual(ID{2}, 1)
	table := NewTable([32]byte{}, l)
	now := time.Now()
	of := table.part(service)
	table.hold(now, ID{1}, of, service, a)
	table.hold(now, ID{2}, of, service, b)
	go func() {
		ms := underlay.NewBatch(underlay.BatchSize, underlay.TrainBuffer)
		for r := n.relay.Readers()[0]; ; {
			k, err := r.ReadBatch(ms)
			if err != nil {
				return
			}
			table.Forward(time.Now(), ms[:k], n.relay.WriteBatch)
		}
	}()
	return n
}

// batch returns count messages of size bytes with numbers in them.
func (n *loopback) batch(first, count, size int) []underlay.Message {
	ms := make([]underlay.Message, count)
	for i := range ms {
		b := bytes.Repeat([]byte{byte(first + i)}, size)
		binary.BigEndian.PutUint32(b, uint32(first+i))
		ms[i] = underlay.Message{Buf: b, N: size, Addr: n.to}
	}
	return ms
}

// TestTrainsCrossTheKernel: what goes through relay and sockets in trains arrives as it was,
// whatever the kernel makes of it.
func TestTrainsCrossTheKernel(t *testing.T) {
	n := newLoopback(t, Limits{})
	r := n.receiver.Readers()[0]
	in := underlay.NewBatch(underlay.BatchSize, underlay.TrainBuffer)
	number := 1
	for _, size := range []int{20, 1400, 1188, 1400} {
		if k, err := n.sender.WriteBatch(n.batch(number, 40, size)); k != 40 || err != nil {
			t.Fatal(k, err)
		}
		for next := number; next < number+40; {
			k, err := r.ReadBatch(in)
			if err != nil {
				t.Fatal(err)
			}
			for i := range in[:k] {
				for _, d := range in[i].Datagrams() {
					want := n.batch(next, 1, size)[0].Buf
					if !bytes.Equal(d, want) || in[i].Addr != virtual(ID{1}, 1) {
						t.Fatalf("datagram %d: %d bytes from %v, %x", next, len(d), in[i].Addr, d[:4])
					}
					next++
				}
			}
		}
		number += 40
	}
	t.Logf("trains: %d sent, %d read", n.alice.Stats().WriteTrains.Load(), n.bob.Stats().ReadTrains.Load())
}

func BenchmarkRelay(b *testing.B) {
	for _, size := range []int{200, 1400} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			n := newLoopback(b, Limits{Rate: 1 << 30, Burst: 1 << 30, TotalRate: 1 << 30, TotalBurst: 1 << 30})
			var got atomic.Int64
			go func() {
				ms := underlay.NewBatch(underlay.BatchSize, underlay.TrainBuffer)
				for r := n.receiver.Readers()[0]; ; {
					k, err := r.ReadBatch(ms)
					if err != nil {
						return
					}
					for i := range ms[:k] {
						got.Add(int64(ms[i].Count()))
					}
				}
			}()
			ms := n.batch(0, 40, size)
			b.SetBytes(int64(size))
			for sent := int64(0); b.Loop(); sent++ {
				if sent%40 == 0 {
					// What the sockets hold is not more; and what got lost does not come.
					for tries := 0; sent-got.Load() > 400 && tries < 100; tries++ {
						time.Sleep(10 * time.Microsecond)
					}
					if _, err := n.sender.WriteBatch(ms); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
