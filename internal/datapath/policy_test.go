package datapath

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"icvpn/esp"
	"icvpn/internal/ippkt"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
)

// sent returns what a's datapath sends for one packet from the device.
func sent(a *end, pkt []byte) (out []underlay.Message) {
	a.path.cfg.Send = func(ms []underlay.Message) (int, error) {
		for _, m := range ms {
			m.Buf = append([]byte(nil), m.Bytes()...)
			out = append(out, m)
		}
		return len(ms), nil
	}
	a.path.Inject(pkt)
	a.path.Wait()
	return out
}

func withDF(p []byte) []byte {
	binary.BigEndian.PutUint16(p[6:], 0x4000)
	c := ^binary.BigEndian.Uint16(p[10:])
	s := uint32(c) + 0x4000
	binary.BigEndian.PutUint16(p[10:], ^uint16(s>>16+s&0xffff))
	return p
}

func withClass(p []byte, class byte) []byte {
	if p[0]>>4 == 6 {
		p[0], p[1] = 0x60|class>>4, class<<4
		return p
	}
	p[1] = class
	c := ^binary.BigEndian.Uint16(p[10:])
	s := uint32(c) + uint32(class)
	binary.BigEndian.PutUint16(p[10:], ^uint16(s>>16+s&0xffff))
	return p
}

// No outer packet may be longer than the path, for any suite and any MTU.
func TestNoDatagramIsLongerThanThePath(t *testing.T) {
	for _, suite := range esp.Suites() {
		for _, v6 := range []bool{false, true} {
			for path := 1280; path <= 9000; path += 193 {
				mtu := suite.MaxInner(path, v6)
				a, _, _ := newPair(t, simnet.Config{}, suite, Policy{}, mtu)
				outer := 28
				if v6 {
					outer = 48
				}
				for _, size := range []int{mtu, mtu + 1, 2 * mtu, 8800} {
					for _, m := range sent(a, udp(in4A, in4B, 1, size)) {
						if m.N+outer > path {
							t.Fatalf("%v, path %d: inner %d becomes %d", suite, path, size, m.N+outer)
						}
					}
				}
				longest := sent(a, withDF(udp(in4A, in4B, 1, mtu)))
				if len(longest) != 1 || longest[0].N+outer < path-16 {
					t.Fatalf("%v, path %d: an inner packet of the MTU, %d, does not use it", suite, path, mtu)
				}
				a.conn.Close()
			}
		}
	}
}

func TestLongPacketIsCutOrItsSenderTold(t *testing.T) {
	const mtu = 1300
	a, b, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, mtu)
	b.start()

	// IPv4 without DF: in pieces.
	p := udp(in4A, in4B, 1, 3000)
	a.path.Inject(p)
	a.path.Wait()
	total := 0
	for _, f := range b.dev.take(t, 3) {
		if len(f) > mtu {
			t.Errorf("a piece of %d bytes", len(f))
		}
		total += len(f) - 20
	}
	if total != len(p)-20 || a.path.Stats().Fragmented.Load() != 1 {
		t.Errorf("pieces hold %d bytes of %d", total, len(p)-20)
	}

	// IPv4 with DF, and IPv6: the sender is told.
	a.path.Inject(withDF(udp(in4A, in4B, 1, mtu+1)))
	a.path.Inject(udp(in6A, in6B, 1, mtu+1))
	a.path.Wait()
	told := a.dev.take(t, 2)
	if m := told[0]; m[9] != 1 || m[20] != 3 || m[21] != 4 || binary.BigEndian.Uint16(m[26:]) != mtu {
		t.Errorf("ICMP error % x", m[:28])
	}
	if m := told[1]; m[6] != 58 || m[40] != 2 || binary.BigEndian.Uint32(m[44:]) != mtu {
		t.Errorf("ICMPv6 error % x", m[:48])
	}
	if s := a.path.Stats(); s.TooLong.Load() != 2 || s.TooBigSent.Load() != 2 {
		t.Errorf("too long %d, told %d", s.TooLong.Load(), s.TooBigSent.Load())
	}
}

