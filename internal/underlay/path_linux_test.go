package underlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"icvpn/internal/lab"
	"icvpn/internal/lab/labtest"
)

// path is two hosts with a Conn each: a ── router ── b.
type path struct {
	lab    *lab.Lab
	a, b   *Conn
	to     map[string]netip.AddrPort // b by family
	reader map[string]Reader
}

func newPath(tb testing.TB, cfg lab.Config, offload bool) *path {
	tb.Helper()
	cfg.Clouds = []lab.Cloud{{Name: "c", Hosts: []string{"a", "b"}}}
	p := &path{lab: labtest.New(tb, cfg), to: map[string]netip.AddrPort{}, reader: map[string]Reader{}}
	var err error
	for name, c := range map[string]**Conn{"a": &p.a, "b": &p.b} {
		host := p.lab.Host(name)
		if err = host.Do(func() (err error) {
			if !offload {
				if err := offloadsOff("eth0"); err != nil {
					return err
				}
			}
			*c, err = Listen(tb.Context(), netip.AddrPortFrom(netip.Addr{}, 4500))
			return err
		}); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { (*c).Close() })
	}
	rs := p.b.Readers()
	p.to["IPv4"], p.reader["IPv4"] = netip.AddrPortFrom(p.lab.Host("b").Addr4, 4500), rs[0]
	if p.lab.IPv6() {
		p.to["IPv6"], p.reader["IPv6"] = netip.AddrPortFrom(p.lab.Host("b").Addr6, 4500), rs[1]
	}
	return p
}

// offloadsOff does what `ethtool -K DEV tso off gso off gro off
// tx-udp-segmentation off` does to a veth: each datagram crosses it alone.
func offloadsOff(dev string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, cmd := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO, unix.ETHTOOL_STXCSUM} {
		value := [2]uint32{cmd, 0} // struct ethtool_value
		var req struct {           // struct ifreq
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(req.name[:], dev)
		req.data = unsafe.Pointer(&value)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return fmt.Errorf("ethtool command %#x on %s: %w", cmd, dev, errno)
		}
	}
	return nil
}

func TestTrainsCrossALinkWithAndWithoutOffloads(t *testing.T) {
	for _, offload := range []bool{true, false} {
		t.Run(fmt.Sprintf("offload=%v", offload), func(t *testing.T) {
			p := newPath(t, lab.Config{}, offload)
			for family, to := range p.to {
				r := p.reader[family]
				if n, err := p.a.WriteBatch(sized(to, 9)); n != 1 || err != nil {
					t.Fatal(n, err)
				}
				collect(t, r, NewBatch(1, TrainBuffer), 1)
				out := sized(to, slices.Concat(repeat(100, 1400), []int{33}, repeat(30, 60), repeat(3, 1452))...)
				for i := range out[:50] {
					out[i].TOS = 2
				}
				if n, err := p.a.WriteBatch(out); n != len(out) || err != nil {
					t.Fatal(n, err)
				}
				wantSame(t, collect(t, r, NewBatch(BatchSize, TrainBuffer), len(out)), out)
			}
			if n := p.a.Stats().TrainRefused.Load(); n != 0 {
				t.Errorf("%d trains refused", n)
			}
			if got := p.b.Stats().ReadTrains.Load(); (got > 0) != offload {
				t.Errorf("%d trains received", got)
			}
		})
	}
}

// overhead is what IP and UDP add.
var overhead = map[string]int{"IPv4": 28, "IPv6": 48}

func TestWithoutFragmentationTheInterfaceLimitsADatagram(t *testing.T) {
	p := newPath(t, lab.Config{MTU: 1400}, true)
	var fragments, without atomic.Uint64
	tap, err := p.lab.Capture(func(pkt lab.Packet) {
		b := pkt.Data
		if b[0]>>4 == 4 && b[6]&0x40 == 0 {
			without.Add(1)
		}
		if b[0]>>4 == 4 && (b[6]&0x3F != 0 || b[7] != 0) || b[0]>>4 == 6 && b[6] == 44 {
			fragments.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	closeTap := sync.OnceValue(tap.Close)
	defer closeTap()
	if err := p.a.SetDontFragment(true); err != nil {
		t.Fatal(err)
	}
	for family, to := range p.to {
		fits := 1400 - overhead[family]
		out := sized(to, fits+1, fits, 9000, fits, fits, fits)
		want := slices.Concat(out[1:2], out[3:])
		if n, err := p.a.WriteBatch(out); n != 4 || err != nil || !errors.Is(out[0].Err, ErrTooLong) || !errors.Is(out[2].Err, ErrTooLong) {
			t.Errorf("%s: %d sent, %v, %v and %v", family, n, err, out[0].Err, out[2].Err)
		}
		wantSame(t, collect(t, p.reader[family], NewBatch(BatchSize, TrainBuffer), 4), want)
		out = sized(to, append(repeat(3, fits+1), 10)...) // a train: its last datagram fits
		if n, err := p.a.WriteBatch(out); n != 1 || err != nil || !errors.Is(out[2].Err, ErrTooLong) || out[3].Err != nil {
			t.Errorf("%s: %d sent, %v, %v and %v", family, n, err, out[2].Err, out[3].Err)
		}
		wantSame(t, collect(t, p.reader[family], NewBatch(BatchSize, TrainBuffer), 1), out[3:])
	}
	if err := closeTap(); err != nil {
		t.Fatal(err)
	}
	if fragments.Load() != 0 || without.Load() != 0 {
		t.Errorf("%d fragments, %d IPv4 packets without DF", fragments.Load(), without.Load())
	}
	if p.a.v4.refused.some.Load() {
		t.Error("trains that fit are avoided because others were too long")
	}
}

// TestTrainOfLongDatagramsIsFragmentedOneByOne: the kernel fragments a
// datagram, never a segment of a train.
func TestTrainOfLongDatagramsIsFragmentedOneByOne(t *testing.T) {
	p := newPath(t, lab.Config{}, true)
	for family, to := range p.to {
		for range 2 {
			out := sized(to, repeat(5, 3000)...)
			if n, err := p.a.WriteBatch(out); n != 5 || err != nil {
				t.Fatal(family, n, err, out[0].Err)
			}
			wantSame(t, collect(t, p.reader[family], NewBatch(BatchSize, TrainBuffer), 5), out)
			out = sized(to, repeat(5, 1400)...)
			if n, err := p.a.WriteBatch(out); n != 5 || err != nil {
				t.Fatal(family, n, err, out[0].Err)
			}
			wantSame(t, collect(t, p.reader[family], NewBatch(BatchSize, TrainBuffer), 5), out)
		}
	}
	s := p.a.Stats()
	if families := uint64(len(p.to)); s.TrainRefused.Load() != families || s.WriteTrains.Load() != 2*families || s.WriteErrors.Load() != 0 {
		t.Errorf("%d trains refused, %d sent, %d errors", s.TrainRefused.Load(), s.WriteTrains.Load(), s.WriteErrors.Load())
	}
}
