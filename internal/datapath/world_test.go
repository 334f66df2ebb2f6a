package datapath

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"icvpn/esp"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
	"icvpn/tun"
)

// fakeDevice is a TUN device whose kernel is the test.
type fakeDevice struct {
	in   chan [][]byte // a Read brings one element
	once sync.Once
	done chan struct{}

	mu  sync.Mutex
	out [][]byte
	got chan struct{} // capacity 1: something was written
}

var _ tun.Device = (*fakeDevice)(nil)

func newFakeDevice() *fakeDevice {
	return &fakeDevice{in: make(chan [][]byte, 1024), done: make(chan struct{}), got: make(chan struct{}, 1)}
}

func (d *fakeDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case ps := <-d.in:
		for i, p := range ps {
			sizes[i] = copy(bufs[i][offset:], p)
		}
		return len(ps), nil
	case <-d.done:
		return 0, tun.ErrClosed
	}
}

// Write keeps copies.
func (d *fakeDevice) Write(bufs [][]byte, offset int) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range bufs {
		d.out = append(d.out, append([]byte(nil), b[offset:]...))
	}
	select {
	case d.got <- struct{}{}:
	default:
	}
	return len(bufs), nil
}

func (d *fakeDevice) MTU() (int, error) { return 1500, nil }
func (d *fakeDevice) Name() string      { return "fake0" }
func (d *fakeDevice) BatchSize() int    { return tun.MaxBatch }
func (d *fakeDevice) Close() error      { d.once.Do(func() { close(d.done) }); return nil }

// take returns what was written until there are n packets.
func (d *fakeDevice) take(t *testing.T, n int) (out [][]byte) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		d.mu.Lock()
		out = append(out, d.out...)
		d.out = nil
		d.mu.Unlock()
		if len(out) >= n {
			return out
		}
		select {
		case <-d.got:
		case <-deadline:
			t.Fatalf("%d packets came out of the device, want %d", len(out), n)
		}
	}
}

// owner is a conductor that allows everything and notes what it is told.
type owner struct {
	mu     sync.Mutex
	sealed []Sealed
	opened []Opened
	noSA   int
	deny   func(pkt []byte) bool
	block  chan struct{} // if not nil, Outbound and Inbound wait for it
	inside atomic.Int32  // waiting there
}

func (o *owner) allow(pkt []byte) bool {
	if o.block != nil {
		o.inside.Add(1)
		<-o.block
		o.inside.Add(-1)
	}
	return o.deny == nil || !o.deny(pkt)
}

func (o *owner) Outbound(pkt []byte, _ time.Time) bool { return o.allow(pkt) }
func (o *owner) Inbound(pkt []byte, _ time.Time) bool  { return o.allow(pkt) }
func (o *owner) NoSA([]byte)                           { o.mu.Lock(); o.noSA++; o.mu.Unlock() }
func (o *owner) Sealed(s Sealed)                       { o.mu.Lock(); o.sealed = append(o.sealed, s); o.mu.Unlock() }
func (o *owner) Opened(p Opened)                       { o.mu.Lock(); o.opened = append(o.opened, p); o.mu.Unlock() }

var (
	addrA, addrB = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	in4A, in4B   = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	in6A, in6B   = netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2")
)

const port = 4500

// end is one machine: a datapath on a fake device, with one tunnel to everywhere.
type end struct {
	t       testing.TB
	dev     *fakeDevice
	conn    *simnet.Conn
	sad     esp.SAD
	path    *Datapath
	owner   *owner
	tunnel  *Tunnel
	out     *esp.Outbound
	loops   sync.WaitGroup
	bufSize int
}

func saConfig(spi uint32, suite esp.Suite, seed byte) esp.Config {
	k := suite.KeySizes()
	fill := func(n int, s byte) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = s + byte(i)*seed
		}
		return b
	}
	return esp.Config{SPI: spi, Suite: suite, Born: time.Now(), Limits: esp.Limits{Age: 1000 * time.Hour},
		Keys: esp.Keys{Enc: fill(k.Enc, seed), Int: fill(k.Int, seed+1), IV: fill(k.IV, seed+2), Salt: fill(k.Salt, seed+3)}}
}

