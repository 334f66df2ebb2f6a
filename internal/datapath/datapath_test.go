package datapath

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"icvpn/esp"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
)

// manners are the three ways in which the work is shared out.
var manners = []struct {
	name string
	set  func(*Datapath)
}{
	{"company", crowd},
	{"lone, few cores", func(d *Datapath) { d.fewCores = true }},
	{"lone, many cores", func(d *Datapath) { d.fewCores = false }},
}

// crowd makes no tunnel alone.
func crowd(d *Datapath) { d.company.until.Store(math.MaxInt64) }

// Batches of every size, from one packet to what one Read may bring, IPv4 and
// IPv6, in every suite, received one by one and in trains: all arrive, as they
// were and in order, whoever processed them.
func TestPacketsArriveAsTheyWereAndInOrder(t *testing.T) {
	for i, suite := range append(esp.Suites(), esp.DefaultSuite) {
		for _, size := range []int{underlay.DefaultBuffer, underlay.TrainBuffer} {
			way := manners[i%len(manners)]
			t.Run(fmt.Sprintf("%v/buffer=%d/%s", suite, size, way.name), func(t *testing.T) {
				a, b, _ := newPair(t, simnet.Config{Trains: true}, suite, Policy{}, 1400)
				a.bufSize, b.bufSize = size, size
				way.set(a.path)
				way.set(b.path)
				a.start()
				b.start()
				rng := rand.New(rand.NewPCG(3, 4))
				seq := uint32(0)
				for range 40 {
					var sent, want [][]byte
					n := 1 + rng.IntN(maxBatch)
					if rng.IntN(2) == 0 {
						n = 1 + rng.IntN(4)
					}
					length := 40 + rng.IntN(1361)
					for range n {
						src, dst := in4A, in4B
						if rng.IntN(4) == 0 {
							src, dst = in6A, in6B
						}
						if rng.IntN(8) == 0 {
							length = 40 + rng.IntN(1361)
						}
						p := udp(src, dst, seq, length)
						seq++
						sent, want = append(sent, p), append(want, p)
					}
					for len(sent) > 0 { // one Read or several in a row
						k := 1 + rng.IntN(len(sent))
						a.dev.in <- sent[:k]
						sent = sent[k:]
					}
					same(t, b.dev.take(t, len(want)), want)
				}
				a.stop()
				b.stop()
				if rx, tx := b.tunnel.Stats().RxPackets.Load(), a.tunnel.Stats().TxPackets.Load(); rx != uint64(seq) || tx != uint64(seq) {
					t.Errorf("counted %d sent and %d received of %d", tx, rx, seq)
				}
			})
		}
	}
}

// What waits in a queue is the datapath's own: the reader fills its buffers again
// at once.
func TestQueuedPacketsAreNotTheReaders(t *testing.T) {
	for _, size := range []int{underlay.DefaultBuffer, underlay.TrainBuffer} {
		a, b, _ := newPair(t, simnet.Config{Trains: true}, esp.DefaultSuite, Policy{}, 1400)
		b.bufSize = size
		b.owner.block = make(chan struct{})
		crowd(a.path)
		crowd(b.path)
		a.start()
		b.start()
		var want [][]byte
		for seq := range uint32(600) {
			want = append(want, udp(in4A, in4B, seq, 60+int(seq)*7%1300))
		}
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%100)
			a.dev.in <- rest[:n]
			rest = rest[n:]
		}
		for b.owner.inside.Load() == 0 {
			runtime.Gosched()
		}
		go func() {
			for range want {
				b.owner.block <- struct{}{}
			}
		}()
		same(t, b.dev.take(t, len(want)), want)
	}
}

