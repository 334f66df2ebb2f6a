package underlay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

var (
	loop4 = netip.MustParseAddr("127.0.0.1")
	loop6 = netip.IPv6Loopback()
)

// listen opens a Conn on a free port of every address. No goroutine outlives
// the test.
func listen(tb testing.TB) *Conn {
	tb.Helper()
	running := goleak.IgnoreCurrent()
	tb.Cleanup(func() { goleak.VerifyNone(tb, running) })
	c, err := Listen(tb.Context(), netip.AddrPort{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// numbered returns n messages to to, told apart by their content.
func numbered(n int, to netip.AddrPort) []Message {
	ms := NewBatch(n, DefaultBuffer)
	for i := range ms {
		ms[i].N = copy(ms[i].Buf, fmt.Sprintf("datagram %d", i))
		ms[i].Addr = to
	}
	return ms
}

// readN collects n datagrams.
func readN(tb testing.TB, r Reader, n int) []Message {
	tb.Helper()
	var got []Message
	for len(got) < n {
		ms := NewBatch(BatchSize, DefaultBuffer)
		k, err := r.ReadBatch(ms)
		if err != nil {
			tb.Fatal(err)
		}
		got = append(got, ms[:k]...)
	}
	return got
}

// readers returns the readers for IPv4 and IPv6.
func readers(t *testing.T, c *Conn) (v4, v6 Reader) {
	t.Helper()
	if err := c.IPv6Err(); err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	rs := c.Readers()
	return rs[0], rs[1]
}

func TestBatchCrossesBothFamiliesInOrder(t *testing.T) {
	a, b := listen(t), listen(t)
	r4, r6 := readers(t, b)
	const each = BatchSize + 7 // more than one system call
	var ms []Message
	for i := range each {
		to := []netip.AddrPort{netip.AddrPortFrom(loop4, b.Port()), netip.AddrPortFrom(loop6, b.Port())}
		for _, to := range to {
			m := numbered(1, to)[0]
			m.N = copy(m.Buf, fmt.Sprintf("datagram %d", i))
			ms = append(ms, m)
		}
	}
	if n, err := a.WriteBatch(ms); n != len(ms) || err != nil {
		t.Fatalf("wrote %d of %d: %v", n, len(ms), err)
	}
	for r, from := range map[Reader]netip.Addr{r4: loop4, r6: loop6} {
		for i, m := range readN(t, r, each) {
			if want := fmt.Sprintf("datagram %d", i); string(m.Bytes()) != want {
				t.Fatalf("got %q, want %q", m.Bytes(), want)
			}
			if m.Addr != netip.AddrPortFrom(from, a.Port()) {
				t.Fatalf("from %v, want %v port %d", m.Addr, from, a.Port())
			}
		}
	}
	if w, r := a.Stats().WritePackets.Load(), b.Stats().ReadPackets.Load(); w != 2*each || r != 2*each {
		t.Fatalf("counted %d written and %d read, want %d", w, r, 2*each)
	}
}

func TestMappedAddressIsSentAsIPv4(t *testing.T) {
	a, b := listen(t), listen(t)
	ms := numbered(1, netip.AddrPortFrom(netip.AddrFrom16(loop4.As16()), b.Port()))
	if n, err := a.WriteBatch(ms); n != 1 || err != nil {
		t.Fatal(n, err, ms[0].Err)
	}
	if got := readN(t, b.Readers()[0], 1)[0].Addr; !got.Addr().Is4() {
		t.Fatalf("an IPv4 peer appeared as %v", got)
	}
}

func TestListenNamesTakenPort(t *testing.T) {
	a := listen(t)
	_, err := Listen(t.Context(), netip.AddrPortFrom(netip.Addr{}, a.Port()))
	var inUse *PortInUseError
	if !errors.As(err, &inUse) || inUse.Port != a.Port() {
		t.Fatalf("got %v, want a PortInUseError for %d", err, a.Port())
	}
	if !strings.Contains(err.Error(), fmt.Sprint(a.Port())) {
		t.Fatalf("%q does not name the port", err)
	}
}

func TestListenLeavesNothingOpenWhenIPv6PortIsTaken(t *testing.T) {
	six, err := Listen(t.Context(), netip.AddrPortFrom(loop6, 0))
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	defer six.Close()
	var inUse *PortInUseError
	if _, err := Listen(t.Context(), netip.AddrPortFrom(netip.Addr{}, six.Port())); !errors.As(err, &inUse) {
		t.Fatalf("got %v, want a PortInUseError", err)
	}
	four, err := Listen(t.Context(), netip.AddrPortFrom(loop4, six.Port()))
	if err != nil {
		t.Fatalf("the IPv4 socket of the failed Listen is still open: %v", err)
	}
	four.Close()
}

func TestPortInUseErrorHintsAtIKE(t *testing.T) {
	if s := (&PortInUseError{Port: DefaultPort}).Error(); !strings.Contains(s, "IKE") {
		t.Fatalf("%q does not mention IKE daemons", s)
	}
}

func TestListenOnOneAddressServesItsFamilyAlone(t *testing.T) {
	c, err := Listen(t.Context(), netip.AddrPortFrom(loop4, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !errors.Is(c.IPv6Err(), ErrNoFamily) || len(c.Readers()) != 1 {
		t.Fatalf("IPv6Err %v, %d readers", c.IPv6Err(), len(c.Readers()))
	}
	ms := append(numbered(1, netip.AddrPortFrom(loop6, 9)), numbered(1, netip.AddrPortFrom(loop4, c.Port()))...)
	n, err := c.WriteBatch(ms)
	if n != 1 || err != nil || !errors.Is(ms[0].Err, ErrNoFamily) || ms[1].Err != nil {
		t.Fatalf("sent %d, %v, errors %v and %v", n, err, ms[0].Err, ms[1].Err)
	}
}

func TestBadMessagesDoNotStopTheBatch(t *testing.T) {
	a, b := listen(t), listen(t)
	to := netip.AddrPortFrom(loop4, b.Port())
	ms := numbered(7, to)
	ms[0].N = 0
	ms[2].Addr = netip.AddrPortFrom(loop4, 0)
	ms[3].N = len(ms[3].Buf) + 1
	ms[4].N = -1
	ms[6].Buf, ms[6].N = make([]byte, 1<<16), 1<<16 // more than UDP carries
	n, err := a.WriteBatch(ms)
	if n != 2 || err != nil {
		t.Fatalf("sent %d, %v; want 2", n, err)
	}
	for i := range ms {
		if bad := i != 1 && i != 5; bad != (ms[i].Err != nil) {
			t.Errorf("message %d: error %v", i, ms[i].Err)
		}
	}
	got := readN(t, b.Readers()[0], 2)
	if string(got[0].Bytes()) != "datagram 1" || string(got[1].Bytes()) != "datagram 5" {
		t.Fatalf("got %q and %q", got[0].Bytes(), got[1].Bytes())
	}
	if n := a.Stats().WriteErrors.Load(); n != 5 {
		t.Fatalf("counted %d errors, want 5", n)
	}
}

func TestTooLongDatagramIsDroppedAndCounted(t *testing.T) {
	a, b := listen(t), listen(t)
	ms := numbered(2, netip.AddrPortFrom(loop4, b.Port()))
	ms[0].N = 100
	if n, err := a.WriteBatch(ms); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	r, in := b.Readers()[0], NewBatch(2, 50)
	for seen := 0; seen < 2; {
		n, err := r.ReadBatch(in[seen:])
		if err != nil {
			t.Fatal(err)
		}
		seen += n
	}
	if in[0].N != 0 || string(in[1].Bytes()) != "datagram 1" || b.Stats().ReadTooLong.Load() != 1 {
		t.Fatalf("lengths %d and %d, counted %d", in[0].N, in[1].N, b.Stats().ReadTooLong.Load())
	}
}

func TestCloseUnblocksReaders(t *testing.T) {
	c := listen(t)
	var wg sync.WaitGroup
	for _, r := range c.Readers() {
		wg.Go(func() {
			if _, err := r.ReadBatch(NewBatch(1, 64)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("reader ended with %v", err)
			}
		})
	}
	c.Close()
	wg.Wait()
	if _, err := c.WriteBatch(numbered(1, netip.AddrPortFrom(loop4, 9))); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("write after Close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
}

func TestWritersShareAConn(t *testing.T) {
	a, b := listen(t), listen(t)
	const writers, each = 4, 100
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			if n, err := a.WriteBatch(numbered(each, netip.AddrPortFrom(loop4, b.Port()))); n != each || err != nil {
				t.Errorf("sent %d: %v", n, err)
			}
		})
	}
	got := readN(t, b.Readers()[0], writers*each)
	wg.Wait()
	for _, m := range got {
		if !bytes.HasPrefix(m.Bytes(), []byte("datagram ")) {
			t.Fatalf("mangled datagram %q", m.Bytes())
		}
	}
}

func TestNewBatchBuffersDoNotOverlap(t *testing.T) {
	for _, m := range NewBatch(3, 10) {
		if len(m.Buf) != 10 || cap(m.Buf) != 10 {
			t.Fatalf("buffer of %d, capacity %d", len(m.Buf), cap(m.Buf))
		}
	}
}