// newEnd makes an end that sends on SPI out and receives on SPI in.
func newEnd(t testing.TB, net *simnet.Network, self, peer netip.Addr, out, in uint32, suite esp.Suite, policy Policy, mtu int) *end {
	t.Helper()
	conn, err := net.Listen(port, self)
	if err != nil {
		t.Fatal(err)
	}
	e := &end{t: t, dev: newFakeDevice(), conn: conn, owner: &owner{}, bufSize: underlay.DefaultBuffer}
	e.path, err = New(Config{
		Device: e.dev, Send: conn.WriteBatch, SAD: &e.sad, MaxMTU: 9000,
		Route: func(netip.Addr) *Tunnel { return e.tunnel },
	})
	if err != nil {
		t.Fatal(err)
	}
	e.tunnel = e.path.NewTunnel(e.owner, policy)
	if e.out, err = esp.NewOutbound(saConfig(out, suite, byte(out))); err != nil {
		t.Fatal(err)
	}
	c := saConfig(in, suite, byte(in))
	c.Owner = e.tunnel
	sa, err := esp.NewInbound(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.sad.Install(sa); err != nil {
		t.Fatal(err)
	}
	e.tunnel.SetWay(&Way{SA: e.out, Path: netip.AddrPortFrom(peer, port), MTU: mtu})
	return e
}

// start runs the loops until the test ends.
func (e *end) start() {
	e.loops.Go(func() {
		if err := e.path.ReadLoop(); err != nil {
			e.t.Error(err)
		}
	})
	for _, r := range e.conn.Readers() {
		e.loops.Go(func() {
			batch := underlay.NewBatch(underlay.BatchSize, e.bufSize)
			for {
				n, err := r.ReadBatch(batch)
				if err != nil {
					return
				}
				e.path.Receive(batch[:n])
				for _, m := range batch[:n] { // ours again: whoever still reads it is wrong
					b := m.Bytes()
					for k := range b {
						b[k] = 0xdd
					}
				}
			}
		})
	}
	e.t.Cleanup(e.stop)
}

// stop ends the loops and waits for all work to be done.
func (e *end) stop() {
	e.dev.Close()
	e.conn.Close()
	e.loops.Wait()
	e.path.Wait()
}

// newPair returns two ends with keys for each other.
func newPair(t testing.TB, cfg simnet.Config, suite esp.Suite, policy Policy, mtu int) (a, b *end, net *simnet.Network) {
	t.Helper()
	net = simnet.New(cfg)
	a = newEnd(t, net, addrA, addrB, 0x1001, 0x2003, suite, policy, mtu)
	b = newEnd(t, net, addrB, addrA, 0x2003, 0x1001, suite, policy, mtu)
	return a, b, net
}

// udp returns an inner packet with a number in it.
func udp(src, dst netip.Addr, seq uint32, size int) []byte {
	head := 28
	if src.Is6() {
		head = 48
	}
	b := make([]byte, max(size, head+4))
	for i := head + 4; i < len(b); i++ {
		b[i] = byte(uint32(i) * (seq + 1))
	}
	if src.Is4() {
		b[0], b[8], b[9] = 0x45, 64, 17
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		var s uint32
		for i := 0; i < 20; i += 2 {
			s += uint32(b[i])<<8 | uint32(b[i+1])
		}
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		binary.BigEndian.PutUint16(b[10:], ^uint16(s))
	} else {
		b[0], b[6], b[7] = 0x60, 17, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
	}
	binary.BigEndian.PutUint32(b[head:], seq)
	return b
}

func seqOf(pkt []byte) uint32 {
	if pkt[0]>>4 == 6 {
		return binary.BigEndian.Uint32(pkt[48:])
	}
	return binary.BigEndian.Uint32(pkt[28:])
}

func same(t testing.TB, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("packet %d of %d: % x ..., want % x ...", i, len(got), got[i][:min(len(got[i]), 40)], want[i][:min(len(want[i]), 40)])
		}
	}
}
