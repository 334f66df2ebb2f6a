package superpeer

import (
	"testing"
	"time"

	"icvpn/internal/ledger"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// TestGoodbyesWaitOnceAndOnlyTheMachinesOwn: a member knows key and process of
// every other, and must not fill the queue with goodbyes in their names.
func TestGoodbyesWaitOnceAndOnlyTheMachinesOwn(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	a, now := s.authority, time.Now()
	c, liar := comer(svc, "web", 1), comer(svc, "web", 2)
	if _, err := c.ask(t, a, nil); err != nil {
		t.Fatal(err)
	}
	forged, ok := service.ParseLeave(service.SignLeave(liar.key, svc.ID, service.Instance{1}, now), now)
	if !ok {
		t.Fatal("a goodbye cannot be read")
	}
	forged.Key = c.who.IDKey
	own := service.SignLeave(c.key, svc.ID, service.Instance{1}, now)
	for range 3 {
		a.onLeave(wire.Marshal(forged), now)
	}
	if len(a.leaves) != 0 {
		t.Errorf("%d goodbyes of somebody else wait", len(a.leaves))
	}
	for range 3 {
		a.onLeave(own, now)
	}
	if len(a.leaves) != 1 {
		t.Fatalf("%d goodbyes of one machine wait, want 1", len(a.leaves))
	}
	a.leave(<-a.leaves)
	if a.ledger.Member(c.who.PID) != nil {
		t.Error("the machine is listed after its goodbye")
	}
	if _, err := c.ask(t, a, nil); err != nil {
		t.Fatal(err)
	}
	if a.onLeave(service.SignLeave(c.key, svc.ID, service.Instance{1}, time.Now()), time.Now()); len(a.leaves) != 1 {
		t.Error("a machine that came back cannot leave again")
	}
}
