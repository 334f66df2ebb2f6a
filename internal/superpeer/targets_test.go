package superpeer

import (
	"errors"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/ledger"
)

// A request that has proved nothing yet does not wait for the table of members.
func TestUnprovedRequestsWaitForNoMember(t *testing.T) {
	s, _ := newTestSuper(t, new(ledger.Memory), nil)
	enough := errors.New("enough")
	_, err := s.authority.ledger.Reserve(ledger.Claim{PID: id.ID{1}}, time.Now(), func(ledger.View) error { // under the lock
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := s.authority.info(time.Now()); err != nil {
				t.Error(err)
			}
			s.busy()
		}()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Error("info or busy waits for the lock of the members")
		}
		return enough
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}
