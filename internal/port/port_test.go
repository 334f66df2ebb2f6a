package port

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
	"icvpn/internal/underlay/simnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var addrA, addrB = netip.MustParseAddrPort("192.0.2.1:4500"), netip.MustParseAddrPort("192.0.2.2:4500")

func testRing(t testing.TB, service id.ID, epoch uint32) *seal.Ring {
	t.Helper()
	r := seal.NewRing(seal.Config{Service: service, IsAnswer: IsAnswer})
	k, err := seal.ParseMemberKey(bytes.Repeat([]byte{byte(epoch)}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Install(seal.Epoch{Number: epoch, Key: k, ActivateAt: time.Unix(0, 0)}); err != nil {
		t.Fatal(err)
	}
	return r
}

// heard collects what a port hands on.
type heard struct {
	mu      sync.Mutex
	esp     [][]int // lengths of each run
	control []string
}

func (h *heard) handlers() Handlers {
	return Handlers{
		ESP: func(ms []underlay.Message) {
			h.mu.Lock()
			defer h.mu.Unlock()
			var run []int
			for i := range ms {
				run = append(run, ms[i].N)
			}
			h.esp = append(h.esp, run)
		},
		Control: func(o seal.Opened, from netip.AddrPort) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.control = append(h.control, o.Type.String()+" "+string(o.Payload)+" from "+from.String())
		},
	}
}

func TestPortSortsWhatArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(simnet.Config{})
		ca, err := n.Listen(4500, addrA.Addr())
		if err != nil {
			t.Fatal(err)
		}
		cb, err := n.Listen(4500, addrB.Addr())
		if err != nil {
			t.Fatal(err)
		}
		service := id.ID{1}
		ringA, ringB := testRing(t, service, 1), testRing(t, service, 1)
		rings := new(seal.Rings)
		rings.Add(ringB)
		a, b := New(ca, new(seal.Rings)), New(cb, rings)
		var h heard
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx, h.handlers()) }()

		esp := bytes.Repeat([]byte{7}, 100)
		ms := []underlay.Message{{Buf: esp, N: 100, Addr: addrB}, {Buf: esp, N: 60, Addr: addrB}, {Buf: []byte{0xff}, N: 1, Addr: addrB}, {Buf: make([]byte, 4), N: 4, Addr: addrB}, {Buf: esp, N: 80, Addr: addrB}}
		if _, err := a.WriteESP(ms); err != nil {
			t.Fatal(err)
		}
		if err := a.SendControl(ringA, seal.TypeKE, seal.Newest, []byte("hello"), 0, addrB); err != nil {
			t.Fatal(err)
		}
		if err := a.SendControl(testRing(t, id.ID{2}, 1), seal.TypeKE, seal.Newest, []byte("stranger"), 0, addrB); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		h.mu.Lock()
		total := 0
		for _, run := range h.esp {
			total += len(run)
		}
		if total != 3 || len(h.control) != 1 || h.control[0] != "ke hello from 192.0.2.1:4500" {
			t.Errorf("esp %v, control %v", h.esp, h.control)
		}
		h.mu.Unlock()
		if b.Stats().Keepalives.Load() != 1 || b.Stats().Junk.Load() != 1 || rings.Stats().Dropped(seal.DropUnknown) != 1 {
			t.Errorf("keepalives %d, junk %d, unknown %d", b.Stats().Keepalives.Load(), b.Stats().Junk.Load(), rings.Stats().Dropped(seal.DropUnknown))
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		a.Close()
	})
}

// sorted is what dispatch makes of ms: the ESP datagrams by their first byte,
// run by run and message by message, and the payloads of control datagrams.
func sorted(p *Port, ms []underlay.Message) (esp [][][]byte, control []string) {
	p.dispatch(ms, Handlers{
		ESP: func(ms []underlay.Message) {
			var run [][]byte
			for i := range ms {
				var firsts []byte
				for _, d := range ms[i].Datagrams() {
					firsts = append(firsts, d[0])
				}
				run = append(run, firsts)
			}
			esp = append(esp, run)
		},
		Control: func(o seal.Opened, _ netip.AddrPort) { control = append(control, string(o.Payload)) },
	})
	return esp, control
}

// train puts datagrams into one message, as the kernel does.
func train(segment int, ds ...[]byte) underlay.Message {
	m := underlay.Message{Buf: make([]byte, underlay.TrainBuffer), Segment: segment, Addr: addrA}
	for _, d := range ds {
		m.N += copy(m.Buf[m.N:], d)
	}
	return m
}