// A full queue drops what comes, counts it, and loses nothing else.
func TestFullQueueDropsAndCounts(t *testing.T) {
	a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	a.owner.block = make(chan struct{})
	crowd(a.path)
	a.start()
	const batches = 40
	for i := range uint32(batches) {
		var ps [][]byte
		for k := range uint32(100) {
			ps = append(ps, udp(in4A, in4B, i*100+k, 100))
		}
		a.dev.in <- ps
	}
	for a.path.Stats().QueueDrops.Load() == 0 || len(a.dev.in) > 0 {
		runtime.Gosched()
	}
	close(a.owner.block)
	for {
		drops := a.path.Stats().QueueDrops.Load()
		if a.tunnel.Stats().TxPackets.Load()+drops == batches*100 {
			if drops < batches*100-laneQueue-3*100 || drops > batches*100-laneQueue/2 {
				t.Errorf("%d of %d dropped with a queue of %d", drops, batches*100, laneQueue)
			}
			return
		}
		runtime.Gosched()
	}
}

// Alone, a tunnel with many cores waits for room in its queue: nothing is
// dropped, the rest waits where it came from.
func TestLoneTunnelWaitsInsteadOfDropping(t *testing.T) {
	a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	a.path.fewCores = false
	a.owner.block = make(chan struct{})
	a.start()
	const batches = 40
	for i := range uint32(batches) {
		var ps [][]byte
		for k := range uint32(100) {
			ps = append(ps, udp(in4A, in4B, i*100+k, 100))
		}
		a.dev.in <- ps
	}
	for a.path.waiting(a.tunnel) < laneQueue-100 {
		runtime.Gosched()
	}
	if len(a.dev.in) < batches/2 {
		t.Errorf("%d batches wait at the device, want most of %d", len(a.dev.in), batches)
	}
	close(a.owner.block)
	for a.tunnel.Stats().TxPackets.Load() < batches*100 {
		runtime.Gosched()
	}
	if n := a.path.Stats().QueueDrops.Load(); n != 0 {
		t.Errorf("%d dropped", n)
	}
}

func (d *Datapath) waiting(t *Tunnel) int {
	t.out.mu.Lock()
	defer t.out.mu.Unlock()
	return t.out.waiting
}

// Alone with few cores, the reader does everything.
func TestLoneTunnelRunsToCompletion(t *testing.T) {
	a, b, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	a.path.fewCores = true
	var ps [][]byte
	for i := range uint32(100) {
		ps = append(ps, udp(in4A, in4B, i, 100))
	}
	slots, sizes := make([][]byte, len(ps)), make([]int, len(ps))
	for i, p := range ps {
		slots[i] = make([]byte, a.path.mem.slot)
		sizes[i] = copy(slots[i][esp.Headroom:], p)
	}
	a.path.route(slots, sizes, true)
	if n := a.tunnel.Stats().TxPackets.Load(); n != 100 {
		t.Errorf("%d packets sent when route returns, want all 100", n)
	}
	b.conn.Close()
}

func TestCompanyIsRemembered(t *testing.T) {
	var c company
	one, other := new(Tunnel), new(Tunnel)
	const start = int64(time.Hour)
	for _, step := range []struct {
		t    *Tunnel
		at   time.Duration
		want bool
	}{
		{one, 0, true}, {one, time.Second, true},
		{other, 2 * time.Second, false}, {one, 3 * time.Second, false}, {one, 12 * time.Second, false},
		{one, 13 * time.Second, true}, {one, time.Minute, true}, {other, time.Minute, false},
	} {
		if got := c.lone(step.t, start+int64(step.at)); got != step.want {
			t.Errorf("after %v: lone %v", step.at, got)
		}
	}
}

