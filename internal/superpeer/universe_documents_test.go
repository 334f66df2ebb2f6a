package superpeer

import (
	"log/slog"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/service"
)

// superOf makes super peer i of a service, not running.
func superOf(t *testing.T, svc *owner.Service, i int, store *ledger.Memory) *SuperPeer {
	t.Helper()
	h, _ := newTestHost(t, listenLocal(t))
	s, err := h.Add(Config{HandOver: handOverOf(t, svc, i), Ledger: store, Log: slog.New(slog.DiscardHandler), Slots: 1, ABE: keysOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// documentsIn returns what a change's hand-over carries.
func documentsIn(t *testing.T, c *owner.Change) service.Documents {
	t.Helper()
	return handOverOf(t, &owner.Service{Supers: []owner.SuperFiles{c.Files}}, 0).Service.Documents
}

// TestNewerDocumentsOutliveARestart: with the hand-over of before.
func TestNewerDocumentsOutliveARestart(t *testing.T) {
	svc, store := newTestService(t, "shop"), new(ledger.Memory)
	s := superOf(t, svc, 0, store)
	c, err := owner.AddSuper(svc.Secret, "192.0.2.2:4500", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	docs, before := documentsIn(t, c), s.authority.docs()
	if _, err := s.learnDocuments(s.service, fileDocuments, docs, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.learnDocuments(s.service, fileDocuments, before, time.Now()); err != nil {
		t.Errorf("older documents are an error: %v", err)
	}
	for what, d := range map[string]*service.Descriptor{"running": s.service.trust().Descriptor, "restarted": superOf(t, svc, 0, store).service.trust().Descriptor} {
		if d.Seq != 2 || len(d.SuperPeers) != 2 {
			t.Errorf("%s: descriptor %d of %d super peers", what, d.Seq, len(d.SuperPeers))
		}
	}
	if s.authority.trust().Policy == nil {
		t.Error("the policy is lost")
	}
	if got, ok := (session{s: s}).Service(svc.ID); !ok || string(got.Descriptor) != string(docs.Descriptor.Encode()) {
		t.Error("machines are handed an older descriptor")
	}
}

// TestForeignDocumentsAreNotLearnt: of another service, or altered.
func TestForeignDocumentsAreNotLearnt(t *testing.T) {
	svc := newTestService(t, "shop")
	s := superOf(t, svc, 0, new(ledger.Memory))
	other := newTestService(t, "shop")
	c, err := owner.AddSuper(other.Secret, "192.0.2.2:4500", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.learnDocuments(s.service, fileDocuments, documentsIn(t, c), time.Now()); err == nil {
		t.Error("another service's documents were learnt")
	}
	if c, err = owner.AddSuper(svc.Secret, "192.0.2.2:4500", time.Now()); err != nil {
		t.Fatal(err)
	}
	docs := documentsIn(t, c)
	docs.Descriptor.Body = append([]byte(nil), docs.Descriptor.Body...)
	docs.Descriptor.Body[len(docs.Descriptor.Body)-1] ^= 1
	if _, err := s.learnDocuments(s.service, fileDocuments, docs, time.Now()); err == nil || s.service.trust().Descriptor.Seq != 1 {
		t.Error("altered documents were learnt")
	}
}

func TestRemovedSuperPeerAdmitsNobody(t *testing.T) {
	svc := newTestService(t, "shop")
	c, err := owner.AddSuper(svc.Secret, "192.0.2.2:4500", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := superOf(t, svc, 0, new(ledger.Memory))
	if _, ok := (session{s: s}).Service(svc.ID); !ok {
		t.Fatal("it does not admit before, either")
	}
	if c, err = owner.RemoveSuper(c.Secret, "192.0.2.1:4500", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.learnDocuments(s.service, fileDocuments, documentsIn(t, c), time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, ok := (session{s: s}).Service(svc.ID); ok {
		t.Error("it still admits")
	}
	if s.authority.self().Has(service.RoleAuthority) || s.PID() == (id.ID{}) {
		t.Error("it does not know what it is any more")
	}
}
