package admission

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 3, 'a', 'b', 'c'}, 100)
	f.Add([]byte{255, 255, 255, 255, 3}, 1<<20)
	f.Add([]byte{0, 0, 0, 1, '0'}, -49)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		limit = max(0, min(limit, 1<<20)) // a negative limit counts as 0
		frame, err := ReadFrame(bytes.NewReader(b), limit)
		if err != nil {
			return
		}
		if len(frame.Body) > limit || !bytes.Equal(frame.Body, b[headerSize:headerSize+len(frame.Body)]) {
			t.Errorf("read %d bytes under a limit of %d", len(frame.Body), limit)
		}
	})
}

func FuzzMessages(f *testing.F) {
	for typ, m := range bodies() {
		f.Add(byte(typ), encode(typ, m).Body)
	}
	f.Fuzz(func(t *testing.T, typ byte, b []byte) {
		m := empty(Type(typ))
		if m == nil {
			return
		}
		if err := decode(Frame{Type(typ), b}, m); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			return
		}
		if again := encode(Type(typ), m); !bytes.Equal(again.Body, b) {
			t.Errorf("%v has two encodings: %x and %x", Type(typ), b, again.Body)
		}
	})
}

func FuzzOpenTicket(f *testing.F) {
	keys := []Key{{1}, {2}}
	f.Add(sealTicket(&keys[0], testService, testServerKey, testTicket()))
	f.Add(make([]byte, 100))
	good := sealTicket(&keys[1], testService, testServerKey, testTicket())
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if tk, err := openTicket(keys, testService, b); err == nil && tk.ID != (TicketID{1}) {
			t.Error("opened a ticket that was never sealed")
		}
		// And what an attacker cannot reach: the plaintext.
		if tk, err := parseTicket(bytes.Clone(b)); err == nil && checkSecretID(tk.SecretID) != nil {
			t.Error("accepted a bad secret ID")
		}
	})
}

func FuzzParseVerifier(f *testing.F) {
	f.Add(newVerifierOnce(f).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseVerifier(b)
		if err == nil && !bytes.Equal(v.Bytes(), b) {
			t.Errorf("two encodings: %x", b)
		}
	})
}

// script splits fuzz input into frames: type, u16 length, body.
func script(b []byte) (frames []Frame) {
	for len(b) >= 3 && len(frames) < 8 {
		n := min(int(binary.BigEndian.Uint16(b[1:])), len(b)-3)
		frames = append(frames, Frame{Type(b[0]), b[3 : 3+n]})
		b = b[3+n:]
	}
	return frames
}

func unscript(frames []Frame) (b []byte) {
	for _, f := range frames {
		b = append(b, byte(f.Type))
		b = binary.BigEndian.AppendUint16(b, uint16(len(f.Body)))
		b = append(b, f.Body...)
	}
	return b
}

// FuzzServer throws frames at a server in each of its states. Nothing without
// the secret may be granted anything.
func FuzzServer(f *testing.F) {
	w := newWorld(f)
	honest := mustAdmit(f, w, testClientConfig()).frames
	for i := range 4 {
		f.Add(byte(2*i), unscript([]Frame{honest[2*i], honest[min(2*i+2, 8)]}))
	}
	f.Add(byte(2), unscript([]Frame{encode(TypeContinue, bodies()[TypeContinue])}))
	f.Fuzz(func(t *testing.T, at byte, b []byte) {
		w := newWorld(t)
		s := newTestServer(t, w, testBinding("fuzz"))
		c := newTestClient(t, testClientConfig())
		// The honest client's exporter differs, so it gets as far as Proof.
		var r run
		replayTo(t, c, s, int(at)%5&^1, &r)
		for _, frame := range script(b) {
			out, err := s.Step(testNow, frame)
			if err != nil && len(out.Send) != 0 {
				t.Error("answered what it did not understand")
			}
			for _, a := range out.Send {
				if err := decode(a, empty(a.Type)); err != nil {
					t.Errorf("sent an invalid %v: %v", a.Type, err)
				}
				if a.Type == TypeAccept || a.Type == TypeGrant || a.Type == TypeListReply {
					t.Errorf("sent %v", a.Type)
				}
			}
		}
		if len(w.granted) != 0 {
			t.Error("granted")
		}
	})
}

// FuzzClient throws frames at a client. Nothing without the verifier may be
// accepted.
func FuzzClient(f *testing.F) {
	w := newWorld(f)
	honest := mustAdmit(f, w, testClientConfig()).frames
	f.Add(unscript([]Frame{honest[1], honest[3], honest[5], honest[7], honest[9]}))
	f.Add(unscript([]Frame{honest[1], (&Refusal{Code: CodeBusy, Detail: "x"}).frame()}))
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg := testClientConfig()
		cfg.Binding = testBinding("fuzz")
		c := newTestClient(t, cfg)
		c.Begin()
		for _, frame := range script(b) {
			out, err := c.Step(testNow, frame)
			if err != nil {
				if c.state != clientFailed || c.key != (Key{}) {
					t.Error("not failed after an error")
				}
				continue
			}
			if out.Event != EventNone {
				t.Errorf("event %d", out.Event)
			}
		}
	})
}

// TestFuzzServerSeedsReachTheirStates keeps FuzzServer honest about its depth.
func TestFuzzServerSeedsReachTheirStates(t *testing.T) {
	for at, want := range map[int]serverState{0: serverWantRequest, 2: serverWantStart, 4: serverWantProof} {
		s, c := newTestServer(t, newWorld(t), testBinding("fuzz")), newTestClient(t, testClientConfig())
		var r run
		replayTo(t, c, s, at, &r)
		if s.state != want {
			t.Errorf("after %d frames %v, want %v", at, s.state, want)
		}
	}
}