// A tunnel whose work does not end keeps the reader from nobody.
func TestElephantDoesNotStarveAnother(t *testing.T) {
	net := simnet.New(simnet.Config{})
	a := newEnd(t, net, addrA, addrB, 0x1001, 0x2003, esp.DefaultSuite, Policy{}, 1400)
	b := newEnd(t, net, addrB, addrA, 0x2003, 0x1001, esp.DefaultSuite, Policy{}, 1400)
	elephantTo := netip.MustParseAddr("10.9.0.66")
	stuck := &owner{block: make(chan struct{})}
	elephant := a.path.NewTunnel(stuck, Policy{})
	elephant.SetWay(a.tunnel.Way())
	mouse := a.tunnel
	a.path.cfg.Route = func(dst netip.Addr) *Tunnel {
		if dst == elephantTo {
			return elephant
		}
		return mouse
	}
	a.start()
	b.start()
	a.dev.in <- [][]byte{udp(in4A, in4B, 1000, 84)}
	b.dev.take(t, 1)
	var herd [][]byte
	for i := range uint32(100) {
		herd = append(herd, udp(in4A, elephantTo, i, 1000))
	}
	for i := range uint32(50) {
		a.dev.in <- herd
		a.dev.in <- [][]byte{udp(in4A, in4B, i, 84)}
		got := b.dev.take(t, 1) // while the elephant's goroutine is stuck
		if len(got) != 1 || seqOf(got[0]) != i {
			t.Fatalf("ping %d: got %d packets", i, len(got))
		}
	}
	if stuck.inside.Load() != 1 {
		t.Errorf("%d goroutines work for the elephant, want 1", stuck.inside.Load())
	}
	close(stuck.block)
}

// Several busy tunnels are worked on at the same time.
func TestTunnelsWorkSideBySide(t *testing.T) {
	a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	crowd(a.path)
	const n = 4
	stuck := &owner{block: make(chan struct{})}
	byAddr := map[netip.Addr]*Tunnel{}
	for i := range byte(n) {
		tunnel := a.path.NewTunnel(stuck, Policy{})
		tunnel.SetWay(a.tunnel.Way())
		byAddr[netip.AddrFrom4([4]byte{10, 9, 1, i})] = tunnel
	}
	a.path.cfg.Route = func(dst netip.Addr) *Tunnel { return byAddr[dst] }
	a.start()
	for dst := range byAddr {
		var ps [][]byte
		for i := range uint32(inlineMax + 1) {
			ps = append(ps, udp(in4A, dst, i, 100))
		}
		a.dev.in <- ps
	}
	for stuck.inside.Load() < n { // all of them at once
		runtime.Gosched()
	}
	close(stuck.block)
}

// A tunnel that sends small batches without end does not keep the reader either:
// beyond its budget it goes to its own goroutine.
func TestInlineHasABudget(t *testing.T) {
	d := &Datapath{}
	var l lane
	l.init(d, func(*batch) {})
	inline := 0
	for range 1000 {
		if l.claim(1, 5*inlineSlot, false) {
			inline++
			l.finish(d.testBatch())
		}
	}
	if inline != inlineBudget {
		t.Errorf("%d packets inline within one slot, want %d", inline, inlineBudget)
	}
	if !l.claim(1, 6*inlineSlot, false) {
		t.Error("not inline in the next slot")
	}
	if l.claim(1, 7*inlineSlot, false) {
		t.Error("two workers on one lane")
	}
}

func (d *Datapath) testBatch() *batch {
	if d.mem.slot == 0 {
		d.mem.init(slotSize)
	}
	return d.mem.get()
}

// The goroutine of a lane ends, and idle tunnels cost nothing but memory.
func TestIdleTunnelsAreSmall(t *testing.T) {
	a, b, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	a.start()
	b.start()
	before := runtime.NumGoroutine()
	var ps [][]byte
	for i := range uint32(120) {
		ps = append(ps, udp(in4A, in4B, i, 1000))
	}
	a.dev.in <- ps
	b.dev.take(t, len(ps))
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before the traffic", runtime.NumGoroutine(), before)
		}
	}

	const n = 1000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	keep := make([]any, 0, 3*n)
	was := heap()
	for i := range uint32(n) {
		tunnel := a.path.NewTunnel(a.owner, Policy{})
		c := saConfig(1000+i, esp.DefaultSuite, byte(i|1))
		out, err := esp.NewOutbound(c)
		if err != nil {
			t.Fatal(err)
		}
		in, err := esp.NewInbound(c)
		if err != nil {
			t.Fatal(err)
		}
		tunnel.SetWay(&Way{SA: out, MTU: 1400})
		keep = append(keep, tunnel, out, in)
	}
	if each := (heap() - was) / n; each > 16<<10 {
		t.Errorf("an idle tunnel with its SAs costs %d bytes, want at most 16 KiB", each)
	} else {
		t.Logf("an idle tunnel with its SAs costs %d bytes", each)
	}
	runtime.KeepAlive(keep)
}

