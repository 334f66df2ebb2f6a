package tun_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
	"icvpn/tun"
)

func TestBackendsHaveNames(t *testing.T) {
	for _, want := range []tun.Backend{tun.Auto, tun.Offload, tun.Plain} {
		if got, err := tun.ParseBackend(want.String()); got != want || err != nil {
			t.Errorf("%v: %v, %v", want, got, err)
		}
	}
	if _, err := tun.ParseBackend("fast"); err == nil {
		t.Error("no such backend, but parsed")
	}
	if got := tun.Backend(9).String(); got != "Backend(9)" {
		t.Error(got)
	}
}

// refusing makes the kernel answer a system call with EINVAL on this thread,
// where the conditions hold, which jump over the answer where they do not.
func refusing(number uint32, conditions ...unix.SockFilter) func() error {
	program := append([]unix.SockFilter{
		{Code: load, K: 0},
		{Code: same, K: number, Jf: uint8(len(conditions)) + 1},
	}, conditions...)
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	return func() error {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
		return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
	}
}

const (
	load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	same  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	more  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	among = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K

	second, third = 24, 32 // arguments: low words in struct seccomp_data
)

// without is a kernel that does not know one of the offloads in flags.
func without(flags uint32) func() error {
	return refusing(unix.SYS_IOCTL,
		unix.SockFilter{Code: load, K: second},
		unix.SockFilter{Code: same, K: unix.TUNSETOFFLOAD, Jf: 3},
		unix.SockFilter{Code: load, K: third},
		unix.SockFilter{Code: among, K: flags, Jf: 1})
}

// openRefused opens a device in the lab's own namespace on a kernel without the
// offloads in flags.
func openRefused(t *testing.T, flags uint32, backend tun.Backend) (dev *tun.Linux, err error) {
	t.Helper()
	labtest.RequireTUN(t)
	err = onSpoiledThread(without(flags), func() (err error) {
		dev, err = tun.Open(tun.Config{Name: "old%d", MTU: testMTU, Backend: backend})
		return err
	})
	if err == nil {
		t.Cleanup(func() { dev.Close() })
	}
	return dev, err
}

func TestKernelWithoutOffloadsGetsThePlainBackend(t *testing.T) {
	dev, err := openRefused(t, unix.TUN_F_CSUM, tun.Auto)
	if err != nil || dev.Backend() != tun.Plain || dev.BatchSize() != 1 {
		t.Fatal(dev, err)
	}
	_, err = openRefused(t, unix.TUN_F_CSUM, tun.Offload)
	var ce *tun.CreateError
	if !errors.As(err, &ce) || ce.Reason != tun.NoOffload {
		t.Fatalf("got %v", err)
	}
}

func TestKernelWithFewerOffloadsKeepsTheOthers(t *testing.T) {
	for _, flags := range []uint32{0, unix.TUN_F_USO4, unix.TUN_F_TSO_ECN} {
		dev, err := openRefused(t, flags, tun.Auto)
		if err != nil || dev.Backend() != tun.Offload || dev.BatchSize() != tun.MaxBatch {
			t.Fatal(flags, dev, err)
		}
	}
}

// TestInterfaceOfAnAdministratorStays opens one that outlives its holders, by
// each backend in turn.
func TestInterfaceOfAnAdministratorStays(t *testing.T) {
	b := newBench(t)
	err := b.hosts[0].Do(func() error {
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "mine"}, Mode: netlink.TUNTAP_MODE_TUN})
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, backend := range backends {
			dev := open(t, b.hosts[0], tun.Config{Name: "mine", MTU: testMTU, Backend: backend})
			if dev.Backend() != backend {
				t.Fatalf("got backend %v, want %v", dev.Backend(), backend)
			}
			sendBySegments(t, b.hosts[0], dev)
			if err := dev.Close(); err != nil {
				t.Fatal(err)
			}
			err := b.hosts[0].Do(func() error {
				_, err := netlink.LinkByName("mine")
				return err
			})
			if err != nil {
				t.Fatalf("after the %v backend: %v", backend, err)
			}
		}
	}
}

// sendBySegments sends two datagrams as one super-packet through dev: left-over
// settings of another backend would show.
func sendBySegments(t *testing.T, h *lab.Host, dev *tun.Linux) {
	t.Helper()
	local, far := netip.MustParseAddr("10.10.0.1"), netip.MustParseAddrPort("10.10.0.2:9")
	err := h.Do(func() error {
		link, err := netlink.LinkByName("mine")
		if err != nil {
			return err
		}
		_ = netlink.LinkSetIP6AddrGenMode(link, 1)
		addr, err := netlink.ParseAddr(local.String() + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		t.Fatal(err)
	}
	c := listenUDP(t, h, netip.AddrPortFrom(local, 0))
	raw, _ := c.SyscallConn()
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000) })
	if _, err := c.WriteToUDPAddrPort(make([]byte, 2000), far); err != nil {
		t.Fatal(err)
	}
	bufs, sizes := buffers(offset, testMTU)
	for got := 0; got < 2; {
		n, err := dev.Read(bufs, sizes, offset)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if sizes[i] != 1028 || bufs[i][offset] != 0x45 {
				t.Fatalf("packet of %d bytes: % x", sizes[i], bufs[i][offset:][:20])
			}
		}
		got += n
	}
	c.Close()
}

// TestRefusedSuperPacketIsWrittenSingly has a kernel that takes header and
// packet, and nothing longer.
func TestRefusedSuperPacketIsWrittenSingly(t *testing.T) {
	b := newBench(t, tun.Offload)
	c := listenUDP(t, b.hosts[0], inner)
	onlyPackets := refusing(unix.SYS_WRITEV,
		unix.SockFilter{Code: load, K: third},
		unix.SockFilter{Code: more, K: 2, Jf: 1})
	err := onSpoiledThread(onlyPackets, func() error {
		n, err := b.devs[0].Write(packed(stream(6, inner)...), offset)
		if n != 6 {
			t.Errorf("accepted %d", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		expect(t, c, fmt.Sprintf("datagram %02d", i))
	}
	if n, size := b.devs[0].Stats().WritePackets.Load(), b.devs[0].Stats().WriteBytes.Load(); n != 6 || size != 6*39 {
		t.Errorf("counted %d packets, %d bytes", n, size)
	}
}