// TestTrainOfMixedKindsIsSorted: the kernel coalesces by length alone.
func TestTrainOfMixedKindsIsSorted(t *testing.T) {
	ring, rings := testRing(t, id.ID{1}, 1), new(seal.Rings)
	rings.Add(testRing(t, id.ID{1}, 1))
	p := New(nil, rings)
	var sealed [2][]byte
	for i := range sealed {
		b, err := ring.Seal(nil, time.Now(), seal.TypeKE, seal.Newest, []byte{'c', byte('0' + i)}, 0)
		if err != nil {
			t.Fatal(err)
		}
		sealed[i] = b
	}
	size := len(sealed[0])
	esp := func(first byte) []byte { return bytes.Repeat([]byte{first}, size) }
	zeros, short := make([]byte, size), []byte{9, 9, 9}
	got, control := sorted(p, []underlay.Message{
		train(size, esp(1), esp(2), esp(3)),
		train(size, sealed[0], esp(4), zeros, esp(5), sealed[1], short), // ESP kept, the rest told apart
		train(0, esp(6)),
		train(size, zeros, short), // nothing kept: ends the run
		train(1, []byte{0xff, 0xff, 0xff, 0xfe}),
		train(size, zeros, esp(7)),
		train(size, esp(8), esp(9)[:8]),
	})
	want := [][][]byte{{{1, 2, 3}, {4, 5}, {6}}, {{7}, {8, 9}}}
	if len(got) != len(want) {
		t.Fatalf("runs %v, want %v", got, want)
	}
	for i := range want {
		if len(got[i]) != len(want[i]) {
			t.Fatalf("runs %v, want %v", got, want)
		}
		for j := range want[i] {
			if !bytes.Equal(got[i][j], want[i][j]) {
				t.Errorf("runs %v, want %v", got, want)
			}
		}
	}
	if len(control) != 2 || control[0] != "c0" || control[1] != "c1" {
		t.Errorf("control %q", control)
	}
	// zeros are control datagrams to no ring; junk are the short ones and 0xfe.
	if k, j := p.Stats().Keepalives.Load(), p.Stats().Junk.Load(); k != 3 || j != 3 {
		t.Errorf("%d keepalives, %d junk", k, j)
	}
}

func TestDispatchDoesNotAllocate(t *testing.T) {
	p, seen := New(nil, new(seal.Rings)), 0
	h := Handlers{ESP: func(ms []underlay.Message) { seen += len(ms) }}
	ms := []underlay.Message{train(100, bytes.Repeat([]byte{7}, 1000)), train(100, make([]byte, 300)), train(50, bytes.Repeat([]byte{7}, 1020))}
	sizes := []int{ms[0].N, ms[1].N, ms[2].N}
	if n := testing.AllocsPerRun(100, func() {
		for i := range ms {
			ms[i].N = sizes[i]
		}
		p.dispatch(ms, h)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if seen == 0 {
		t.Error("nothing was handed on")
	}
}

// TestPortReadsTrains sends more than the first buffers hold, in trains and
// singly, and exchanges the buffers on the way.
func TestPortReadsTrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(simnet.Config{Trains: true})
		ca, err := n.Listen(4500, addrA.Addr())
		if err != nil {
			t.Fatal(err)
		}
		cb, err := n.Listen(4500, addrB.Addr())
		if err != nil {
			t.Fatal(err)
		}
		b := New(cb, new(seal.Rings))
		var got []int
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- b.Run(ctx, Handlers{ESP: func(ms []underlay.Message) {
				for i := range ms {
					for _, d := range ms[i].Datagrams() {
						got = append(got, len(d))
					}
					ms[i].Buf = make([]byte, underlay.TrainBuffer)
				}
			}})
		}()
		var out []underlay.Message
		var want []int
		for i := range 300 {
			size := 100
			if i%20 > 10 { // ten singles of growing length, then a train
				size += i % 20
			}
			want = append(want, size)
			out = append(out, underlay.Message{Buf: bytes.Repeat([]byte{7}, size), N: size, Addr: addrB})
		}
		if k, err := ca.WriteBatch(out); k != len(out) || err != nil {
			t.Fatal(k, err)
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("lengths %v, want %v", got, want)
		}
		if cb.Stats().ReadTrains.Load() == 0 {
			t.Error("no train was read: the test shows nothing")
		}
		ca.Close()
	})
}

// FuzzDispatch: any bytes, cut any way.
func FuzzDispatch(f *testing.F) {
	f.Add([]byte{0xff}, 0)
	f.Add(bytes.Repeat([]byte{0, 0, 0, 0, 1}, 20), 5)
	f.Add(append(bytes.Repeat([]byte{7}, 16), make([]byte, 16)...), 8)
	rings := new(seal.Rings)
	rings.Add(testRing(f, id.ID{1}, 1))
	f.Fuzz(func(t *testing.T, b []byte, segment int) {
		if len(b) > 65535 {
			return
		}
		m := train(0, b)
		if segment > 0 && segment < len(b) {
			m.Segment = segment
		}
		var want []byte
		other := uint64(0)
		for _, d := range m.Datagrams() {
			switch underlay.Classify(d) {
			case underlay.ESP:
				want = append(want, d...)
			case underlay.Control:
			default:
				other++
			}
		}
		if m.N == 0 {
			other = 1
		}
		p := New(nil, rings)
		var got []byte
		p.dispatch([]underlay.Message{m}, Handlers{
			ESP: func(ms []underlay.Message) {
				for i := range ms {
					for _, d := range ms[i].Datagrams() {
						if underlay.Classify(d) != underlay.ESP {
							t.Fatalf("% x handed on as ESP", d)
						}
						got = append(got, d...)
					}
				}
			},
			Control: func(seal.Opened, netip.AddrPort) {},
		})
		if !bytes.Equal(got, want) || p.stats.Junk.Load()+p.stats.Keepalives.Load() != other {
			t.Fatalf("segment %d of % x: % x handed on, %d counted", m.Segment, b, got, p.stats.Junk.Load()+p.stats.Keepalives.Load())
		}
	})
}

