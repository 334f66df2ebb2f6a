package port

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/underlay/simnet"
)

func TestReflectorIsNeitherAmplifierNorFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, err := simnet.New(simnet.Config{}).Listen(4500, addrA.Addr())
		if err != nil {
			t.Fatal(err)
		}
		ring := testRing(t, id.ID{1}, 1)
		p := New(conn, new(seal.Rings))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx, Handlers{}) }()
		r := NewReflector(p, ring)
		ask := func(room int) error {
			return r.Answer(seal.Opened{Type: seal.TypeReflect, Epoch: 1, Payload: ReflectQuery([8]byte{1}), Room: room}, addrB)
		}
		if err := ask(15); err != nil {
			t.Error(err)
		}
		answer, _ := AnswerReflect(ReflectQuery([8]byte{1}), addrB)
		_ = r.Answer(seal.Opened{Type: seal.TypeReflect, Epoch: 1, Payload: answer, Room: seal.PadQuery}, addrB)
		if n, _ := r.Counts(); n != 0 {
			t.Errorf("%d answers to a short query and to an answer", n)
		}
		for range 3 * reflectBurst {
			_ = ask(seal.PadQuery)
		}
		if n, limited := r.Counts(); n != reflectBurst || limited != 2*reflectBurst {
			t.Errorf("of %d at once %d were answered, %d refused", 3*reflectBurst, n, limited)
		}
		time.Sleep(time.Second)
		if err := ask(seal.PadQuery); err != nil {
			t.Errorf("a second later: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
