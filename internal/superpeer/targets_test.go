package superpeer

import (
	"testing"
	"time"
)

// A request that has proved nothing yet waits neither for the table of members
// nor for the disk that is written under its lock.
func TestUnprovedRequestsWaitForNoMember(t *testing.T) {
	s, _ := newTestSuper(t, &memStore{}, nil)
	s.authority.mu.Lock()
	defer s.authority.mu.Unlock()
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
		t.Fatal("info or busy waits for the lock of the members")
	}
}