// IPv6 has no links below 1280: such packets go out longer than the path, to be
// fragmented outside; and so does everything where the policy says so.
func TestIPv6OfMinimalMTUAlwaysPasses(t *testing.T) {
	a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1210)
	if ms := sent(a, udp(in6A, in6B, 1, 1280)); len(ms) != 1 {
		t.Errorf("IPv6 of 1280 bytes: %d datagrams", len(ms))
	}
	if ms := sent(a, udp(in6A, in6B, 1, 1281)); len(ms) != 0 {
		t.Errorf("IPv6 of 1281 bytes: %d datagrams", len(ms))
	}
	over, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{Oversize: true}, 1210)
	if ms := sent(over, withDF(udp(in4A, in4B, 1, 1400))); len(ms) != 1 {
		t.Errorf("with Oversize: %d datagrams", len(ms))
	}
}

func TestICMPErrorsAreLimited(t *testing.T) {
	a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1300)
	now := time.Now()
	p := withDF(udp(in4A, in4B, 1, 1400))
	made := func(at time.Time) (tooBig, prohibited int) {
		for range 1000 {
			a.path.Prohibit(p, at)
			a.path.tooBig(p, 1300, at)
		}
		for _, m := range a.dev.take(t, 2) {
			switch {
			case m[20] == 3 && m[21] == 4:
				tooBig++
			case m[20] == 3 && m[21] == 13:
				prohibited++
			}
		}
		return tooBig, prohibited
	}
	if big, no := made(now); big != tooBigRate || no != prohibitRate {
		t.Errorf("%d too big and %d prohibited at once, want %d and %d", big, no, tooBigRate, prohibitRate)
	}
	if big, no := made(now.Add(time.Second / 2)); big != tooBigRate/2 || no != prohibitRate/2 {
		t.Errorf("%d too big and %d prohibited half a second later, want %d and %d", big, no, tooBigRate/2, prohibitRate/2)
	}
	if n := a.path.Stats().TooBigSent.Load(); n != tooBigRate*3/2 {
		t.Errorf("%d ICMP errors counted, want %d", n, tooBigRate*3/2)
	}
}

func TestProhibitTellsTheSenderOnly(t *testing.T) {
	a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1300)
	now := time.Now()
	a.path.Prohibit(udp(in4A, in4B, 1, 100), now)
	a.path.Prohibit(udp(in6A, in6B, 1, 100), now)
	told := a.dev.take(t, 2)
	if m := told[0]; m[9] != 1 || m[20] != 3 || m[21] != 13 {
		t.Errorf("ICMP error % x", m[:28])
	}
	if m := told[1]; m[6] != 58 || m[40] != 1 || m[41] != 1 {
		t.Errorf("ICMPv6 error % x", m[:48])
	}
	a.path.Prohibit(told[0], now) // never an error about an error
	a.path.Prohibit([]byte{0x45}, now)
	if len(a.dev.out) != 0 {
		t.Errorf("%d packets answered that must not be", len(a.dev.out))
	}
}

func TestOuterHeaderShowsECNAndNoDSCP(t *testing.T) {
	const voice = 46 << 2
	for _, c := range []struct {
		policy Policy
		want   uint8
	}{
		{Policy{}, 0},
		{Policy{DSCP: 10}, 10 << 2},
		{Policy{CopyDSCP: true}, voice},
		{Policy{CopyDSCP: true, DSCP: 10}, voice},
	} {
		a, _, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, c.policy, 1400)
		for ecn := range uint8(4) {
			for _, p := range [][]byte{udp(in4A, in4B, 1, 100), udp(in6A, in6B, 1, 100)} {
				ms := sent(a, withClass(p, voice|ecn))
				if len(ms) != 1 || ms[0].TOS != c.want|ecn {
					t.Errorf("%+v, ECN %d: TOS %#x, want %#x", c.policy, ecn, ms[0].TOS, c.want|ecn)
				}
			}
		}
	}
}

