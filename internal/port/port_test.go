package port

import (
	"bytes"
	"context"
	"net/netip"
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
