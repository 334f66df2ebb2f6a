package superpeer

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/id"
)

func somebody() (pid id.ID) {
	rand.Read(pid[:])
	return pid
}

// Whoever asks often is told so, and nobody else; ten thousand that start at once are not
// too many.
func TestMembersThatComeForShardsAreCountedOneByOne(t *testing.T) {
	b, now := newBulk(), time.Now()
	come := func(pid id.ID, at time.Time) bool {
		ok := b.enter(t.Context(), at, pid)
		if ok {
			b.leave(pid)
		}
		return ok
	}
	greedy := somebody()
	for i := range 10 * bulkMost {
		if come(greedy, now) != (i < bulkMost) {
			t.Fatalf("request %d: the limit is %d", i+1, bulkMost)
		}
	}
	for range 10000 {
		if !come(somebody(), now) {
			t.Fatal("a member that has never asked is turned away")
		}
	}
	if !come(greedy, now.Add(bulkEvery)) {
		t.Error("a minute later it is still too often")
	}
	if len(b.inside) != 0 || b.waiting != 0 || len(b.turn) != 0 || len(b.asked) != 1 {
		t.Errorf("%d inside, %d waiting, %d turns taken, %d counted", len(b.inside), b.waiting, len(b.turn), len(b.asked))
	}
}

// A few members are served at a time, each once, a few more wait, and the others are
// turned away at once.
func TestMembersThatComeForShardsWaitTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBulk()
		served := make([]id.ID, bulkTogether)
		for i := range served {
			served[i] = somebody()
			if !b.enter(t.Context(), time.Now(), served[i]) {
				t.Fatalf("member %d of %d is turned away", i+1, bulkTogether)
			}
		}
		if b.enter(t.Context(), time.Now(), served[0]) {
			t.Error("a member is served twice at a time")
		}
		var got, turned atomic.Int32
		for range bulkTogether + bulkQueue {
			go func() {
				if b.enter(t.Context(), time.Now(), somebody()) {
					got.Add(1)
				} else {
					turned.Add(1)
				}
			}()
		}
		synctest.Wait()
		began := time.Now()
		if b.enter(t.Context(), time.Now(), somebody()) || time.Since(began) > 0 {
			t.Error("one more waits")
		}
		b.leave(served[0])
		synctest.Wait()
		if got.Load() != 1 {
			t.Errorf("%d were let in when one had left", got.Load())
		}
		time.Sleep(bulkWait)
		synctest.Wait()
		if turned.Load() != bulkTogether+bulkQueue-1 || b.waiting != 0 {
			t.Errorf("%d of those who waited were turned away, %d wait", turned.Load(), b.waiting)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if b.enter(ended, time.Now(), somebody()) || len(b.inside) != bulkTogether {
			t.Errorf("%d inside after a connection that had ended", len(b.inside))
		}
	})
}
