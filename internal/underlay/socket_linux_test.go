package underlay

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestICMPErrorEndsNeitherReaderNorWriter makes the kernel report ICMP errors
// on the socket (IP_RECVERR), which an unconnected socket otherwise hides.
func TestICMPErrorEndsNeitherReaderNorWriter(t *testing.T) {
	a, b := listen(t), listen(t)
	a.v4.raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1); err != nil {
			t.Fatal(err)
		}
	})
	closed := listen(t)
	closed.Close()
	refused := numbered(1, netip.AddrPortFrom(loop4, closed.Port()))

	// Writer: the error of the first datagram hits the second, which goes anyway.
	if _, err := a.WriteBatch(refused); err != nil {
		t.Fatal(err)
	}
	good := numbered(2, netip.AddrPortFrom(loop4, b.Port()))
	if n, err := a.WriteBatch(good); n != 2 || err != nil || good[0].Err != nil {
		t.Fatalf("sent %d, %v, %v", n, err, good[0].Err)
	}
	readN(t, b.Readers()[0], 2)

	// Reader: it meets the error first and then waits for the datagram.
	if _, err := a.WriteBatch(refused); err != nil {
		t.Fatal(err)
	}
	if n, err := b.WriteBatch(numbered(1, netip.AddrPortFrom(loop4, a.Port()))); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	readN(t, a.Readers()[0], 1)
	if a.Stats().ReadErrors.Load() == 0 {
		t.Fatal("the reader met no error: the test shows nothing")
	}
}

func TestSocketBuffersAreLarge(t *testing.T) {
	c := listen(t)
	c.v4.raw.Control(func(fd uintptr) {
		plain, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		raw, _ := plain.(*net.UDPConn).SyscallConn()
		raw.Control(func(plainFD uintptr) {
			ours, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
			theirs, _ := unix.GetsockoptInt(int(plainFD), unix.SOL_SOCKET, unix.SO_RCVBUF)
			if ours < theirs {
				t.Fatalf("receive buffer %d, smaller than the default %d", ours, theirs)
			}
		})
	})
}

func TestLinkLocalAddressKeepsItsScope(t *testing.T) {
	want := netip.MustParseAddrPort("[fe80::1%7]:4500")
	var name unix.RawSockaddrInet6
	encodeName(&name, want, true)
	if got := decodeName(&name); got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
	if scopeID("lo") == 0 || scopeID("no such interface") != 0 {
		t.Fatal("interface names are not resolved")
	}
}

func TestNoAllocationPerDatagram(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool allocate")
	}
	c := listen(t)
	r4, r6 := readers(t, c)
	for r, addr := range map[Reader]netip.Addr{r4: loop4, r6: loop6} {
		out, in := numbered(32, netip.AddrPortFrom(addr, c.Port())), NewBatch(BatchSize, DefaultBuffer)
		allocs := testing.AllocsPerRun(100, func() {
			if n, err := c.WriteBatch(out); n != len(out) || err != nil {
				t.Fatal(n, err)
			}
			for n := 0; n < len(out); {
				k, err := r.ReadBatch(in)
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
		})
		if allocs != 0 {
			t.Errorf("%v: %v allocations for 32 datagrams", addr, allocs)
		}
	}
}
