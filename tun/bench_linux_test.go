package tun_test

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
	"icvpn/tun"
)

// device is what forwarding needs of our devices and wireguard's.
type device interface {
	Read(bufs [][]byte, sizes []int, offset int) (int, error)
	Write(bufs [][]byte, offset int) (int, error)
	Close() error
}

// BenchmarkForward sends one TCP stream from a TUN device to another through
// this process, which also sends and receives it: no crypto, no UDP.
func BenchmarkForward(b *testing.B) {
	own := func(cfg tun.Config) func(*testing.B, *lab.Host) device {
		cfg.Name, cfg.MTU = "tun0", testMTU
		return func(b *testing.B, h *lab.Host) device { return open(b, h, cfg) }
	}
	for _, c := range []struct {
		name string
		open func(b *testing.B, h *lab.Host) device
	}{
		{"wireguard", wireguard},
		{"icvpn", own(tun.Config{})},
		{"icvpn, assume valid", own(tun.Config{AssumeValid: true})},
		{"icvpn, plain", own(tun.Config{Backend: tun.Plain})},
	} {
		b.Run("device="+c.name, func(b *testing.B) { forward(b, c.open) })
	}
}

// wireguard makes a device of the wireguard module.
func wireguard(b *testing.B, h *lab.Host) (dev device) {
	err := h.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		ifr, _ := unix.NewIfreq("tun0")
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		d, _, err := wgtun.CreateUnmonitoredTUNFromFD(fd)
		if err != nil {
			return err
		}
		dev = d
		return setMTU("tun0")
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { dev.Close() })
	return dev
}

// relay moves packets from one device to another until either is closed.
func relay(from, to device) {
	const headroom, room = 16, 1 << 16 // as wireguard's needs it to merge
	bufs, sizes := buffers(headroom, room)
	packets := make([][]byte, len(bufs))
	for {
		n, err := from.Read(bufs, sizes, headroom)
		if err != nil {
			return
		}
		for i := range n {
			packets[i] = bufs[i][:headroom+sizes[i]]
		}
		if _, err := to.Write(packets[:n], headroom); err != nil {
			return
		}
	}
}

func forward(b *testing.B, open func(b *testing.B, h *lab.Host) device) {
	labtest.RequireTUN(b)
	l := labtest.New(b, lab.Config{Clouds: []lab.Cloud{{Name: "one", Hosts: []string{"a", "b"}}}})
	hosts := l.Hosts()
	var devs [2]device
	for i, h := range hosts {
		devs[i] = open(b, h)
		configure(b, h, "tun0", overlay[i])
	}
	go relay(devs[0], devs[1])
	go relay(devs[1], devs[0])
	to := netip.AddrPortFrom(overlay[1], 80)
	ln, err := hosts[1].ListenTCP(to)
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	received := make(chan struct{})
	go func() {
		defer close(received)
		if c, err := ln.Accept(); err == nil {
			io.CopyBuffer(onlyWriter{io.Discard}, c, buffer())
		}
	}()
	c, err := hosts[0].DialTCP(b.Context(), to)
	if err != nil {
		b.Fatal(err)
	}
	data := buffer()
	b.SetBytes(int64(len(data)))
	cpu := cpuTime()
	for b.Loop() {
		if _, err := c.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	<-received
	b.ReportMetric(float64(cpuTime()-cpu)/float64(time.Second)/(float64(b.N)*float64(len(data))/1e9), "cpu-s/GB")
}

func buffer() []byte { return make([]byte, 1<<20) }

// onlyWriter hides io.Discard's ReadFrom, which reads 8 KiB at a time.
type onlyWriter struct{ io.Writer }

// cpuTime returns what this process has used, in user and kernel mode.
func cpuTime() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func setMTU(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, testMTU)
}
