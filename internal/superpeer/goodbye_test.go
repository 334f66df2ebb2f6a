package superpeer

import (
	"testing"
	"testing/synctest"
	"time"

	"icvpn/internal/ledger"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// TestMachineThatComesBackAtOnceOutlivesItsTombstone: the tombstone is about
// admissions of its second and before, so the next process is admitted after it,
// and may leave again before that second has come.
func TestMachineThatComesBackAtOnceOutlivesItsTombstone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, svc := newTestSuper(t, new(ledger.Memory), nil)
		a, c := s.authority, comer(svc, "web", 1)
		for process := byte(1); process <= 3; process++ {
			buried, _ := a.ledger.Tombstone(c.who.PID)
			g, err := c.ask(t, a, func(r *provision.Request) {
				r.Instance = service.Instance{process}
				r.Claim = service.SignClaim(c.key, svc.ID, a.self().PID(), r.Instance, time.Now())
			})
			if err != nil {
				t.Fatal(err)
			}
			cred, err := a.trust().VerifyCredential(time.Now(), g.Credential, g.Epoch)
			if err != nil || cred.NotBefore <= buried.Issued {
				t.Fatalf("process %d: %v, admitted at %d, its tombstone is of %d", process, err, cred.NotBefore, buried.Issued)
			}
			l, ok := service.ParseLeave(service.SignLeave(c.key, svc.ID, cred.Instance, time.Unix(cred.NotBefore, 0)), time.Now())
			if !ok {
				t.Fatal("a goodbye cannot be read")
			}
			if a.leave(l); a.ledger.Member(c.who.PID) != nil {
				t.Errorf("process %d is listed after its goodbye", process)
			}
		}
	})
}

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
	at := time.Unix(a.ledger.Member(c.who.PID).Member.Issued, 0) // the second after its tombstone's
	if a.onLeave(service.SignLeave(c.key, svc.ID, service.Instance{1}, at), time.Now()); len(a.leaves) != 1 {
		t.Error("a machine that came back cannot leave again")
	}
}
