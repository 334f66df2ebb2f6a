package keyex

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
)

func zero(b []byte) bool {
	return len(b) > 0 && !slices.ContainsFunc(b, func(x byte) bool { return x != 0 })
}

func TestResultsAreWipedAndNeverPrinted(t *testing.T) {
	w, a, b := twoNodes(t, withSuites(3))
	w.initiate(a, b)
	w.run(time.Second)
	r := a.only(t)
	secrets := [][]byte{r.In.Enc, r.Out.Enc, r.In.Salt, r.Out.Salt, r.CtlIn[:], r.CtlOut[:], r.Rekey[:]}
	var texts []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		texts = append(texts, fmt.Sprintf(verb, r), fmt.Sprintf(verb, &r), fmt.Sprintf(verb, r.In), fmt.Sprintf(verb, []Result{r}))
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "r", r, "k", r.In, "p", &r)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "r", r, "k", r.In, "p", &r)
	texts = append(texts, log.String())
	for _, text := range texts {
		if !strings.Contains(text, "keyex.") {
			t.Errorf("unexpected text %q", text)
		}
		for _, s := range secrets {
			list := strings.Trim(fmt.Sprint(s[:4]), "[]")
			if strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", s[:4])) || strings.Contains(text, list) {
				t.Errorf("a secret in %q", text)
			}
		}
	}
	if js, err := json.Marshal(r.In); err != nil || strings.Contains(string(js), "\"Enc\":\"") {
		t.Errorf("a secret in JSON: %s (%v)", js, err)
	}
	if js, err := json.Marshal(r); err != nil || strings.Contains(string(js), "Transcript") {
		t.Errorf("fields in JSON: %s (%v)", js, err)
	}
	if text := fmt.Sprintf("%v %+v", a.Machine, a.Machine); len(text) > 120 {
		t.Errorf("a machine prints as %s", text)
	}
	r.Wipe()
	for i, s := range secrets {
		if !zero(s) {
			t.Errorf("secret %d is left", i)
		}
	}
	if r.In.Enc != nil || r.CtlIn != [32]byte{} || r.Rekey != [32]byte{} {
		t.Error("Wipe leaves something")
	}
}

func TestSecretsAreWiped(t *testing.T) {
	rid := [8]byte{1}
	for name, end := range map[string]func(w *world, a, b *node){
		"success": func(w *world, a, b *node) { w.bend = nil; w.run(5 * time.Second); a.only(t) },
		"cancel":  func(w *world, a, b *node) { a.Cancel(b.PID()) },
		"failure": func(w *world, a, b *node) { w.run(time.Minute); wantFailure(t, a, ReasonIncomplete) },
		"another attempt": func(w *world, a, b *node) {
			for a.own[b.PID()].attempt == 0 {
				w.step(w.now.Add(time.Minute))
			}
			a.Cancel(b.PID())
		},
		"giving way": func(w *world, a, b *node) {
			w.bend = nil
			w.initiate(b, a)
			w.run(300 * time.Millisecond)
			if !a.only(t).Replaced {
				t.Error("it did not give way")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, b, a := twoNodes(t) // a is the higher, which gives way
			a.rekeys[rid], b.rekeys[rid] = [32]byte{2}, [32]byte{2}
			w.bend = func(p packet) []packet {
				if p.msg() == msgShareA {
					return nil
				}
				return []packet{p}
			}
			w.initiate(a, b, func(x *Target) { x.RekeyID = &rid })
			w.run(200 * time.Millisecond)
			x := a.own[b.PID()]
			secret := x.secret
			if zero(secret) || x.rk == [32]byte{} {
				t.Fatal("no secret to begin with")
			}
			end(w, a, b)
			if !zero(secret) || x.rk != [32]byte{} || x.secret != nil {
				t.Error("a secret is left")
			}
		})
	}
	dhR := []byte{1, 2, 3}
	s := newSchedule(testService, 7, &[32]byte{1}, &[32]byte{}, dhR, id.ID{1}, id.ID{2}, hash{})
	s.wipe()
	if !zero(dhR) || !zero(s.secret) {
		t.Error("the key schedule leaves a secret")
	}
	a, b := []byte{1}, []byte{2}
	if joinSecrets(a, b); !zero(a) || !zero(b) {
		t.Error("joining leaves the parts")
	}
}
