package simnet

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"icvpn/internal/underlay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// transport is what a node uses; the real and the simulated Conn both fit.
type transport interface {
	Readers() []underlay.Reader
	WriteBatch([]underlay.Message) (int, error)
	Port() uint16
	IPv6Err() error
	Stats() *underlay.Stats
	Close() error
}

var (
	_ transport = (*underlay.Conn)(nil)
	_ transport = (*Conn)(nil)

	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
	addr6 = netip.MustParseAddr("2001:db8::1")
)

func listen(tb testing.TB, n *Network, addrs ...netip.Addr) *Conn {
	tb.Helper()
	c, err := n.Listen(4500, addrs...)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// exchange sends n numbered datagrams a millisecond apart from A to B and
// returns the numbers that arrived, in order, with the time of the last.
func exchange(t *testing.T, cfg Config, n int) (got []uint64, took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		net := New(cfg)
		a, b := listen(t, net, addrA), listen(t, net, addrB)
		start, done := time.Now(), make(chan struct{})
		go func() {
			defer close(done)
			ms := underlay.NewBatch(underlay.BatchSize, 64)
			for {
				k, err := b.Readers()[0].ReadBatch(ms)
				if err != nil {
					return
				}
				for _, m := range ms[:k] {
					got = append(got, binary.BigEndian.Uint64(m.Bytes()))
					took = time.Since(start)
				}
			}
		}()
		for i := range n {
			m := underlay.NewBatch(1, 8)
			binary.BigEndian.PutUint64(m[0].Buf, uint64(i))
			m[0].N, m[0].Addr = 8, netip.AddrPortFrom(addrB, 4500)
			if sent, err := a.WriteBatch(m); sent != 1 || err != nil {
				t.Fatal(sent, err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Hour)
		b.Close()
		<-done
	})
	return got, took
}

func TestPerfectNetworkDeliversAllInOrder(t *testing.T) {
	got, _ := exchange(t, Config{}, 100)
	if len(got) != 100 || !slices.IsSorted(got) {
		t.Fatalf("got %v", got)
	}
}

func TestLatencyAndJitterDelayButKeepOrder(t *testing.T) {
	got, took := exchange(t, Config{Link: Link{Latency: 40 * time.Millisecond, Jitter: 30 * time.Millisecond}}, 100)
	if len(got) != 100 || !slices.IsSorted(got) {
		t.Fatalf("got %v", got)
	}
	if took < 99*time.Millisecond+40*time.Millisecond || took > 99*time.Millisecond+70*time.Millisecond {
		t.Fatalf("the last arrived after %v", took)
	}
}

func TestFaultsFollowTheSeed(t *testing.T) {
	cfg := Config{Seed: 1, Link: Link{Latency: 5 * time.Millisecond, Loss: 0.2, Duplicate: 0.1, Reorder: 0.2}}
	first, _ := exchange(t, cfg, 500)
	second, _ := exchange(t, cfg, 500)
	cfg.Seed = 2
	other, _ := exchange(t, cfg, 500)
	if !slices.Equal(first, second) {
		t.Error("the same seed gave two runs")
	}
	if slices.Equal(first, other) {
		t.Error("two seeds gave one run")
	}
	if slices.IsSorted(first) {
		t.Error("nothing was reordered")
	}
	once := slices.Compact(slices.Sorted(slices.Values(first)))
	if len(once) == len(first) {
		t.Error("nothing was duplicated")
	}
	if len(once) < 350 || len(once) > 450 {
		t.Errorf("%d of 500 arrived with 20 %% loss", len(once))
	}
}

func TestLinkDownAndMTUDropSilently(t *testing.T) {
	if got, _ := exchange(t, Config{Link: Link{Down: true}}, 10); len(got) != 0 {
		t.Errorf("a link that is down delivered %v", got)
	}
	if got, _ := exchange(t, Config{Link: Link{MTU: 7}}, 10); len(got) != 0 {
		t.Errorf("an MTU of 7 let 8 bytes pass: %v", got)
	}
}

func TestSetLinkActsInOneDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Config{})
		a, b := listen(t, n, addrA), listen(t, n, addrB)
		n.SetLink(addrA, addrB, Link{Down: true})
		send := func(c *Conn, to netip.Addr) {
			m := underlay.NewBatch(1, 8)
			m[0].N, m[0].Addr = 8, netip.AddrPortFrom(to, 4500)
			c.WriteBatch(m)
		}
		send(a, addrB)
		send(b, addrA)
		ms := underlay.NewBatch(1, 64)
		if k, err := a.Readers()[0].ReadBatch(ms); k != 1 || err != nil || ms[0].Addr.Addr() != addrB {
			t.Fatal(k, err, ms[0].Addr)
		}
		if got := b.Stats().ReadPackets.Load(); got != 0 || len(b.boxes[0].ready) != 0 {
			t.Fatal("the blocked direction delivered")
		}
	})
}

