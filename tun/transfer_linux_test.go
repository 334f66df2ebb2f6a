package tun_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
	"icvpn/tun"
)

// counter reads one of the kernel's counters in a host, such as Tcp InCsumErrors
// or Udp6InCsumErrors.
func counter(t *testing.T, h *lab.Host, name string) (v uint64) {
	t.Helper()
	file := "/proc/thread-self/net/snmp"
	if strings.Contains(name, "6") {
		file += "6"
	}
	var b []byte
	err := h.Do(func() (err error) {
		b, err = os.ReadFile(file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) == 2 && f[0] == name { // snmp6 has one counter a line
			keys, name = []string{"", name}, f[0]
		}
		for i, k := range keys {
			if i > 0 && k == name[strings.Index(name, " ")+1:] && f[0] == keys[0] || k == name {
				if v, err = strconv.ParseUint(f[i], 10, 64); err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
		keys = nil
		if f[0] == name[:strings.IndexByte(name+" ", ' ')]+":" {
			keys = f
		}
	}
	t.Fatalf("%s has no %q", file, name)
	return 0
}

// noChecksumErrors fails the test if a host saw a wrong checksum.
func noChecksumErrors(t *testing.T, b *bench) {
	t.Helper()
	for _, h := range b.hosts {
		for _, name := range []string{"Tcp InCsumErrors", "Udp InCsumErrors", "Udp6InCsumErrors", "Ip InHdrErrors"} {
			if n := counter(t, h, name); n != 0 {
				t.Errorf("%s: %d", name, n)
			}
		}
	}
}

// transfers names the pairs of backends: what one splits the other's kernel
// verifies packet by packet, and what one merges the other's kernel has cut.
func transfers(t *testing.T, fn func(t *testing.T, b *bench)) {
	for _, from := range backends {
		for _, to := range backends {
			t.Run(fmt.Sprintf("from=%v/to=%v", from, to), func(t *testing.T) {
				b := newBench(t, from, to)
				done := b.pump(offset)
				fn(t, b)
				noChecksumErrors(t, b)
				b.close()
				done.Wait()
			})
		}
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 8)
	}
	return b
}

func TestTCPCrossesTwoDevicesUnharmed(t *testing.T) {
	transfers(t, func(t *testing.T, b *bench) {
		for _, to := range []netip.Addr{overlay[1], overlay6[1]} {
			cross(t, b, netip.AddrPortFrom(to, 80), 8<<20)
		}
	})
}

// cross sends n bytes from the first host to the second and compares hashes.
func cross(t *testing.T, b *bench, to netip.AddrPort, n int) {
	t.Helper()
	ln, err := b.hosts[1].ListenTCP(to)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	sum := make(chan [32]byte, 1)
	go receive(ln, sum)
	c, err := b.hosts[0].DialTCP(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	data := pattern(n)
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if <-sum != sha256.Sum256(data) {
		t.Fatal("the data arrived altered")
	}
	if got := b.devs[0].Stats().ReadBytes.Load(); got < uint64(n) {
		t.Fatalf("only %d bytes passed the device", got)
	}
}

// receive hashes one connection.
func receive(ln net.Listener, sum chan<- [32]byte) {
	h := sha256.New()
	if c, err := ln.Accept(); err == nil {
		io.Copy(h, c)
		c.Close()
	}
	sum <- [32]byte(h.Sum(nil))
}

// TestUDPCrossesTwoDevicesUnharmed sends datagrams one by one, and as the
// super-packets of UDP_SEGMENT with a short one at the end.
func TestUDPCrossesTwoDevicesUnharmed(t *testing.T) {
	transfers(t, func(t *testing.T, b *bench) {
		for _, pair := range [][2]netip.Addr{overlay, overlay6} {
			to := netip.AddrPortFrom(pair[1], 53)
			in := listenUDP(t, b.hosts[1], to)
			out := listenUDP(t, b.hosts[0], netip.AddrPortFrom(pair[0], 0))
			data := pattern(32*1000 + 7)
			for i := range 8 {
				if _, err := out.WriteToUDPAddrPort(data[:i*7], to); err != nil {
					t.Fatal(err)
				}
				expect(t, in, string(data[:i*7]))
			}
			raw, _ := out.SyscallConn()
			raw.Control(func(fd uintptr) {
				if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000); err != nil {
					t.Skipf("no UDP segmentation: %v", err)
				}
			})
			if _, err := out.WriteToUDPAddrPort(data, to); err != nil {
				t.Fatal(err)
			}
			for i := range 33 {
				expect(t, in, string(data[i*1000:min(len(data), (i+1)*1000)]))
			}
		}
	})
}

// stream returns the packets of a UDP flow with checksums.
func stream(n int, to netip.AddrPort) (packets [][]byte) {
	for i := range n {
		p := udp(remote, to, fmt.Sprintf("datagram %02d", i))
		sum := uint32(17 + len(p) - 20)
		for at := 12; at < len(p); at += 2 {
			sum += uint32(p[at]) << 8
			if at+1 < len(p) {
				sum += uint32(p[at+1])
			}
		}
		sum = sum>>16 + sum&0xffff
		sum = ^(sum>>16 + sum) & 0xffff
		p[26], p[27] = byte(sum>>8), byte(sum)
		packets = append(packets, p)
	}
	return packets
}

// TestDamagedPacketIsNotDelivered writes a batch that merges, with one packet
// damaged before it was encrypted.
func TestDamagedPacketIsNotDelivered(t *testing.T) {
	everyBackend(t, func(t *testing.T, b *bench) {
		c := listenUDP(t, b.hosts[0], inner)
		packets := stream(6, inner)
		packets[3][30] ^= 1
		if n, err := b.devs[0].Write(packed(packets...), offset); n != 6 || err != nil {
			t.Fatalf("accepted %d, %v", n, err)
		}
		for i := range packets {
			if i != 3 {
				expect(t, c, fmt.Sprintf("datagram %02d", i))
			}
		}
		if n := counter(t, b.hosts[0], "Udp InCsumErrors"); n != 1 {
			t.Fatalf("the kernel counted %d wrong checksums, want 1", n)
		}
	})
}

// TestWriteAltersNothing has packets that lie directly behind each other.
func TestWriteAltersNothing(t *testing.T) {
	everyBackend(t, func(t *testing.T, b *bench) {
		c := listenUDP(t, b.hosts[0], inner)
		slab := bytes.Join(stream(10, inner), nil)
		before := bytes.Clone(slab)
		var bufs [][]byte
		for i := range 10 {
			bufs = append(bufs, slab[i*39:(i+1)*39]) // with all that follows in its capacity
		}
		if n, err := b.devs[0].Write(bufs, 0); n != 10 || err != nil {
			t.Fatalf("accepted %d, %v", n, err)
		}
		if !bytes.Equal(slab, before) {
			t.Fatal("packets were altered")
		}
		for i := range 10 {
			expect(t, c, fmt.Sprintf("datagram %02d", i))
		}
	})
}

// TestSmallPacketsComeInBatches lets packets wait for the reader.
func TestSmallPacketsComeInBatches(t *testing.T) {
	b := newBench(t, tun.Offload)
	c := listenUDP(t, b.hosts[0], inner)
	for i := range 20 {
		if _, err := c.WriteToUDPAddrPort([]byte(fmt.Sprint(i)), remote); err != nil {
			t.Fatal(err)
		}
	}
	bufs, sizes := buffers(offset, testMTU)
	n, err := b.devs[0].Read(bufs, sizes, offset)
	if n != 20 || err != nil {
		t.Fatalf("read %d packets, %v", n, err)
	}
	for i := range n {
		if got := string(bufs[i][offset+28 : offset+sizes[i]]); got != fmt.Sprint(i) {
			t.Fatalf("packet %d is %q", i, got)
		}
	}
}

// TestSuperPacketLargerThanTheBatchIsReadInParts gives fewer buffers than a
// super-packet has segments.
func TestSuperPacketLargerThanTheBatchIsReadInParts(t *testing.T) {
	b := newBench(t, tun.Offload)
	c := listenUDP(t, b.hosts[0], inner)
	raw, _ := c.SyscallConn()
	raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 100); err != nil {
			t.Skipf("no UDP segmentation: %v", err)
		}
	})
	data := pattern(3000)
	if _, err := c.WriteToUDPAddrPort(data, remote); err != nil {
		t.Fatal(err)
	}
	bufs, sizes := buffers(offset, testMTU)
	var got []byte
	for len(got) < len(data) {
		n, err := b.devs[0].Read(bufs[:7], sizes, offset)
		if n == 0 || n > 7 || err != nil {
			t.Fatalf("read %d packets, %v", n, err)
		}
		for i := range n {
			got = append(got, bufs[i][offset+28:offset+sizes[i]]...)
		}
	}
	if !bytes.Equal(got, data) {
		t.Fatal("the data arrived altered")
	}
}