// A congested underlay marks; the mark reaches the inner packet, or costs it
// where its sender knows nothing of ECN.
func TestCongestionReachesTheInnerPacket(t *testing.T) {
	a, b, net := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	net.SetLink(addrA, addrB, simnet.Link{Congested: true})
	b.start()
	for _, ecn := range []byte{ippkt.ECT0, ippkt.ECT1, ippkt.CE} {
		a.path.Inject(withClass(udp(in4A, in4B, 1, 100), ecn))
		a.path.Inject(withClass(udp(in6A, in6B, 1, 100), ecn))
	}
	for _, p := range b.dev.take(t, 6) {
		if ippkt.TrafficClass(p)&3 != ippkt.CE {
			t.Errorf("ECN %d after congestion, want CE", ippkt.TrafficClass(p)&3)
		}
	}
	// Marked by force: our own underlay leaves Not-ECT alone.
	a.path.cfg.Send = func(ms []underlay.Message) (int, error) {
		for i := range ms {
			ms[i].TOS |= ippkt.CE
		}
		return a.conn.WriteBatch(ms)
	}
	a.path.Inject(udp(in4A, in4B, 1, 100))
	for b.path.Stats().Congestion.Load() == 0 {
		runtime.Gosched()
	}
}

func TestPaddingHidesLengths(t *testing.T) {
	for _, c := range []struct {
		pad          int
		size, sealed int
	}{
		{256, 100, 256}, {256, 256, 256}, {256, 257, 512}, {256, 1390, 1400},
		{PadToMTU, 100, 1400}, {PadToMTU, 1400, 1400}, {0, 100, 100}, {1, 100, 100},
	} {
		a, b, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{Pad: c.pad}, 1400)
		p := udp(in4A, in4B, 1, c.size)
		ms := sent(a, p)
		if want := esp.DefaultSuite.SealedLen(c.sealed); len(ms) != 1 || ms[0].N != want {
			t.Errorf("pad %d: %d bytes inside give %d, want %d", c.pad, c.size, ms[0].N, want)
		}
		b.path.Receive(ms)
		b.path.Wait()
		same(t, b.dev.take(t, 1), [][]byte{p})
	}
}

func TestSYNsAreClampedBothWays(t *testing.T) {
	syn := func(src, dst netip.Addr) []byte {
		p := udp(src, dst, 0, 100)
		head := 20
		p[9] = 6
		if src.Is6() {
			head, p[6] = 40, 6
		}
		clear(p[head:])
		p[head+12], p[head+13] = 6<<4, 2
		copy(p[head+20:], []byte{2, 4, 5, 180})
		return p
	}
	a, b, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1300)
	a.tunnel.policy.KeepMSS = true // so that b's side does it
	for i, c := range []struct {
		p    []byte
		at   int
		want uint16
	}{{syn(in4A, in4B), 42, 1260}, {syn(in6A, in6B), 62, 1240}} {
		b.path.Receive(sent(a, c.p))
		b.path.Wait()
		if got := binary.BigEndian.Uint16(b.dev.take(t, 1)[0][c.at:]); got != c.want {
			t.Errorf("in: MSS %d, want %d", got, c.want)
		}
		sent(b, append([]byte(nil), c.p...))
		if n := b.path.Stats().Clamped.Load(); n != uint64(2*i+2) {
			t.Errorf("out: %d SYNs clamped, want %d", n, 2*i+2)
		}
	}
}