func TestInterceptSeesAndChangesDatagrams(t *testing.T) {
	cfg := Config{Intercept: func(from, to netip.AddrPort, b []byte) bool {
		if from.Addr() != addrA || to.Addr() != addrB {
			return false
		}
		b[0] = 1
		return b[7]%2 == 0
	}}
	got, _ := exchange(t, cfg, 4)
	if want := []uint64{1 << 56, 1<<56 + 2}; !slices.Equal(got, want) {
		t.Fatalf("got %x, want %x", got, want)
	}
}

func TestConnBehavesAsARealOne(t *testing.T) {
	n := New(Config{})
	c := listen(t, n, addrA)
	var inUse *underlay.PortInUseError
	if _, err := n.Listen(4500, addrA); !errors.As(err, &inUse) || inUse.Port != 4500 {
		t.Errorf("second Listen: %v", err)
	}
	if _, err := n.Listen(1, addrA, addrB); err == nil {
		t.Error("two IPv4 addresses accepted")
	}
	free, err := n.Listen(0, addrA, addr6)
	if err != nil || free.Port() == 0 || free.IPv6Err() != nil || len(free.Readers()) != 2 {
		t.Errorf("Listen on port 0: %v, port %d", err, free.Port())
	}
	if !errors.Is(c.IPv6Err(), underlay.ErrNoFamily) {
		t.Errorf("IPv6Err: %v", c.IPv6Err())
	}
	ms := underlay.NewBatch(2, 8)
	ms[0].N, ms[0].Addr = 8, netip.AddrPortFrom(addr6, 4500)
	ms[1].Addr = netip.AddrPortFrom(addrA, 4500)
	if sent, err := c.WriteBatch(ms); sent != 0 || err != nil ||
		!errors.Is(ms[0].Err, underlay.ErrNoFamily) || !errors.Is(ms[1].Err, underlay.ErrBadMessage) {
		t.Errorf("sent %d, %v, errors %v and %v", sent, err, ms[0].Err, ms[1].Err)
	}
	ms[1].N = 8
	if sent, err := c.WriteBatch(ms[1:]); sent != 1 || err != nil {
		t.Error(sent, err)
	}
	if k, err := c.Readers()[0].ReadBatch(underlay.NewBatch(1, 4)); k != 1 || err != nil || c.Stats().ReadTooLong.Load() != 1 {
		t.Error("a datagram longer than its buffer was not counted")
	}
	c.Close()
	c.Close()
	if _, err := c.WriteBatch(ms[1:]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	if _, err := c.Readers()[0].ReadBatch(ms); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if _, err := n.Listen(4500, addrA); err != nil {
		t.Errorf("the address of a closed Conn is still taken: %v", err)
	}
}

// trainNet has A and B, and a reader of B with buffers for trains.
func trainNet(t *testing.T, cfg Config) (n *Network, a, b *Conn, in []underlay.Message) {
	n = New(cfg)
	return n, listen(t, n, addrA), listen(t, n, addrB), underlay.NewBatch(8, underlay.TrainBuffer)
}

func to(addr netip.Addr, sizes ...int) []underlay.Message {
	ms := make([]underlay.Message, len(sizes))
	for i, size := range sizes {
		b := make([]byte, size)
		b[0] = byte(i)
		ms[i] = underlay.Message{Buf: b, N: size, Addr: netip.AddrPortFrom(addr, 4500)}
	}
	return ms
}

func TestTrainsFormAsInTheKernel(t *testing.T) {
	for _, trains := range []bool{true, false} {
		_, a, b, in := trainNet(t, Config{Trains: trains})
		out := to(addrB, 100, 100, 40, 100, 100, 100, 200, 200)
		out[4].TOS, out[5].TOS = 2, 2
		if n, err := a.WriteBatch(out); n != len(out) || err != nil {
			t.Fatal(n, err)
		}
		var shape, content []int
		for len(content) < len(out) {
			k, err := b.Readers()[0].ReadBatch(in[:3])
			if err != nil {
				t.Fatal(err)
			}
			for i := range in[:k] {
				shape = append(shape, in[i].N)
				for _, d := range in[i].Datagrams() {
					if len(d) != out[len(content)].N || in[i].TOS != out[len(content)].TOS {
						t.Fatalf("datagram %d has %d bytes and TOS %d", len(content), len(d), in[i].TOS)
					}
					content = append(content, int(d[0]))
				}
			}
		}
		want, carried := []int{240, 100, 200, 400}, uint64(3)
		if !trains {
			want, carried = []int{100, 100, 40, 100, 100, 100, 200, 200}, 0
		}
		if !slices.Equal(shape, want) || !slices.IsSorted(content) || b.Stats().ReadTrains.Load() != carried || b.Stats().ReadPackets.Load() != 8 {
			t.Errorf("trains %v: messages of %v, datagrams %v, counted %d in %d trains", trains, shape, content, b.Stats().ReadPackets.Load(), b.Stats().ReadTrains.Load())
		}
	}
}

func TestTrainsNeedLargeBuffersAndAreBounded(t *testing.T) {
	_, a, b, in := trainNet(t, Config{Trains: true})
	a.WriteBatch(to(addrB, 100, 100))
	if k, err := b.Readers()[0].ReadBatch(underlay.NewBatch(4, 200)); k != 2 || err != nil {
		t.Error(k, err)
	}
	a.WriteBatch(to(addrB, slices.Repeat([]int{10}, maxTrain+1)...))
	if k, err := b.Readers()[0].ReadBatch(in); k != 2 || err != nil || in[0].Count() != maxTrain || in[1].Count() != 1 {
		t.Error(k, err, in[0].Count())
	}
	a.WriteBatch(to(addrB, slices.Repeat([]int{30000}, 3)...))
	if k, err := b.Readers()[0].ReadBatch(in); k != 2 || err != nil || in[0].N != 60000 || in[1].N != 30000 {
		t.Error(k, err, in[0].N, in[1].N)
	}
	train := to(addrB, 10)
	train[0].Segment = 5
	if n, err := a.WriteBatch(train); n != 0 || err != nil || !errors.Is(train[0].Err, underlay.ErrBadMessage) {
		t.Error("a train was taken for writing", n, err)
	}
}

func TestInterfaceRefusesWhatIsTooLong(t *testing.T) {
	n, a, b, in := trainNet(t, Config{})
	n.SetLink(addrA, addrB, Link{Interface: 1000})
	if err := a.SetDontFragment(true); err != nil {
		t.Fatal(err)
	}
	out := to(addrB, 1001, 1000, 65508)
	if k, err := a.WriteBatch(out); k != 1 || err != nil || !errors.Is(out[0].Err, underlay.ErrTooLong) || !errors.Is(out[2].Err, underlay.ErrTooLong) {
		t.Fatal(k, err, out[0].Err, out[2].Err)
	}
	if k, err := b.Readers()[0].ReadBatch(in); k != 1 || err != nil || in[0].N != 1000 {
		t.Fatal(k, err, in[0].N)
	}
}

func TestCongestedLinkMarksWhatIsECNCapable(t *testing.T) {
	_, a, b, in := trainNet(t, Config{Link: Link{Congested: true}})
	out := to(addrB, 1, 1, 1, 1)
	for i, tos := range []uint8{0xB8, 0xB9, 0xBA, 0xBB} {
		out[i].TOS = tos
	}
	if k, err := a.WriteBatch(out); k != 4 || err != nil {
		t.Fatal(k, err)
	}
	if k, err := b.Readers()[0].ReadBatch(in); k != 4 || err != nil {
		t.Fatal(k, err)
	}
	for i, want := range []uint8{0xB8, 0xBB, 0xBB, 0xBB} {
		if in[i].TOS != want || out[i].TOS&^underlay.ECNMask != 0xB8 {
			t.Errorf("TOS %#x arrived as %#x, want %#x", out[i].TOS, in[i].TOS, want)
		}
	}
}
