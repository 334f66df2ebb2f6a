package owner

import (
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// announced verifies what an update says of epochs.
func announced(t *testing.T, u service.Update, now time.Time) *service.Epochs {
	t.Helper()
	trust, err := service.Open(u.Documents, u.Service, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	e, err := trust.OpenEpochs(u.Epochs)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestOwnerAnnouncesOneEpochAfterTheOther(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	first, err := NextEpoch(s.Secret, DefaultEpochDelay, now)
	if err != nil || first.Record.Number != 2 || first.Name != "shop" {
		t.Fatalf("%+v, %v", first, err)
	}
	if e := announced(t, first.Update, now); e.Policy != 1 || e.Seq != 1 {
		t.Errorf("%+v", e)
	}
	if _, err := NextEpoch(first.Secret, DefaultEpochDelay, now); err == nil || !strings.Contains(err.Error(), "epoch 2 comes into force on") {
		t.Errorf("a second one, before the first is in force: %v", err)
	}
	later := now.Add(time.Hour)
	second, err := NextEpoch(first.Secret, DefaultEpochDelay, later)
	if err != nil || second.Record.Number != 3 {
		t.Fatalf("%+v, %v", second, err)
	}
	at, err := NextEpoch(first.Secret, 0, now)
	if err != nil || at.Record.Number != 3 || at.Record.Settled().After(now) {
		t.Errorf("in an emergency: %+v, %v", at, err)
	}
	for _, delay := range []time.Duration{time.Second, -time.Hour, 30 * 24 * time.Hour} {
		if _, err := NextEpoch(s.Secret, delay, now); err == nil {
			t.Errorf("after %v", delay)
		}
	}
}

// TestLaterHandOversOpenNothingOfBefore: a super peer that is added has the M of
// what is in use.
func TestLaterHandOversOpenNothingOfBefore(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := opened(t, s.Supers[0])
	m, err := seal.ParseMasterKey(h.Service.Epoch, h.Service.Master)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	first, err := NextEpoch(s.Secret, DefaultEpochDelay, now)
	if err != nil {
		t.Fatal(err)
	}
	second, err := NextEpoch(first.Secret, DefaultEpochDelay, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	c, err := AddSuper(second.Secret, "203.0.113.1:4500", now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	m.Next()
	if h, _ := opened(t, c.Files); h.Service.Epoch != 2 || string(h.Service.Master) != string(m.Bytes()) || len(h.Epochs.Body) == 0 {
		t.Errorf("M of epoch %d", h.Service.Epoch)
	}
}

func TestRevocationBindsTheNextKeyToItsPolicy(t *testing.T) {
	s, err := Create(testOptions)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	out := id.ID{7}
	e, err := Revoke(s.Secret, []id.ID{out, out}, DefaultEpochDelay, now)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := service.Open(e.Update.Documents, e.Update.Service, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	if trust, err = trust.WithPolicy(e.Update.Policy, now); err != nil || trust.Policy.Sequence != 2 || len(trust.Policy.Out.Peers) != 1 || trust.Policy.Out.Peers[0] != out.String() {
		t.Fatalf("%+v, %v", trust, err)
	}
	if a := announced(t, e.Update, now); a.Policy != 2 || a.Last() != 2 {
		t.Errorf("%+v", a)
	}
	if string(e.Policy) != string(e.Update.Policy.Body) {
		t.Error("policy.yaml is not what was signed")
	}
	super := trust.Descriptor.SuperPeers[0].PID()
	if _, err := Revoke(s.Secret, []id.ID{super}, DefaultEpochDelay, now); err == nil || !strings.Contains(err.Error(), "service super remove") {
		t.Errorf("a super peer: %v", err)
	}
}
