package keyex

import (
	"bytes"
	"testing"
	"time"

	"icvpn/internal/id"
)

func TestRekeyMixesInTheOldPair(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b)
	w.run(time.Second)
	old := a.only(t)
	rekey := func(x *Target) { x.RekeyID = &old.RekeyID }
	for _, c := range []struct {
		name         string
		atA, atB     bool
		secretAtB    [32]byte
		rekeyOK, end bool
	}{
		{"both have it", true, true, old.Rekey, true, true},
		{"responder restarted", true, false, old.Rekey, false, true},
		{"initiator restarted", false, true, old.Rekey, false, true},
		{"secrets differ", true, true, [32]byte{1}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			clear(a.rekeys)
			clear(b.rekeys)
			if c.atA {
				a.rekeys[old.RekeyID] = old.Rekey
			}
			if c.atB {
				b.rekeys[old.RekeyID] = c.secretAtB
			}
			a.done, b.done, a.failed = nil, nil, nil
			n := len(w.log)
			w.initiate(a, b, rekey)
			w.run(time.Minute)
			var m2s []m2
			for _, p := range w.log[n:] {
				if p.msg() == msgHelloB {
					x, ok := parseM2(p.Payload[headerSize:])
					if !ok {
						t.Fatal("M2 does not parse")
					}
					m2s = append(m2s, x)
				}
			}
			if m2s[0].RekeyOK != c.rekeyOK {
				t.Errorf("rekeyOK is %t", m2s[0].RekeyOK)
			}
			if !c.end {
				wantFailure(t, a, ReasonIncomplete)
				return
			}
			agree(t, a.only(t), b.only(t))
			if a.done[0].RekeyID == old.RekeyID {
				t.Error("the new pair has the old pair's rekey ID")
			}
		})
	}
}

// rk changes the keys: two runs with equal randomness, with and without.
func TestRekeySecretChangesTheKeys(t *testing.T) {
	var confirm [2][]byte
	for i, rk := range [][32]byte{{}, {1}} {
		total := hash{2}
		s := newSchedule(testService, 7, &[32]byte{3}, &rk, []byte("dh"), id.ID{1}, id.ID{2}, total)
		confirm[i] = s.confirmation()
	}
	if bytes.Equal(confirm[0], confirm[1]) {
		t.Error("the rekey secret has no effect")
	}
}

func TestRekeySecretGoneByM3IsRefusedAndRetried(t *testing.T) {
	w, a, b := twoNodes(t)
	rk, rid := [32]byte{5}, [8]byte{6}
	a.rekeys[rid], b.rekeys[rid] = rk, rk
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA {
			delete(b.rekeys, rid)
		}
		return []packet{p}
	}
	w.initiate(a, b, func(x *Target) { x.RekeyID = &rid })
	w.run(time.Second)
	agree(t, a.only(t), b.only(t))
	if b.Stats().Drops(DropRefused) != 1 || a.Stats().Started.Load() != 1 {
		t.Errorf("refused %d", b.Stats().Drops(DropRefused))
	}
}
