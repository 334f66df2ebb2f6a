package underlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sized returns messages of the given lengths, each told by a number in its
// first bytes (where there is room) and filled with something to compare.
func sized(to netip.AddrPort, sizes ...int) []Message {
	ms := make([]Message, len(sizes))
	for i, n := range sizes {
		b := make([]byte, n)
		for j := range b {
			b[j] = byte(i + j*31)
		}
		if n >= 4 {
			binary.BigEndian.PutUint32(b, uint32(i))
		}
		ms[i] = Message{Buf: b, N: n, Addr: to}
	}
	return ms
}

func repeat(n, size int) []int { return slices.Repeat([]int{size}, n) }

// collect reads until n datagrams are there and returns them one by one.
func collect(tb testing.TB, r Reader, ms []Message, n int) (got []Message) {
	tb.Helper()
	for len(got) < n {
		k, err := r.ReadBatch(ms)
		if err != nil {
			tb.Fatal(err)
		}
		for i := range ms[:k] {
			for _, d := range ms[i].Datagrams() {
				b := bytes.Clone(d)
				got = append(got, Message{Buf: b, N: len(b), Addr: ms[i].Addr, TOS: ms[i].TOS})
			}
		}
	}
	return got
}

func wantSame(tb testing.TB, got, want []Message) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%d datagrams, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i].Bytes(), want[i].Bytes()) || got[i].TOS != want[i].TOS {
			tb.Fatalf("datagram %d: %d bytes with TOS %#x, want %d with %#x, or other content", i, got[i].N, got[i].TOS, want[i].N, want[i].TOS)
		}
	}
}

// families runs fn for both address families.
func families(t *testing.T, fn func(t *testing.T, a, b *Conn, r Reader, to netip.AddrPort)) {
	for _, addr := range []netip.Addr{loop4, loop6} {
		t.Run(fmt.Sprintf("%v", addr), func(t *testing.T) {
			a, b := listen(t), listen(t)
			r4, r6 := readers(t, b)
			r := r4
			if addr.Is6() {
				r = r6
			}
			fn(t, a, b, r, netip.AddrPortFrom(addr, b.Port()))
		})
	}
}

var trainCases = []struct {
	name   string
	sizes  []int
	trains uint64 // that the sender makes
}{
	{"even", repeat(10, 1400), 1},
	{"last shorter", append(repeat(10, 1400), 3), 1},
	{"single", []int{1400}, 0},
	{"growing", []int{100, 200, 300}, 0},
	{"falling", []int{300, 200, 100}, 1}, // 300+200, 100
	{"mixed", slices.Concat(repeat(5, 1400), []int{700}, repeat(4, 1400), repeat(3, 52), []int{1}, repeat(2, 1000)), 4}, // the first 52 ends the 1400s
	{"more than 64 segments", repeat(150, 200), 3},
	{"more than a system call", repeat(writeSize+5, 100), 3},
	{"more than 64 KiB", repeat(60, 1432), 2},
	{"one byte each", repeat(64, 1), 1},
	{"large", repeat(4, 9000), 1},
	{"largest", repeat(3, maxTrain6), 0},
}

func TestTrainArrivesAsTheSameDatagrams(t *testing.T) {
	for _, size := range []int{TrainBuffer, TrainBuffer - 1} { // with UDP_GRO, and without
		for _, c := range trainCases {
			t.Run(fmt.Sprintf("%s/buffer=%d", c.name, size), func(t *testing.T) {
				families(t, func(t *testing.T, a, b *Conn, r Reader, to netip.AddrPort) {
					reader := armed(t, b, r, size)
					out := sized(to, c.sizes...)
					if n, err := a.WriteBatch(out); n != len(out) || err != nil {
						t.Fatal(n, err)
					}
					wantSame(t, collect(t, reader, NewBatch(16, size), len(out)), out)
					if got := a.Stats().WriteTrains.Load(); got != c.trains {
						t.Errorf("%d trains sent, want %d", got, c.trains)
					}
					if got := b.Stats().ReadTrains.Load(); (got > 0) != (c.trains > 0 && size >= TrainBuffer) {
						t.Errorf("%d trains received", got)
					}
					if got := b.Stats().ReadPackets.Load(); got != uint64(len(out)+1) {
						t.Errorf("counted %d datagrams read", got)
					}
				})
			})
		}
	}
}