func TestReflection(t *testing.T) {
	tx := [8]byte{1, 2, 3}
	q := ReflectQuery(tx)
	a, ok := AnswerReflect(q, addrA)
	if !ok || len(a) > seal.PadQuery {
		t.Fatalf("answer %x, %v", a, ok)
	}
	got, addr, ok := ParseReflected(a)
	if !ok || got != tx || addr != addrA {
		t.Errorf("ParseReflected = %v %v %v", got, addr, ok)
	}
	if _, ok := AnswerReflect(a, addrB); ok {
		t.Error("an answer was answered")
	}
	if _, _, ok := ParseReflected(q); ok {
		t.Error("a query passed for an answer")
	}
	for i := range a {
		if _, _, ok := ParseReflected(a[:i]); ok {
			t.Errorf("accepted a truncation to %d bytes", i)
		}
	}
	if _, _, ok := ParseReflected(append(a, 0)); ok {
		t.Error("accepted a trailing byte")
	}
}

func TestAnswerIsNeverLargerThanItsQuery(t *testing.T) {
	a := answer{room: 10}
	if err := a.WriteTo(make([]byte, 11), addrA); err == nil {
		t.Error("sent a larger answer")
	}
}

func TestIsAnswer(t *testing.T) {
	q := ReflectQuery([8]byte{1})
	a, _ := AnswerReflect(q, addrA)
	for _, tc := range []struct {
		typ     seal.Type
		payload []byte
		want    bool
	}{
		{seal.TypeReflect, a, true}, {seal.TypeReflect, q, false},
		{seal.TypeKE, []byte{1, 0}, false}, {seal.TypeKE, []byte{2, 0}, true}, {seal.TypeKE, []byte{4, 0}, true}, {seal.TypeKE, nil, false},
		{seal.TypeProbe, a, false}, {seal.TypeDHT, []byte("junk"), false},
	} {
		if got := IsAnswer(tc.typ, tc.payload); got != tc.want {
			t.Errorf("IsAnswer(%v, %x) = %v", tc.typ, tc.payload, got)
		}
	}
}

func TestResolverKnowsNumbersAtOnce(t *testing.T) {
	r := NewResolver([]string{"192.0.2.1:4500", "[2001:db8::1]:4500"})
	if got := r.Addrs(); len(got) != 2 || got[0] != addrA {
		t.Errorf("Addrs = %v", got)
	}
	if got := Resolve(t.Context(), "nonsense"); got != nil {
		t.Errorf("Resolve = %v", got)
	}
}

func FuzzReflect(f *testing.F) {
	q := ReflectQuery([8]byte{1})
	f.Add(q)
	a, _ := AnswerReflect(q, addrA)
	f.Add(a)
	f.Fuzz(func(t *testing.T, b []byte) {
		AnswerReflect(b, addrB)
		ParseReflected(b)
	})
}

// TestRelayedGoesToTheRelay: whole messages, ESP around them stays in order, and who is
// no relay takes them for junk.
func TestRelayedGoesToTheRelay(t *testing.T) {
	relayed := append([]byte{0, 0, 0, 0, 0x80, 0, 0, 0}, make([]byte, 17)...)
	esp := []byte{1, 2, 3, 4, 0, 0, 0, 1}
	from := netip.MustParseAddrPort("192.0.2.9:4500")
	message := func(b []byte, segment int) underlay.Message {
		return underlay.Message{Buf: b, N: len(b), Segment: segment, Addr: from}
	}
	p := New(nil, new(seal.Rings))
	var got []string
	h := Handlers{
		ESP: func(ms []underlay.Message) { got = append(got, fmt.Sprintf("%d ESP", len(ms))) },
		Relayed: func(ms []underlay.Message) {
			got = append(got, fmt.Sprintf("%d relayed of %d bytes", len(ms), ms[0].N))
		},
	}
	train := append(append([]byte(nil), relayed...), relayed...)
	p.dispatch([]underlay.Message{message(esp, 0), message(esp, 0), message(relayed, 0), message(train, len(relayed)), message(esp, 0)}, h)
	if want := []string{"2 ESP", "1 relayed of 25 bytes", "1 relayed of 50 bytes", "1 ESP"}; !slices.Equal(got, want) {
		t.Errorf("handled %q, want %q", got, want)
	}
	h.Relayed = nil
	p.dispatch([]underlay.Message{message(train, len(relayed))}, h)
	if n := p.Stats().Junk.Load(); n != 2 {
		t.Errorf("%d relayed datagrams counted, want 2", n)
	}
}
