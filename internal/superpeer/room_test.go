package superpeer

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/provision"
	"icvpn/internal/service"
)

// fill admits machines of a role until the super peer refuses, without the
// pairings of real grants, and returns how many there were and the refusal.
func fill(t *testing.T, a *authority, first newcomer, name func(n int) string) (int, error) {
	t.Helper()
	for n := range 5000 {
		who := first.who
		seed := make([]byte, ed25519.SeedSize)
		seed[0], seed[1], seed[2] = byte(n), byte(n>>8), first.key.Seed()[0]
		key := ed25519.NewKeyFromSeed(seed)
		who.IDKey = key.Public().(ed25519.PublicKey)
		who.PID = id.FromKey(who.IDKey)
		labels, err := a.labels(who, provision.Request{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		req := provision.Request{PID: who.PID, Name: name(n), VM: strings.Repeat("v", 64), Instance: service.Instance{1}}
		req.Claim = service.SignClaim(key, a.trust().Service, a.self().PID(), req.Instance, time.Now())
		if _, _, err := a.admit(who, req, membership{labels: labels, slot: prepared{Slot: &abe.Slot{}}}, time.Now()); err != nil {
			return n, err
		}
	}
	t.Fatal("no end")
	return 0, nil
}

func TestOneSecretLeavesRoomForTheOthers(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	a := s.authority
	web, err := fill(t, a, comer(svc, "web", 1), func(n int) string { return fmt.Sprint("w", n) })
	wantCode(t, "more machines of one secret", err, admission.CodeAddresses)
	_, size := a.ledger.Leases()
	if web < size/2 || web >= size {
		t.Errorf("one of two secrets took %d of %d addresses", web, size)
	}
	app, _ := fill(t, a, comer(svc, "app", 2), func(n int) string { return fmt.Sprint("a", n) })
	if app < size/4 {
		t.Errorf("%d addresses were left to the other secret, want a quarter of %d", app, size)
	}
	if _, err := comer(svc, "app", 2).ask(t, a, nil); err == nil {
		t.Error("a full super peer admitted one more")
	}
}

func TestShardOfLongEntriesFitsItsObject(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	a := s.authority
	long := func(n int) string { return fmt.Sprintf("%s-%04d", strings.Repeat("m", 50), n) }
	fill(t, a, comer(svc, "web", 1), long)
	now := time.Now()
	numbers, _ := a.ledger.Changed(0)
	for _, shard := range a.shards(numbers, now) {
		for i := range shard.Members {
			shard.Members[i].Claim = make(service.Claim, service.ClaimSize) // as if all were contested
		}
		b, err := shard.Encode(a.trust().Service, a.block)
		if err != nil || len(b) > directory.MaxShard/2 {
			t.Errorf("shard %d of %d members takes %d bytes: %v", shard.Number, len(shard.Members), len(b), err)
		}
	}
}

func TestRefusedMachineHoldsNoAddress(t *testing.T) {
	store := new(ledger.Memory)
	s, svc := newTestSuper(t, store, nil)
	a := s.authority
	a.trust().Policy.Out.Peers = []string{comer(svc, "web", 1).who.PID.String()}
	_, err := comer(svc, "web", 1).ask(t, a, nil)
	wantCode(t, "revoked peer", err, admission.CodeRevoked)
	store.Fail(errFull)
	if _, err = comer(svc, "web", 2).ask(t, a, nil); err == nil {
		t.Fatal("admitted on a full disk")
	}
	leases, _ := a.ledger.Leases()
	uses := a.ledger.Uses(comer(svc, "web", 2).who.SecretID)
	if leases != 0 || a.ledger.Len() != 0 || a.roster.len() != 0 || uses != 0 {
		t.Errorf("machines that were refused hold %d addresses, %d entries and %d admissions", leases, a.ledger.Len(), uses)
	}
}