// armed makes r read once with buffers of that size, which decides about
// UDP_GRO before anything is queued.
func armed(t *testing.T, b *Conn, r Reader, size int) Reader {
	t.Helper()
	to := netip.AddrPortFrom(loop4, b.Port())
	if r.(*reader).s.v6 {
		to = netip.AddrPortFrom(loop6, b.Port())
	}
	c := listen(t)
	if n, err := c.WriteBatch(sized(to, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	collect(t, r, NewBatch(1, size), 1)
	return r
}

func TestTrainsDoNotMixDestinations(t *testing.T) {
	a, b, c := listen(t), listen(t), listen(t)
	toB, toC := netip.AddrPortFrom(loop4, b.Port()), netip.AddrPortFrom(loop4, c.Port())
	out := sized(toB, repeat(12, 500)...)
	for i := 4; i < 8; i++ {
		out[i].Addr = toC
	}
	if n, err := a.WriteBatch(out); n != len(out) || err != nil {
		t.Fatal(n, err)
	}
	wantSame(t, collect(t, b.Readers()[0], NewBatch(16, TrainBuffer), 8), append(slices.Clone(out[:4]), out[8:]...))
	wantSame(t, collect(t, c.Readers()[0], NewBatch(16, TrainBuffer), 4), out[4:8])
	if got := a.Stats().WriteTrains.Load(); got != 3 {
		t.Errorf("%d trains, want 3", got)
	}
}

func TestBadMessageEndsATrainAndIsSkipped(t *testing.T) {
	a, b := listen(t), listen(t)
	out := sized(netip.AddrPortFrom(loop4, b.Port()), repeat(9, 500)...)
	out[4].Segment = 100 // a train as it was read: not for writing
	out[6].N = 0
	if n, err := a.WriteBatch(out); n != 7 || err != nil || !errors.Is(out[4].Err, ErrBadMessage) || !errors.Is(out[6].Err, ErrBadMessage) {
		t.Fatal(n, err, out[4].Err, out[6].Err)
	}
	good := slices.Concat(out[:4], out[5:6], out[7:])
	wantSame(t, collect(t, b.Readers()[0], NewBatch(16, TrainBuffer), 7), good)
}

func TestTOSTravelsBothWaysAndPartsTrains(t *testing.T) {
	families(t, func(t *testing.T, a, b *Conn, r Reader, to netip.AddrPort) {
		out := sized(to, repeat(10, 500)...)
		for i, tos := range []uint8{0, 0, 0x02, 0x02, 0x03, 0xB8, 0xB8, 0xB9, 0, 0} { // ECT(0), CE, EF, EF with ECT(1)
			out[i].TOS = tos
		}
		if n, err := a.WriteBatch(out); n != len(out) || err != nil {
			t.Fatal(n, err)
		}
		wantSame(t, collect(t, r, NewBatch(16, TrainBuffer), len(out)), out)
		if got := a.Stats().WriteTrains.Load(); got != 4 {
			t.Errorf("%d trains, want 4", got)
		}
	})
}

func TestSmallBuffersAfterLargeOnesTurnTrainsOff(t *testing.T) {
	a, b := listen(t), listen(t)
	r, to := b.Readers()[0], netip.AddrPortFrom(loop4, b.Port())
	for _, size := range []int{TrainBuffer, DefaultBuffer, TrainBuffer} {
		armed(t, b, r, size)
		out := sized(to, repeat(20, 1000)...)
		if n, err := a.WriteBatch(out); n != len(out) || err != nil {
			t.Fatal(n, err)
		}
		wantSame(t, collect(t, r, NewBatch(32, size), len(out)), out)
	}
	if b.Stats().ReadTooLong.Load() != 0 || b.Stats().ReadTrains.Load() != 2 {
		t.Errorf("%d too long, %d trains", b.Stats().ReadTooLong.Load(), b.Stats().ReadTrains.Load())
	}
}

// TestBuffersMayBeExchangedBetweenReads: what is read lies in the new buffer,
// the old one is left alone.
func TestBuffersMayBeExchangedBetweenReads(t *testing.T) {
	a, b := listen(t), listen(t)
	r := armed(t, b, b.Readers()[0], TrainBuffer)
	to, in := netip.AddrPortFrom(loop4, b.Port()), NewBatch(2, TrainBuffer)
	var kept [][]byte
	for i := range 5 {
		out := sized(to, repeat(3, 1000+i)...)
		if n, err := a.WriteBatch(out); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		k, err := r.ReadBatch(in)
		if err != nil || k != 1 || in[0].N != 3*(1000+i) {
			t.Fatal(k, err, in[0].N)
		}
		kept = append(kept, in[0].Bytes())
		in[0].Buf = make([]byte, TrainBuffer)
	}
	for i, b := range kept {
		if want := sized(to, repeat(3, 1000+i)...); !bytes.Equal(b[:1000+i], want[0].Bytes()) || !bytes.Equal(b[2*(1000+i):], want[2].Bytes()) {
			t.Errorf("buffer %d was written to after its exchange", i)
		}
	}
}

func TestReaderOffersFewLargeBuffersToTrains(t *testing.T) {
	a, b := listen(t), listen(t)
	r, in := b.Readers()[0].(*reader), NewBatch(BatchSize, TrainBuffer)
	to := netip.AddrPortFrom(loop4, b.Port())
	send := func(sizes ...int) {
		t.Helper()
		out := sized(to, sizes...)
		if n, err := a.WriteBatch(out); n != len(out) || err != nil {
			t.Fatal(n, err)
		}
		collect(t, r, in, len(out))
	}
	growing := make([]int, 4*BatchSize) // makes no train
	for i := range growing {
		growing[i] = 1000 + i
	}
	for range 3 {
		send(growing...)
		if r.offer != BatchSize {
			t.Errorf("%d messages offered where many single datagrams wait", r.offer)
		}
		send(repeat(46*4, 1400)...)
		if r.offer != minRead {
			t.Errorf("%d messages offered for trains", r.offer)
		}
		for range 3 {
			send(1400)
		}
		if r.offer != minRead {
			t.Errorf("%d messages offered where one datagram comes at a time", r.offer)
		}
	}
}

// refuseTrains makes the socket's kernel answer errno to trains it should not take,
// those of segments of some length and more, and returns a count of them.
func refuseTrains(s *socket, errno unix.Errno, shorter int) *int {
	refused := new(int)
	real := s.send
	s.send = func(fd uintptr, ms []mmsghdr) (int, unix.Errno) {
		for i := range ms {
			if ms[i].hdr.Iovlen > 1 && int(ms[i].hdr.Iov.Len) >= shorter {
				if i > 0 {
					return real(fd, ms[:i])
				}
				*refused++
				return -1, errno
			}
		}
		return real(fd, ms)
	}
	return refused
}

func TestRefusedTrainGoesOutOneByOneAndIsRemembered(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.EINVAL, unix.EMSGSIZE} {
		t.Run(errno.Error(), func(t *testing.T) {
			a, b := listen(t), listen(t)
			r, in, to := b.Readers()[0], NewBatch(BatchSize, TrainBuffer), netip.AddrPortFrom(loop4, b.Port())
			refused := refuseTrains(a.v4, errno, 1000)
			out := sized(to, slices.Concat(repeat(3, 500), repeat(20, 1400), []int{7}, repeat(2, 600))...)
			send := func() {
				t.Helper()
				if n, err := a.WriteBatch(out); n != len(out) || err != nil {
					t.Fatal(n, err)
				}
				for i := range out {
					if out[i].Err != nil {
						t.Fatalf("message %d: %v", i, out[i].Err)
					}
				}
				wantSame(t, collect(t, r, in, len(out)), out)
			}
			for range 3 {
				send()
			}
			if *refused != 1 || a.Stats().TrainRefused.Load() != 1 {
				t.Errorf("refused %d times, counted %d, want once", *refused, a.Stats().TrainRefused.Load())
			}
			small := a.v4.refused.at(loop4, 500)
			if want := errno == unix.EIO; small != want {
				t.Errorf("trains of short segments avoided: %v, want %v", small, want)
			}
			a.v4.refused.mu.Lock()
			a.v4.refused.by[loop4] = refusal{size: a.v4.refused.by[loop4].size, until: time.Now().Add(-1)}
			a.v4.refused.mu.Unlock()
			send()
			if *refused != 2 {
				t.Errorf("refused %d times, want a second try after a while", *refused)
			}
		})
	}
}

func TestWhatSingleDatagramsMeetTooIsNotHeldAgainstTrains(t *testing.T) {
	a := listen(t)
	calls := 0
	a.v4.send = func(_ uintptr, ms []mmsghdr) (int, unix.Errno) {
		calls++
		return -1, unix.EMSGSIZE
	}
	out := sized(netip.AddrPortFrom(loop4, 9), repeat(5, 1400)...)
	if n, err := a.WriteBatch(out); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	for i := range out {
		if !errors.Is(out[i].Err, ErrTooLong) {
			t.Errorf("message %d: %v", i, out[i].Err)
		}
	}
	if calls != 6 || a.v4.refused.some.Load() || a.Stats().WriteErrors.Load() != 5 {
		t.Errorf("%d calls, remembered %v, %d errors", calls, a.v4.refused.some.Load(), a.Stats().WriteErrors.Load())
	}
}

func TestPendingErrorDoesNotSplitATrain(t *testing.T) {
	a, b := listen(t), listen(t)
	real, pending := a.v4.send, true
	a.v4.send = func(fd uintptr, ms []mmsghdr) (int, unix.Errno) {
		if pending {
			pending = false
			return -1, unix.ECONNREFUSED
		}
		return real(fd, ms)
	}
	out := sized(netip.AddrPortFrom(loop4, b.Port()), repeat(5, 1400)...)
	if n, err := a.WriteBatch(out); n != 5 || err != nil || a.Stats().WriteTrains.Load() != 1 {
		t.Fatal(n, err, a.Stats().WriteTrains.Load())
	}
	// One that stays is the train's own.
	a.v4.send = func(uintptr, []mmsghdr) (int, unix.Errno) { return -1, unix.EHOSTUNREACH }
	if n, err := a.WriteBatch(out); n != 0 || err != nil || !errors.Is(out[4].Err, unix.EHOSTUNREACH) || a.Stats().WriteErrors.Load() != 5 {
		t.Fatal(n, err, out[4].Err)
	}
}

func TestFullSocketIsWaitedFor(t *testing.T) {
	a, b := listen(t), listen(t)
	real, full := a.v4.send, true
	a.v4.send = func(fd uintptr, ms []mmsghdr) (int, unix.Errno) {
		if full {
			full = false
			return -1, unix.EAGAIN
		}
		return real(fd, ms)
	}
	out := sized(netip.AddrPortFrom(loop4, b.Port()), repeat(5, 1400)...)
	if n, err := a.WriteBatch(out); n != 5 || err != nil || full {
		t.Fatal(n, err)
	}
}

func TestSocketWithoutTrainsSendsSingleDatagrams(t *testing.T) {
	a, b := listen(t), listen(t)
	a.v4.trains = false
	out := sized(netip.AddrPortFrom(loop4, b.Port()), repeat(writeSize+3, 100)...)
	if n, err := a.WriteBatch(out); n != len(out) || err != nil || a.Stats().WriteTrains.Load() != 0 {
		t.Fatal(n, err)
	}
	wantSame(t, collect(t, b.Readers()[0], NewBatch(BatchSize, TrainBuffer), len(out)), out)
}

func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	for i := range 3 * maxRefusals {
		r.add(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 0)
	}
	if len(r.by) != maxRefusals {
		t.Errorf("%d refusals remembered", len(r.by))
	}
	if !r.at(netip.AddrFrom4([4]byte{10, 0, 0, byte(3*maxRefusals - 1)}), 1) {
		t.Error("the newest is forgotten")
	}
}