func TestNothingAllocatesPerPacket(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	a, b, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	var sealed []underlay.Message
	a.path.cfg.Send = func(ms []underlay.Message) (int, error) {
		for i := range ms {
			sealed[i].N = copy(sealed[i].Buf, ms[i].Bytes())
		}
		return len(ms), nil
	}
	b.owner.opened = make([]Opened, 0, 1<<12)
	a.owner.sealed = make([]Sealed, 0, 1<<12)
	b.path.cfg.Device = nullDevice{b.dev}
	for _, n := range []int{1, 8, 16} { // run to completion
		sealed = underlay.NewBatch(n, underlay.DefaultBuffer)
		slots, sizes := make([][]byte, n), make([]int, n)
		for i := range slots {
			slots[i] = make([]byte, a.path.mem.slot)
		}
		pkt := udp(in4A, in4B, 0, 1000)
		now := int64(0)
		allocs := testing.AllocsPerRun(200, func() {
			for i := range slots {
				sizes[i] = copy(slots[i][esp.Headroom:], pkt)
			}
			a.path.route(slots, sizes, true)
			b.path.Receive(sealed)
			now += inlineSlot
			a.tunnel.out.spent, b.tunnel.in.spent = 0, 0
		})
		if allocs > 0 {
			t.Errorf("%v allocations for %d packets there and back", allocs, n)
		}
	}
}

// nullDevice swallows what is written.
type nullDevice struct{ *fakeDevice }

func (nullDevice) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

func TestNewWantsItsFields(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty Config is taken")
	}
	c := Config{Device: newFakeDevice(), Send: func([]underlay.Message) (int, error) { return 0, nil }, SAD: new(esp.SAD),
		Route: func(netip.Addr) *Tunnel { return nil }, MaxMTU: 70000}
	if _, err := New(c); err == nil {
		t.Error("MaxMTU of 70000 is taken")
	}
}

func TestUnroutedAndForeignPacketsAreCounted(t *testing.T) {
	a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	lost := make(chan []byte, 1)
	a.path.cfg.Route = func(netip.Addr) *Tunnel { return nil }
	a.path.cfg.Unrouted = func(pkt []byte) { lost <- append([]byte(nil), pkt...) }
	p := udp(in4A, in4B, 7, 100)
	a.path.Inject(p)
	same(t, [][]byte{<-lost}, [][]byte{p})
	a.path.Inject([]byte{0x12, 0x34})
	if s := a.path.Stats(); s.Unrouted.Load() != 1 || s.NotIP.Load() != 1 {
		t.Errorf("unrouted %d, no IP %d, want 1 and 1", s.Unrouted.Load(), s.NotIP.Load())
	}
}

func TestWithoutSAPacketsGoToTheOwner(t *testing.T) {
	a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	a.tunnel.SetWay(nil)
	a.path.Inject(udp(in4A, in4B, 7, 100))
	if a.owner.noSA != 1 || a.path.Stats().NoSA.Load() != 1 {
		t.Errorf("owner got %d, counted %d", a.owner.noSA, a.path.Stats().NoSA.Load())
	}
	if _, err := a.tunnel.Dummy(time.Now(), 0); !errors.Is(err, ErrNoSA) {
		t.Errorf("a dummy without SA: %v", err)
	}
}