// TestManyGoroutinesWrite gives each a flow of its own.
func TestManyGoroutinesWrite(t *testing.T) {
	everyBackend(t, func(t *testing.T, b *bench) {
		const writers, rounds = 4, 50
		c := listenUDP(t, b.hosts[0], inner)
		if err := c.SetReadBuffer(4 << 20); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range rounds {
					from := netip.AddrPortFrom(remote.Addr(), uint16(1000+w))
					if n, err := b.devs[0].Write(packed(udp(from, inner, fmt.Sprint(i))), offset); n != 1 || err != nil {
						t.Errorf("accepted %d, %v", n, err)
					}
				}
			})
		}
		wg.Wait()
		next := map[uint16]int{}
		for range writers * rounds {
			buf := make([]byte, 100)
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:n]) != fmt.Sprint(next[from.Port()]) {
				t.Fatalf("from %v: %q, %v; want %d", from, buf[:n], err, next[from.Port()])
			}
			next[from.Port()]++
		}
	})
}

// TestMergedPacketIsForwarded has a host send on what was written to its
// device: the kernel cuts it and computes the checksums.
func TestMergedPacketIsForwarded(t *testing.T) {
	b := newBench(t, tun.Offload)
	err := b.hosts[0].Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(b.hosts[1].Addr4, 7)
	c := listenUDP(t, b.hosts[1], to)
	const n = 10
	for range 2 {
		if k, err := b.devs[0].Write(packed(stream(n, to)...), offset); k != n || err != nil {
			t.Fatalf("accepted %d, %v", k, err)
		}
		for i := range n {
			expect(t, c, fmt.Sprintf("datagram %02d", i))
		}
	}
	if k := counter(t, b.hosts[1], "Udp InCsumErrors"); k != 0 {
		t.Fatalf("%d wrong checksums", k)
	}
}
