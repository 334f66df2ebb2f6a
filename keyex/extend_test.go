package keyex

import (
	"fmt"
	"testing"
	"time"
)

// TestExtendedPathsAreTriedToo: an exchange whose paths are silent completes over one that
// was added, with the same M1, and only while nobody has answered it.
func TestExtendedPathsAreTriedToo(t *testing.T) {
	w, a, b := twoNodes(t)
	silent := Path{Addr: ipv4(99).Addr}
	if out := a.Extend(b.PID(), []Path{b.addr}); len(out.Send) != 0 {
		t.Error("an exchange that there is not is extended")
	}
	w.take(a, a.Initiate(w.now, Target{PID: b.PID(), Epoch: 7, Paths: []Path{silent}}))
	hello := a.sent[0]
	w.run(time.Second)
	out := a.Extend(b.PID(), []Path{b.addr, silent, b.addr, {}})
	if len(out.Send) != 1 || out.Send[0].To != b.addr || out.Send[0].Plain != HelloPlain || string(out.Send[0].Payload) != string(hello.Payload) {
		t.Fatalf("extended by one path: %+v", out.Send)
	}
	w.take(a, out)
	w.run(time.Second)
	if len(a.done) != 1 || len(b.done) != 1 || a.done[0].Path != b.addr {
		t.Fatalf("%d and %d are done", len(a.done), len(b.done))
	}
	if out := a.Extend(b.PID(), []Path{silent}); len(out.Send) != 0 {
		t.Error("a finished exchange is extended")
	}
}

func TestExtendedPathsAreBounded(t *testing.T) {
	w, a, b := twoNodes(t)
	var paths, more []Path
	for i := range 2 * MaxPaths {
		paths = append(paths, Path{Addr: ipv4(100 + i).Addr})
		more = append(more, Path{Addr: ipv4(1).Addr, Relay: fmt.Sprint(i)})
	}
	w.take(a, a.Initiate(w.now, Target{PID: b.PID(), Epoch: 7, Paths: paths}))
	if out := a.Extend(b.PID(), more); len(a.sent) != MaxPaths || len(out.Send) != MaxExtended {
		t.Errorf("M1 went to %d paths, and to %d more", len(a.sent), len(out.Send))
	}
	if out := a.Extend(b.PID(), more[MaxExtended:]); len(out.Send) != 0 {
		t.Errorf("and then to %d more", len(out.Send))
	}
}

// TestOnceAnsweredNothingIsExtended: M3 goes only to where M2 came from.
func TestOnceAnsweredNothingIsExtended(t *testing.T) {
	w, a, b := twoNodes(t)
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA {
			return nil
		}
		return []packet{p}
	}
	w.take(a, a.Initiate(w.now, Target{PID: b.PID(), Epoch: 7, Paths: []Path{b.addr}}))
	w.run(time.Second)
	if out := a.Extend(b.PID(), []Path{{Addr: ipv4(99).Addr}}); len(out.Send) != 0 {
		t.Errorf("M3 goes to %v", out.Send[0].To)
	}
}
