package superpeer

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/filter"
	"icvpn/internal/ledger"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// prepareAll makes keys as the idle loop does until nothing is needed.
func prepareAll(t *testing.T, a *authority) (made int) {
	t.Helper()
	for {
		need, ok := a.slots.Need(time.Now())
		if !ok {
			return made
		}
		if err := a.makeSlot(need); err != nil {
			t.Fatal(err)
		}
		made++
	}
}

func slotOf(t *testing.T, a *authority, g provision.Grant) (slot abe.SlotID, cohort bool) {
	t.Helper()
	c, err := a.trust().VerifyCredential(time.Now(), g.Credential, g.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	return abe.SlotID(c.Slot), a.ledger.Member(c.PID()).Cohort
}

// In a storm that empties the pool machines with the same labels share a key, and
// with it what it opens; when they are admitted again each has its own.
func TestStormSharesACohortSlotUntilRenewal(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	a := s.authority
	a.slots = abe.NewPool(2, 2, a.trust().Descriptor.Generation)
	if err := a.prepare(time.Now()); err != nil {
		t.Fatal(err)
	}
	prepareAll(t, a)
	grants := map[byte]provision.Grant{}
	for n := byte(1); n <= 4; n++ {
		g, err := comer(svc, "web", n).ask(t, a, nil)
		if err != nil {
			t.Fatal(err)
		}
		grants[n] = g
		if _, cohort := slotOf(t, a, g); cohort != (n > 2) {
			t.Errorf("machine %d: cohort %v, with 2 keys in the pool", n, cohort)
		}
	}
	three, _ := slotOf(t, a, grants[3])
	four, _ := slotOf(t, a, grants[4])
	one, _ := slotOf(t, a, grants[1])
	if three != four || three == one || !bytes.Equal(grants[3].AttributeKey, grants[4].AttributeKey) {
		t.Error("two of a cohort have different keys, or the key of somebody else")
	}
	app, err := comer(svc, "app", 5).ask(t, a, nil)
	if err != nil {
		t.Fatal(err)
	}
	if slot, cohort := slotOf(t, a, app); cohort || slot == three {
		t.Error("a machine with other labels is in the cohort")
	}
	key, err := abe.ParseKey(grants[4].AttributeKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Unseal(abe.Target{Service: svc.ID, Generation: 1, Policy: abe.ForSlot(one)}, grants[1].SlotCiphertext); err == nil {
		t.Error("a cohort key opens what is sealed to another machine's own slot")
	}
	if _, err := key.Unseal(abe.Target{Service: svc.ID, Generation: 1, Policy: abe.Label("role", "app")}, nil); !errors.Is(err, abe.ErrNoMatch) {
		t.Errorf("a cohort key of web and a policy of app: %v", err)
	}
	prepareAll(t, a)
	renewed := map[abe.SlotID]bool{}
	for _, n := range []byte{3, 4} {
		g, err := comer(svc, "web", n).ask(t, a, nil)
		if err != nil {
			t.Fatal(err)
		}
		slot, cohort := slotOf(t, a, g)
		if cohort || slot == three || renewed[slot] {
			t.Errorf("machine %d after the storm: cohort %v, slot %x", n, cohort, slot)
		}
		renewed[slot] = true
	}
	counts := fmt.Sprint(a.slotCounts.counts())
	if counts != "[{cohort 2} {handed 0} {lacking 0} {made 0} {own 5}]" {
		t.Errorf("counted %s", counts)
	}
}

// A key of a cohort is continued only where there is nothing else: the ticket says
// that it was shared.
func TestMemoOfACohortKeyAsksForAnother(t *testing.T) {
	m := memo{Slot: make([]byte, abe.SlotSize)}
	if m.holds(m, false)&provision.PartKey == 0 {
		t.Error("an own key is not continued")
	}
	m.Cohort = true
	if m.holds(m, false)&provision.PartKey != 0 || m.holds(m, true)&provision.PartKey == 0 {
		t.Error("a cohort's key is continued though there is another, or not though there is none")
	}
}

// TestCohortRenewsByDatagramWhileThereIsNoOtherKey: and over TLS as soon as there is
// one, which stays in the pool until then.
func TestCohortRenewsByDatagramWhileThereIsNoOtherKey(t *testing.T) {
	s, svc := newTestSuper(t, new(ledger.Memory), nil)
	a := s.authority
	a.slots = abe.NewPool(1, 2, a.trust().Descriptor.Generation)
	if err := a.prepare(time.Now()); err != nil {
		t.Fatal(err)
	}
	prepareAll(t, a)
	attrs := discovery.Attributes(a.rules(), map[string]string{"role": "web"})
	for a.slots.Len(attrs) > 0 {
		a.slots.Take(attrs, time.Now())
	}
	m := newMember(t, s, svc)
	var was memo
	mustUnmarshal(t, m.memo, &was)
	was.Cohort = true
	m.memo = wire.Marshal(was)
	later := func(b *brief) { b.claimed = b.claimed.Add(time.Second) }
	if err := m.renew(later); err != nil {
		t.Fatal(err)
	}
	if e := a.ledger.Member(m.who.PID); !e.Cohort || string(e.Slot) != string(was.Slot) {
		t.Errorf("slot %x, of a cohort: %v", e.Slot, e.Cohort)
	}
	prepareAll(t, a)
	n := a.slots.Len(attrs)
	if err := m.renew(func(b *brief) { b.claimed = b.claimed.Add(2 * time.Second) }); !errors.Is(err, errNotBrief) || n == 0 || a.slots.Len(attrs) != n {
		t.Errorf("with a key of its own at hand: %v; %d of %d keys are left", err, a.slots.Len(attrs), n)
	}
}

// TestChosenLabelSetsGiveTheirRoomBack after a day without a machine, and those of
// secrets stay.
func TestChosenLabelSetsGiveTheirRoomBack(t *testing.T) {
	s, _ := newTestSuper(t, new(ledger.Memory), nil)
	a, now := s.authority, time.Now()
	of := a.slots.Sets()
	if _, err := a.slot(map[string]string{"role": "chosen"}, now); err != nil {
		t.Fatal(err)
	}
	if n := a.slots.Sets(); n != of+1 {
		t.Fatalf("%d label sets, %d before", n, of)
	}
	a.expire(now.Add(24 * time.Hour))
	if n := a.slots.Sets(); n != of {
		t.Errorf("%d label sets are left, %d are of secrets", n, of)
	}
}

func TestPreparedKeysOutliveARestart(t *testing.T) {
	store := new(ledger.Memory)
	s, svc := newTestSuper(t, store, nil)
	made := prepareAll(t, s.authority)
	g, err := comer(svc, "web", 1).ask(t, s.authority, nil)
	if err != nil {
		t.Fatal(err)
	}
	given, _ := slotOf(t, s.authority, g)
	again := startTestSuper(t, svc, store, nil).authority
	if n := prepareAll(t, again); n != 1 {
		t.Errorf("after a restart %d of %d keys are made again, want the one that was given", n, made)
	}
	for n := byte(2); n < 8; n++ {
		g, err := comer(svc, "web", n).ask(t, again, nil)
		if err != nil {
			t.Fatal(err)
		}
		if slot, _ := slotOf(t, again, g); slot == given {
			t.Fatal("a key that was given is given again after a restart")
		}
	}
}

func TestPeerListIsBoundedAndBeginsWithWhomTheRulesConcern(t *testing.T) {
	r := newRoster()
	now := time.Now()
	add := func(n int, role string) {
		m := service.Member{Key: bytes.Repeat([]byte{byte(n), byte(n >> 8)}, 16), Name: fmt.Sprint(role, n), Labels: map[string]string{"role": role}, NotAfter: now.Add(time.Hour).Unix()}
		r.put(listedKey{pid: m.PID()}, m.Name, m.Labels, m.NotAfter, wire.Marshal(m))
	}
	for n := range 50 {
		add(n, "app")
	}
	for n := range 1000 {
		add(1000+n, "db")
	}
	rules := []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}}, {From: filter.Selector{"role": "app"}, To: filter.Selector{"role": "db"}}}
	l, err := provision.ParseList(r.list(rules, map[string]string{"role": "web"}, now))
	if err != nil || len(l.Members) != maxListed {
		t.Fatalf("%d members, %v", len(l.Members), err)
	}
	for i, m := range l.Members {
		if (m.Labels["role"] == "app") != (i < 50) {
			t.Fatalf("place %d is of a machine %s", i, m.Labels["role"])
		}
	}
	if l.Members[0].Name != "app49" || l.Members[50].Name != "db1999" {
		t.Errorf("first are %s and %s, want those that joined last", l.Members[0].Name, l.Members[50].Name)
	}
	if l, _ := provision.ParseList(r.list(rules, map[string]string{"role": "web"}, now.Add(time.Hour))); len(l.Members) != 0 {
		t.Error("ended members are listed")
	}
}