func TestControlRoundTrip(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, tos := range []uint8{0, 1, 0xFF} {
			var c control
			n := c.encode(0, tos, v6)
			if segment, got := c.decode(n, v6); got != tos || segment != 0 {
				t.Errorf("TOS %#x came back as %#x, segment %d", tos, got, segment)
			}
			if n = c.encode(1400, tos, v6); n > controlLen {
				t.Fatalf("%d bytes", n)
			}
		}
	}
}

// FuzzControlDecode: whatever stands there, decode stays within it.
func FuzzControlDecode(f *testing.F) {
	var c control
	c.encode(1400, 3, false)
	f.Add(c[0], c[1], c[2], c[3], c[4], c[5], 48, false)
	f.Add(uint64(1<<63), uint64(0), uint64(1<<40), uint64(0), uint64(0), uint64(0), 48, true)
	f.Fuzz(func(_ *testing.T, a, b, c, d, e, g uint64, n int, v6 bool) {
		ctl := control{a, b, c, d, e, g}
		ctl.decode(n, v6)
	})
}

// TestTrainLengthAgreesWithItsRules compares trainLength with the conditions
// written down one by one.
func TestTrainLengthAgreesWithItsRules(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dest := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4500"), netip.MustParseAddrPort("192.0.2.1:4501")}
	buf := make([]byte, 1<<16)
	s := &socket{trains: true}
	for range 2000 {
		ms := make([]Message, 1+rng.IntN(100))
		for i := range ms {
			ms[i] = Message{Buf: buf, N: []int{1400, 1400, 1400, 1400, 1400, 1400, 9000, 100}[rng.IntN(8)], Addr: dest[0]}
			if rng.IntN(40) == 0 {
				ms[i].Addr = dest[1]
			}
			if rng.IntN(40) == 0 {
				ms[i].TOS = 2
			}
		}
		n, total := s.trainLength(ms), 0
		for i := range n {
			m := &ms[i]
			total += m.N
			if m.Addr != ms[0].Addr || m.TOS != ms[0].TOS || i < n-1 && m.N != ms[0].N || m.N > ms[0].N {
				t.Fatalf("message %d of a train of %d does not fit the first", i, n)
			}
		}
		if n < 1 || n > maxSegments || n > 1 && total > maxTrain4 {
			t.Fatalf("a train of %d messages, %d bytes", n, total)
		}
		if n < len(ms) && n < maxSegments && ms[n-1].N == ms[0].N {
			m := &ms[n]
			if m.Addr == ms[0].Addr && m.TOS == ms[0].TOS && m.N <= ms[0].N && total+m.N <= maxTrain4 {
				t.Fatalf("message %d would have fitted", n)
			}
		}
	}
}
