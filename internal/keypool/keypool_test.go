package keypool

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"icvpn/abe"
	"icvpn/internal/wire"
)

func sampleRequest() Request {
	return Request{Keys: 2, Sets: []map[string]string{{"role": "web", "zone": "eu"}}}
}

func sampleAnswer() Answer {
	return Answer{
		Params:   []byte("params"),
		Policies: []Policy{{Statement: []byte("statement"), Next: []byte("next"), Envelope: []byte("envelope"), Seed: bytes.Repeat([]byte{7}, abe.SecretSize)}},
		Slots:    [][]byte{[]byte("slot one"), []byte("slot two")}, Expires: 1_800_000_000,
	}
}

func TestMessagesAreReadAsTheyWereWritten(t *testing.T) {
	var b bytes.Buffer
	if err := errors.Join(Write(&b, sampleRequest().Encode()), Write(&b, sampleAnswer().Encode())); err != nil {
		t.Fatal(err)
	}
	r, err := ReadRequest(&b)
	if err != nil || !bytes.Equal(r.Encode(), sampleRequest().Encode()) {
		t.Errorf("%+v, %v", r, err)
	}
	a, err := ReadAnswer(&b)
	if err != nil || !bytes.Equal(a.Encode(), sampleAnswer().Encode()) {
		t.Errorf("%v, %v", a, err)
	}
}

func TestParsersRefuseEveryTruncationAndTrailingByte(t *testing.T) {
	for name, c := range map[string]struct {
		b     []byte
		parse func([]byte) error
	}{
		"request": {sampleRequest().Encode(), func(b []byte) error { _, err := ParseRequest(b); return err }},
		"answer":  {sampleAnswer().Encode(), func(b []byte) error { _, err := ParseAnswer(b); return err }},
	} {
		if err := c.parse(c.b); err != nil {
			t.Fatal(name, err)
		}
		for i := range c.b {
			if c.parse(c.b[:i]) == nil {
				t.Errorf("%s cut to %d bytes is read", name, i)
			}
		}
		if c.parse(append(bytes.Clone(c.b), 0)) == nil {
			t.Errorf("%s with a trailing byte is read", name)
		}
	}
}

func TestBoundsOfMessages(t *testing.T) {
	sets := make([]map[string]string, MaxSets+1)
	for i := range sets {
		sets[i] = map[string]string{"role": fmt.Sprint(i)}
	}
	for name, change := range map[string]func(*Request){
		"keys of no set":      func(r *Request) { r.Sets = nil },
		"keys of two sets":    func(r *Request) { r.Sets = sets[:2] },
		"too many keys":       func(r *Request) { r.Keys = MaxKeys + 1 },
		"too many sets":       func(r *Request) { r.Keys, r.Sets = 0, sets },
		"a label without key": func(r *Request) { r.Sets[0][""] = "x" },
		"a long label":        func(r *Request) { r.Sets[0]["role"] = strings.Repeat("x", 64) },
		"labels without end": func(r *Request) {
			for i := range maxLabels {
				r.Sets[0][fmt.Sprintf("junk%d", i)] = ""
			}
		},
	} {
		r := sampleRequest()
		change(&r)
		if _, err := ParseRequest(r.Encode()); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	for name, change := range map[string]func(*Answer){
		"too many keys":    func(a *Answer) { a.Slots = make([][]byte, MaxKeys+1) },
		"a long statement": func(a *Answer) { a.Policies[0].Next = make([]byte, maxStatement+1) },
		"a short seed":     func(a *Answer) { a.Policies[0].Seed = make([]byte, 31) },
		"an old expiry":    func(a *Answer) { a.Expires = -1 },
	} {
		a := sampleAnswer()
		change(&a)
		if _, err := ParseAnswer(a.Encode()); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	long := sampleRequest()
	long.Version = 2
	if _, err := ParseRequest(wire.Marshal(long)); err == nil {
		t.Error("another version is read")
	}
	if _, err := ReadRequest(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff})); !errors.Is(err, wire.ErrLength) {
		t.Errorf("a message of 4 GiB: %v", err)
	}
}

func TestAnswerIsRedactedAndWiped(t *testing.T) {
	a := sampleAnswer()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, a); strings.Contains(s, "slot") || strings.Contains(s, "\x07") {
			t.Errorf("%s shows %s", verb, s)
		}
	}
	a.Wipe()
	if a.Policies[0].Seed[0] != 0 || a.Slots[0][0] != 0 {
		t.Error("not wiped")
	}
}

// The vectors of docs/protocol/keypool.md.
func TestVectors(t *testing.T) {
	page, err := os.ReadFile("../../docs/protocol/keypool.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), "")
	for name, b := range map[string][]byte{"request": sampleRequest().Encode(), "answer": sampleAnswer().Encode()} {
		if !strings.Contains(text, hex.EncodeToString(b)) {
			t.Errorf("docs/protocol/keypool.md lacks the %s %x", name, b)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sampleRequest().Encode())
	f.Add(sampleAnswer().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRequest(b); err == nil && !bytes.Equal(r.Encode(), b) {
			t.Errorf("request %x is read from other bytes than it has", b)
		}
		if a, err := ParseAnswer(b); err == nil && !bytes.Equal(a.Encode(), b) {
			t.Errorf("answer %x is read from other bytes than it has", b)
		}
		_, _ = ReadAnswer(bytes.NewReader(b))
	})
}
