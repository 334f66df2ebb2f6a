package service

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

func TestNextEpochFollowsTheOneBefore(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := id.ID{1}
	first, err := NextEpochs(nil, s, 7, now, now.Add(time.Hour), DefaultGrace)
	if err != nil || len(first.Records) != 1 || first.Last() != 2 || first.Seq != 1 || first.Policy != 7 {
		t.Fatalf("%+v, %v", first, err)
	}
	settled := first.Newest().Settled()
	var unsettled *UnsettledError
	if _, err := NextEpochs(&first, s, 7, now, settled.Add(-time.Second), DefaultGrace); !errors.As(err, &unsettled) || unsettled.Record.Number != 2 {
		t.Errorf("before epoch 2 has settled: %v", err)
	}
	second, err := NextEpochs(&first, s, 8, now, settled, DefaultGrace)
	if err != nil || len(second.Records) != 2 || second.Last() != 3 || second.Seq != 2 {
		t.Fatalf("%+v, %v", second, err)
	}
	third, err := NextEpochs(&second, s, 8, settled, settled.Add(time.Hour), DefaultGrace)
	if err != nil || third.Records[0].Number != 3 || third.Records[1].Number != 4 {
		t.Errorf("%+v, %v", third, err)
	}
	for _, e := range []*Epochs{&first, &second, &third} {
		e.Version = docVersion
		if err := e.validate(); err != nil {
			t.Error(err)
		}
	}
}

// TestEmergencyOvertakesWhatWasAnnounced: whoever is put out may already have the
// key that was.
func TestEmergencyOvertakesWhatWasAnnounced(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	announced, _ := NextEpochs(nil, id.ID{1}, 1, now, now.Add(time.Hour), DefaultGrace)
	grace, _ := NextEpochs(nil, id.ID{1}, 1, now, now.Add(-time.Minute), DefaultGrace)
	for name, old := range map[string]*Epochs{"announced": &announced, "in its grace": &grace} {
		e, err := NextEpochs(old, id.ID{1}, 1, now, now, 0)
		e.Version = docVersion
		if err == nil {
			err = e.validate()
		}
		if err != nil || e.Oldest(now) != 3 || e.Records[0].Settled().After(now) || !e.Newer(old) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

func TestOldestEpochIsTheOneWhoseGraceLasts(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	e := &Epochs{Records: []EpochRecord{{Number: 4, ActivateAt: at.Unix(), Grace: 600}, {Number: 5, ActivateAt: at.Unix() + 3600, Grace: 600}}}
	for after, want := range map[time.Duration]uint32{
		-time.Hour: 3, 0: 3, 10*time.Minute - 1: 3, 10 * time.Minute: 4, time.Hour: 4, 70*time.Minute - 1: 4, 70 * time.Minute: 5,
	} {
		if got := e.Oldest(at.Add(after)); got != want {
			t.Errorf("%v after: %d, want %d", after, got, want)
		}
	}
	var none *Epochs
	if none.Oldest(at) != 1 || none.Last() != 1 {
		t.Error("without a document epoch 1 is in force")
	}
}

func testEpochs(service id.ID) Epochs {
	return Epochs{Version: docVersion, Service: service, Seq: 3, Issued: 1, Policy: 1, Records: []EpochRecord{{Number: 4, ActivateAt: 1000, Grace: 600}, {Number: 5, ActivateAt: 1600}}}
}

func TestOpenEpochsRefusesWhatTheOwnersDidNotSign(t *testing.T) {
	f := newFixture(t)
	tr, by := f.trust(t), []ed25519.PrivateKey{f.owner}
	s, err := NewEpochs(testEpochs(f.id), by)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := tr.OpenEpochs(s); err != nil || e.Last() != 5 {
		t.Fatalf("%+v, %v", e, err)
	}
	nobody, _ := NewEpochs(testEpochs(f.id), nil)
	stranger, _ := NewEpochs(testEpochs(f.id), []ed25519.PrivateKey{f.admit})
	other, _ := NewEpochs(testEpochs(id.ID{9}), by)
	altered := s
	altered.Body = append([]byte(nil), s.Body...)
	altered.Body[len(altered.Body)-1] ^= 1
	policy := sign(typePolicy, s.Body, by)
	long := sign(typeEpochs, append(s.Body, make([]byte, MaxEpochs)...), by)
	for name, bad := range map[string]Signed{"nobody": nobody, "a super peer": stranger, "another service": other, "altered": altered, "another type": policy, "too long": long, "nothing": {}} {
		if _, err := tr.OpenEpochs(bad); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for i := range s.Body {
		if _, err := tr.OpenEpochs(sign(typeEpochs, s.Body[:i], by)); err == nil {
			t.Errorf("%d bytes of %d were accepted", i, len(s.Body))
		}
	}
	if _, err := tr.OpenEpochs(sign(typeEpochs, append(s.Body[:len(s.Body):len(s.Body)], 0), by)); err == nil {
		t.Error("a trailing byte was accepted")
	}
}

func TestEpochsWithoutSenseAreRefused(t *testing.T) {
	good := testEpochs(id.ID{1})
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(e *Epochs){
		"version":           func(e *Epochs) { e.Version = 2 },
		"no number":         func(e *Epochs) { e.Seq = 0 },
		"no record":         func(e *Epochs) { e.Records = nil },
		"three records":     func(e *Epochs) { e.Records = append(e.Records, EpochRecord{Number: 6, ActivateAt: 2000}) },
		"the first epoch":   func(e *Epochs) { e.Records = []EpochRecord{{Number: 1, ActivateAt: 1}} },
		"no activation":     func(e *Epochs) { e.Records[0].ActivateAt = 0 },
		"grace of a day":    func(e *Epochs) { e.Records[1].Grace = 86400 },
		"a gap":             func(e *Epochs) { e.Records[1].Number = 6 },
		"before it settles": func(e *Epochs) { e.Records[1].ActivateAt = 1599 },
	} {
		e := testEpochs(id.ID{1})
		if change(&e); e.validate() == nil {
			t.Errorf("%s: %+v is accepted", name, e)
		}
	}
}

func TestEpochsDoNotGoBack(t *testing.T) {
	old, e := testEpochs(id.ID{1}), testEpochs(id.ID{1})
	if e.Newer(&old) || !e.Newer(nil) {
		t.Error("the same document is no news; any is, where there was none")
	}
	if e.Seq++; !e.Newer(&old) {
		t.Error("a later document is not taken")
	}
	if e.Records = e.Records[:1]; e.Newer(&old) {
		t.Error("a later document takes back an epoch")
	}
}

func FuzzOpenEpochs(f *testing.F) {
	x := newFixture(f)
	tr, by := x.trust(f), []ed25519.PrivateKey{x.owner}
	s, err := NewEpochs(testEpochs(x.id), by)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Body)
	f.Add([]byte{0x86})
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := tr.OpenEpochs(sign(typeEpochs, body, by))
		if err != nil {
			return
		}
		if string(wire.Marshal(e)) != string(body) {
			t.Errorf("%x reads as %+v", body, e)
		}
		for _, at := range []int64{0, e.Newest().ActivateAt, 1 << 40} {
			if o := e.Oldest(time.Unix(at, 0)); o == 0 || o > e.Last() || o+2 < e.Last() {
				t.Errorf("%+v: oldest %d at %d", e, o, at)
			}
		}
	})
}