func TestRestoredSuperPeerSendsNewMachinesElsewhere(t *testing.T) {
	store := new(ledger.Memory)
	s, svc := newTestSuper(t, store, nil)
	if _, err := comer(svc, "web", 1).ask(t, s.authority, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.authority.makeSlot(abe.Need{Labels: discovery.Attributes(s.authority.rules(), map[string]string{"role": "web"}), Generation: 1}); err != nil {
		t.Fatal(err)
	}
	if err := ledger.MarkRestored(store); err != nil {
		t.Fatal(err)
	}
	a := startTestSuper(t, svc, store, nil).authority
	if n := a.slots.Len(discovery.Attributes(a.rules(), map[string]string{"role": "web"})); n != 0 {
		t.Errorf("%d keys of the backup are ready, which somebody may have been given since", n)
	}
	if _, err := comer(svc, "web", 1).ask(t, a, nil); err != nil {
		t.Errorf("a machine that the backup knows: %v", err)
	}
	_, err := comer(svc, "web", 2).ask(t, a, nil)
	wantCode(t, "a new machine", err, admission.CodeAddresses)
	var r *admission.Refusal
	if !errors.As(err, &r) || r.Other == "" || !strings.Contains(r.Detail, "restored") {
		t.Errorf("refusal %+v names neither why nor another super peer", r)
	}
}
