package tun_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
	"icvpn/tun"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

const (
	testMTU = 1380
	offset  = 16 // of packets in their buffers, where a test has no other wish
)

var backends = []tun.Backend{tun.Offload, tun.Plain}

// everyBackend runs a test with each backend.
func everyBackend(t *testing.T, fn func(t *testing.T, b *bench)) {
	t.Helper()
	for _, k := range backends {
		t.Run("backend="+k.String(), func(t *testing.T) { fn(t, newBench(t, k, k)) })
	}
}

// bench is two hosts with a TUN device each, which carry 10.9.0.0/24 and
// fd09::/64.
type bench struct {
	hosts [2]*lab.Host
	devs  [2]*tun.Linux
}

var (
	overlay  = [2]netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")}
	overlay6 = [2]netip.Addr{netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2")}
)

func newBench(t testing.TB, backends ...tun.Backend) *bench {
	t.Helper()
	backends = append(backends, tun.Auto, tun.Auto)
	labtest.RequireTUN(t)
	l := labtest.New(t, lab.Config{Clouds: []lab.Cloud{{Name: "one", Hosts: []string{"a", "b"}}}})
	b := &bench{hosts: [2]*lab.Host(l.Hosts())}
	for i, h := range b.hosts {
		b.devs[i] = open(t, h, tun.Config{Name: "tun0", MTU: testMTU, Backend: backends[i]})
		configure(t, h, "tun0", overlay[i], overlay6[i])
	}
	return b
}

// open makes a device in a host.
func open(t testing.TB, h *lab.Host, cfg tun.Config) *tun.Linux {
	t.Helper()
	var dev *tun.Linux
	err := h.Do(func() (err error) {
		dev, err = tun.Open(cfg)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// configure takes an interface up and gives it its addresses. It waits for
// those of IPv6: the kernel routes packets to them a moment later.
func configure(t testing.TB, h *lab.Host, name string, addrs ...netip.Addr) {
	t.Helper()
	updates, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	defer close(done)
	err := h.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		_ = netlink.LinkSetIP6AddrGenMode(link, 1) // nothing but what the test sends
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		if err := netlink.AddrSubscribe(updates, done); err != nil {
			return err
		}
		for _, a := range addrs {
			ip := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}
			if a.Is6() {
				ip.Mask = net.CIDRMask(64, 128)
			}
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD}); err != nil {
				return err
			}
			for a.Is6() && !(<-updates).LinkAddress.IP.Equal(ip.IP) {
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// buffers returns a batch for packets of the test's MTU at offset.
func buffers(offset, size int) (bufs [][]byte, sizes []int) {
	for range tun.MaxBatch {
		bufs = append(bufs, make([]byte, offset+size))
	}
	return bufs, make([]int, len(bufs))
}

// carry moves packets from one device to another until either is closed.
func carry(from, to tun.Device, offset int) error {
	bufs, sizes := buffers(offset, testMTU)
	packets := make([][]byte, len(bufs))
	for {
		n, err := from.Read(bufs, sizes, offset)
		if err != nil {
			return err
		}
		for i := range n {
			packets[i] = bufs[i][:offset+sizes[i]]
		}
		if _, err := to.Write(packets[:n], offset); err != nil {
			return err
		}
	}
}

// pump joins the two devices of b; the result ends when they are closed.
func (b *bench) pump(offset int) *sync.WaitGroup {
	var wg sync.WaitGroup
	wg.Go(func() { carry(b.devs[0], b.devs[1], offset) })
	wg.Go(func() { carry(b.devs[1], b.devs[0], offset) })
	return &wg
}

func (b *bench) close() {
	b.devs[0].Close()
	b.devs[1].Close()
}

// udp returns an IPv4 UDP packet without checksum.
func udp(from, to netip.AddrPort, payload string) []byte {
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	copy(p[12:], from.Addr().AsSlice())
	copy(p[16:], to.Addr().AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(p[20:], from.Port())
	binary.BigEndian.PutUint16(p[22:], to.Port())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	return append(p, payload...)
}

// listenUDP opens a socket in a host.
func listenUDP(t testing.TB, h *lab.Host, a netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := h.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// expect reads one datagram.
func expect(t testing.TB, c *net.UDPConn, want string) {
	t.Helper()
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != want {
		t.Fatalf("got %q, %v; want %q", buf[:n], err, want)
	}
}

var (
	inner  = netip.AddrPortFrom(overlay[0], 7)
	remote = netip.MustParseAddrPort("10.9.0.77:9")
)

// packed puts packets behind headroom.
func packed(packets ...[]byte) (bufs [][]byte) {
	for _, p := range packets {
		bufs = append(bufs, append(make([]byte, offset), p...))
	}
	return bufs
}

func TestBadPacketsCostOnlyThemselves(t *testing.T) { everyBackend(t, badPackets) }

func badPackets(t *testing.T, b *bench) {
	c := listenUDP(t, b.hosts[0], inner)
	bufs := packed(
		nil, // empty
		udp(remote, inner, "first"),
		[]byte{0x45},                // cut
		bytes.Repeat([]byte{0}, 40), // version 0
		udp(remote, inner, "second"),
		append([]byte{0x60}, make([]byte, 38)...), // cut IPv6
	)
	bufs = append(bufs, make([]byte, offset-1), make([]byte, offset+tun.MaxMTU+1))
	n, err := b.devs[0].Write(bufs, offset)
	if n != 2 || err != nil {
		t.Fatalf("accepted %d, %v; want 2", n, err)
	}
	expect(t, c, "first")
	expect(t, c, "second")
	if got := b.devs[0].Stats().WriteDrops.Load(); got != 6 {
		t.Fatalf("counted %d drops, want 6", got)
	}
}

func TestWriteTakesMoreThanABatch(t *testing.T) { everyBackend(t, moreThanABatch) }

func moreThanABatch(t *testing.T, b *bench) {
	c := listenUDP(t, b.hosts[0], inner)
	var packets [][]byte
	for i := range tun.MaxBatch + 50 { // each a flow of its own
		packets = append(packets, udp(netip.AddrPortFrom(remote.Addr(), uint16(1000+i)), inner, fmt.Sprint(i)))
	}
	if n, err := b.devs[0].Write(packed(packets...), offset); n != len(packets) || err != nil {
		t.Fatalf("accepted %d of %d, %v", n, len(packets), err)
	}
	for i := range packets {
		expect(t, c, fmt.Sprint(i))
	}
}

func TestWriteWhileDownDropsAndRecovers(t *testing.T) { everyBackend(t, whileDown) }

func whileDown(t *testing.T, b *bench) {
	setUp := func(up bool) {
		err := b.hosts[0].Do(func() error {
			link, err := netlink.LinkByName("tun0")
			if err != nil {
				return err
			}
			if up {
				return netlink.LinkSetUp(link)
			}
			return netlink.LinkSetDown(link)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	setUp(false)
	if n, err := b.devs[0].Write(packed(udp(remote, inner, "lost")), offset); n != 0 || err != nil {
		t.Fatalf("accepted %d, %v", n, err)
	}
	setUp(true)
	c := listenUDP(t, b.hosts[0], inner)
	if n, err := b.devs[0].Write(packed(udp(remote, inner, "back")), offset); n != 1 || err != nil {
		t.Fatalf("accepted %d, %v", n, err)
	}
	expect(t, c, "back")
}

// TestPacketsBeyondTheBuffersAreDropped raises the MTU behind the device's
// back, once for single packets and once for super-packets.
func TestPacketsBeyondTheBuffersAreDropped(t *testing.T) { everyBackend(t, beyondTheBuffers) }

func beyondTheBuffers(t *testing.T, b *bench) {
	c := listenUDP(t, b.hosts[0], inner)
	err := b.hosts[0].Do(func() error {
		link, err := netlink.LinkByName("tun0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(link, 9000)
	})
	if err != nil {
		t.Fatal(err)
	}
	if mtu, err := b.devs[0].MTU(); mtu != 9000 || err != nil {
		t.Fatalf("MTU %d, %v", mtu, err)
	}
	send := func(n int) {
		t.Helper()
		if _, err := c.WriteToUDPAddrPort(make([]byte, n), remote); err != nil {
			t.Fatal(err)
		}
	}
	send(5000)
	raw, _ := c.SyscallConn()
	raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 4000); err != nil {
			t.Skipf("no UDP segmentation: %v", err)
		}
	})
	send(12000)
	send(100)
	bufs, sizes := buffers(offset, testMTU)
	n, err := b.devs[0].Read(bufs, sizes, offset)
	if n != 1 || err != nil || sizes[0] != 128 {
		t.Fatalf("read %d packets, the first of %d bytes, %v; want the small one", n, sizes[0], err)
	}
	if got := b.devs[0].Stats().ReadDrops.Load(); got < 2 {
		t.Fatalf("counted %d drops, want 2 or more", got)
	}
}

func TestReadEndsWithTheDevice(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(t *testing.T, b *bench)
		want error
	}{
		"closed": {func(t *testing.T, b *bench) { b.devs[0].Close() }, tun.ErrClosed},
		"interface removed": {func(t *testing.T, b *bench) {
			err := b.hosts[0].Do(func() error {
				link, err := netlink.LinkByName("tun0")
				if err != nil {
					return err
				}
				return netlink.LinkDel(link)
			})
			if err != nil {
				t.Fatal(err)
			}
		}, tun.ErrGone},
	} {
		everyBackend(t, func(t *testing.T, b *bench) {
			result := make(chan error, 1)
			go func() {
				bufs, sizes := buffers(offset, testMTU)
				_, err := b.devs[0].Read(bufs, sizes, offset)
				result <- err
			}()
			runtime.Gosched()
			c.end(t, b)
			if err := <-result; !errors.Is(err, c.want) {
				t.Fatalf("%s: Read ended with %v, want %v", name, err, c.want)
			}
			if _, err := b.devs[0].Write(packed(udp(remote, inner, "x")), offset); !errors.Is(err, c.want) {
				t.Fatalf("%s: Write: %v, want %v", name, err, c.want)
			}
			b.devs[0].Close()
			if err := b.devs[0].Close(); err != nil {
				t.Fatalf("second Close: %v", err)
			}
			if _, err := b.devs[0].MTU(); !errors.Is(err, tun.ErrClosed) {
				t.Fatalf("MTU after Close: %v", err)
			}
		})
	}
}

// fails asserts that Open refuses for a reason and says the words.
func fails(t *testing.T, h *lab.Host, name string, mtu int, reason tun.Reason, words string) {
	t.Helper()
	err := h.Do(func() error {
		dev, err := tun.Open(tun.Config{Name: name, MTU: mtu})
		if err == nil {
			dev.Close()
		}
		return err
	})
	var ce *tun.CreateError
	if !errors.As(err, &ce) || ce.Reason != reason || !strings.Contains(err.Error(), words) {
		t.Errorf("Open(%q, %d): %v; want reason %d and %q", name, mtu, err, reason, words)
	}
}

func TestOpenRefusesWithASentence(t *testing.T) {
	b := newBench(t)
	h := b.hosts[0]
	fails(t, h, "tun0", testMTU, tun.NameTaken, "taken")
	fails(t, h, "eth0", testMTU, tun.NameTaken, "taken")
	fails(t, h, "", testMTU, tun.BadName, "valid interface name")
	fails(t, h, "sixteen-bytes-xx", testMTU, tun.BadName, "15 bytes")
	fails(t, h, "a/b", testMTU, tun.BadName, "slashes")
	fails(t, h, "x", 1279, tun.BadMTU, "1279")
	fails(t, h, "x", 65536, tun.BadMTU, "65536")
}

// onSpoiledThread runs fn after spoil on a thread that is then thrown away.
func onSpoiledThread(spoil, fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := spoil(); err != nil {
			result <- err
			return
		}
		result <- fn()
	}()
	return <-result
}

func TestOpenWithoutCapabilityNamesTheWaysOut(t *testing.T) {
	labtest.RequireTUN(t)
	err := onSpoiledThread(func() error {
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		return unix.Capset(&hdr, &data[0])
	}, func() error {
		_, err := tun.Open(tun.Config{Name: "tun0", MTU: testMTU})
		return err
	})
	var ce *tun.CreateError
	if !errors.As(err, &ce) || ce.Reason != tun.NotPermitted {
		t.Fatalf("got %v", err)
	}
	for _, way := range []string{"root", "setcap cap_net_admin+ep", "docker run", "podman run", "--cap-add NET_ADMIN --device /dev/net/tun"} {
		if !strings.Contains(err.Error(), way) {
			t.Errorf("%q does not name %q", err, way)
		}
	}
}

func TestOpenWithoutDriverSaysSo(t *testing.T) {
	labtest.RequireTUN(t)
	err := onSpoiledThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		return unix.Mount("tmpfs", "/dev", "tmpfs", 0, "")
	}, func() error {
		_, err := tun.Open(tun.Config{Name: "tun0", MTU: testMTU})
		return err
	})
	var ce *tun.CreateError
	if !errors.As(err, &ce) || ce.Reason != tun.NoDevice || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "modprobe tun") {
		t.Fatalf("got %v", err)
	}
}

func TestOpenChoosesAFreeNumber(t *testing.T) {
	b := newBench(t)
	if name := open(t, b.hosts[0], tun.Config{Name: "tun%d", MTU: testMTU}).Name(); name != "tun1" {
		t.Fatalf("got %q, want tun1", name)
	}
	plain := open(t, b.hosts[0], tun.Config{Name: "tun%d", MTU: testMTU, Backend: tun.Plain})
	if name := plain.Name(); name != "tun2" {
		t.Fatalf("got %q, want tun2", name)
	}
}

func TestDeviceLeavesNoGoroutineAndNoDescriptor(t *testing.T) {
	everyBackend(t, func(t *testing.T, b *bench) { leavesNothing(t, b.hosts[0], b.devs[0].Backend()) })
}

func leavesNothing(t *testing.T, h *lab.Host, backend tun.Backend) {
	cfg := tun.Config{Name: "leak", MTU: testMTU, Backend: backend}
	ignore := goleak.IgnoreCurrent()
	run := func() {
		err := h.Do(func() error {
			dev, err := tun.Open(cfg)
			if err != nil {
				return err
			}
			if _, err := tun.Open(cfg); err == nil {
				t.Error("made twice")
			}
			return dev.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	run()
	before := descriptors(t)
	run()
	if after := descriptors(t); len(after) != len(before) {
		t.Errorf("descriptors before %v, after %v", before, after)
	}
	goleak.VerifyNone(t, ignore)
}

func descriptors(t *testing.T) []string {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

func TestNoAllocationPerPacket(t *testing.T) { everyBackend(t, noAllocation) }

func noAllocation(t *testing.T, b *bench) {
	c := listenUDP(t, b.hosts[0], inner)
	payload := strings.Repeat("x", 1000)
	template := packed(udp(remote, inner, payload))[0]
	bufs, sizes := buffers(offset, testMTU)
	out := make([][]byte, 16)
	allocs := testing.AllocsPerRun(100, func() {
		for i := range out {
			out[i] = bufs[i][:copy(bufs[i], template)]
		}
		if n, err := b.devs[0].Write(out, offset); n != len(out) || err != nil {
			t.Fatal(n, err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per Write", allocs)
	}
	send := []byte(payload)
	to := remote
	allocs = testing.AllocsPerRun(100, func() {
		if _, err := c.WriteToUDPAddrPort(send, to); err != nil {
			t.Fatal(err)
		}
		if n, err := b.devs[0].Read(bufs, sizes, offset); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per Read", allocs)
	}
}