// What the owner hears: whose packets, from where, and dummies, which may be
// probes.
func TestOwnerIsTold(t *testing.T) {
	a, b, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	var ms []underlay.Message
	a.path.cfg.Send = func(out []underlay.Message) (int, error) {
		for _, m := range out {
			m.Buf = append([]byte(nil), m.Bytes()...)
			m.Addr = netip.AddrPortFrom(addrA, uint16(5000+len(ms)))
			ms = append(ms, m)
		}
		return len(out), nil
	}
	for _, length := range []int{0, 100, 1280, 1400, 8999} {
		n, err := a.tunnel.Dummy(time.Now(), length)
		if err != nil || length > 0 && (n > length || n < length-16) || n != ms[len(ms)-1].N {
			t.Errorf("dummy of %d: %d bytes, %v", length, n, err)
		}
	}
	if _, err := a.tunnel.Dummy(time.Now(), 10); err == nil {
		t.Error("a dummy of 10 bytes")
	}
	a.path.Inject(udp(in4A, in4B, 1, 100))
	ms[0], ms[1] = ms[1], ms[0] // reordered under way
	b.path.Receive(ms)
	b.path.Wait()
	var longest, authentic int
	for _, o := range b.owner.opened {
		longest, authentic = max(longest, o.Dummy), authentic+o.Authentic
	}
	last := b.owner.opened[len(b.owner.opened)-1]
	if longest < 8999-16 || authentic != 6 || last.From != netip.AddrPortFrom(addrA, 5005) || last.SA.SPI() != 0x1001 {
		t.Errorf("owner heard %+v", b.owner.opened)
	}
	if s := a.owner.sealed; len(s) != 1 || s[0].Sent != 1 {
		t.Errorf("owner of the sender heard %+v", s)
	}
}

func TestOwnerHearsOfTooSmallAnInterface(t *testing.T) {
	a, _, net := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	net.SetLink(addrA, addrB, simnet.Link{Interface: 1000})
	a.path.Inject(udp(in4A, in4B, 1, 1400))
	a.path.Wait()
	if s := a.owner.sealed; len(s) != 1 || s[0].Sent != 0 || s[0].TooLong != esp.DefaultSuite.SealedLen(1400) {
		t.Errorf("owner heard %+v", s)
	}
	if n := a.path.Stats().NotSent.Load(); n != 1 {
		t.Errorf("%d not sent", n)
	}
}

func TestOwnerDecides(t *testing.T) {
	a, b, _ := newPair(t, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	odd := func(p []byte) bool { return seqOf(p)%2 == 1 }
	a.owner.deny = odd
	b.owner.deny = func(p []byte) bool { return seqOf(p)%3 == 0 }
	a.start()
	b.start()
	var ps, want [][]byte
	for i := range uint32(100) {
		p := udp(in4A, in4B, i, 100)
		ps = append(ps, p)
		if i%2 == 0 && i%3 != 0 {
			want = append(want, p)
		}
	}
	a.dev.in <- ps
	same(t, b.dev.take(t, len(want)), want)
	if out, in := a.path.Stats().Refused.Load(), b.path.Stats().Refused.Load(); out != 50 || in != 17 {
		t.Errorf("refused %d out and %d in, want 50 and 17", out, in)
	}
}

// Anything at all on the port: no panic, nothing delivered.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 0, 0x10, 1, 0, 0, 0, 1, 2, 3}, 4)
	f.Add(make([]byte, 300), 100)
	a, b, _ := newPair(f, simnet.Config{}, esp.DefaultSuite, Policy{}, 1400)
	for _, m := range sent(a, udp(in4A, in4B, 1, 100)) {
		f.Add(m.Bytes(), 0)
	}
	f.Fuzz(func(t *testing.T, data []byte, segment int) {
		if segment < 0 || segment >= len(data) {
			segment = 0
		}
		buf := make([]byte, max(len(data), 64))
		n := copy(buf, data)
		before := b.tunnel.Stats().RxPackets.Load()
		b.path.Receive([]underlay.Message{{Buf: buf, N: n, Segment: segment, Addr: netip.AddrPortFrom(addrA, 1)}})
		b.path.Wait()
		if got := b.tunnel.Stats().RxPackets.Load() - before; got > 1 {
			t.Fatalf("%d packets delivered of one", got)
		}
	})
}
