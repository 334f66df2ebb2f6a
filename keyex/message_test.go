package keyex

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// captured returns the payloads of one exchange, by message, and the whole
// body of each message.
func captured(t testing.TB, g Group) (payloads [5][][]byte, bodies [5][]byte) {
	w, a, b := twoNodes(t, withGroups(g))
	rid := [8]byte{1}
	a.rekeys[rid], b.rekeys[rid] = [32]byte{2}, [32]byte{2}
	w.initiate(a, b, func(x *Target) { x.RekeyID = &rid })
	w.run(1e9)
	a.only(t)
	for _, p := range w.log {
		payloads[p.msg()] = append(payloads[p.msg()], p.Payload)
		bodies[p.msg()] = append(bodies[p.msg()], p.Payload[headerSize:]...)
	}
	return payloads, bodies
}

// The bytes of M1 and M2, written out by hand from docs/protocol/keyex.md.
func TestHelloEncoding(t *testing.T) {
	rid := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	q := m1{Version: 1, PIDA: id.ID{0xaa}, PIDB: id.ID{0xbb}, NonceA: [32]byte{0xcc}, Groups: []byte{1, 2}, Suites: []byte{3}, RekeyID: &rid}
	want := "88" + "01" + "54aa" + hex.EncodeToString(make([]byte, 19)) + "54bb" + hex.EncodeToString(make([]byte, 19)) +
		"5820cc" + hex.EncodeToString(make([]byte, 31)) + "420102" + "4103" + "480102030405060708" + "00"
	if got := hex.EncodeToString(wire.Marshal(q)); got != want {
		t.Errorf("M1\n%s, want\n%s", got, want)
	}
	q.RekeyID = nil
	if b := wire.Marshal(q); b[len(b)-2] != 0xf6 {
		t.Errorf("no rekey ID is %x, want null", b)
	}
	a := m2{PIDB: id.ID{0xbb}, NonceB: [32]byte{0xcc}, Group: 1, Suite: 2, RekeyOK: true}
	want = "86" + "54bb" + hex.EncodeToString(make([]byte, 19)) + "5820cc" + hex.EncodeToString(make([]byte, 31)) + "01" + "02" + "f5" + "00"
	if got := hex.EncodeToString(wire.Marshal(a)); got != want {
		t.Errorf("M2\n%s, want\n%s", got, want)
	}
}

func TestLargestMessagesFit(t *testing.T) {
	q := m1{Version: 1, PIDB: id.ID{1}, Groups: []byte{1, 2, 3, 4}, Suites: []byte{251, 252, 253, 254, 255, 250}, RekeyID: new([8]byte), Caps: 1<<32 - 1}
	a := m2{Group: 255, Suite: 255, Caps: 1<<32 - 1}
	rawQ, rawA := wire.Marshal(q), wire.Marshal(a)
	m3 := wire.Marshal(m3{M1: make([]byte, maxM1), M2: make([]byte, maxM2), Share: make([]byte, 1216), SPI: 1<<32 - 1, Cred: make([]byte, MaxCredential)})
	m4 := wire.Marshal(m4{Status: 255, Share: make([]byte, 1120), SPI: 1<<32 - 1, Cred: make([]byte, MaxCredential)})
	for _, c := range []struct{ have, limit int }{
		{len(rawQ), maxM1}, {len(rawA), maxM2}, {len(m3) + 64, maxM3}, {len(m4) + 96, maxM4},
		{8 + 2 + headerSize + maxM1, HelloPlain}, {maxM3, maxFragments * fragmentSize}, {maxM4, maxFragments * fragmentSize},
		{headerSize + fragmentSize + 8 + 2 + 49 + 32, 1280 - 40 - 8 + 1},
	} {
		if c.have > c.limit {
			t.Errorf("%d bytes, the limit is %d", c.have, c.limit)
		}
	}
}

func TestParsersRefuseTruncationAndTrailingBytes(t *testing.T) {
	for _, g := range []Group{GroupHybrid, GroupMODP3072} {
		_, bodies := captured(t, g)
		refusal := append(wire.Marshal(m4{Status: StatusBusy, Share: []byte{}, Cred: []byte("c")}), make([]byte, 64)...)
		for name, c := range map[string]struct {
			body  []byte
			parse func([]byte) bool
		}{
			"M1":      {bodies[1], func(b []byte) bool { _, ok := parseM1(b); return ok }},
			"M2":      {bodies[2], func(b []byte) bool { _, ok := parseM2(b); return ok }},
			"M3":      {bodies[3], func(b []byte) bool { _, _, _, ok := parseM3(b); return ok }},
			"M4":      {bodies[4], func(b []byte) bool { _, _, _, _, ok := parseM4(b); return ok }},
			"refusal": {refusal, func(b []byte) bool { _, _, _, _, ok := parseM4(b); return ok }},
		} {
			if !c.parse(c.body) {
				t.Errorf("%s: the good one is refused", name)
			}
			for i := range c.body {
				if c.parse(c.body[:i]) {
					t.Errorf("%s: accepted a truncation to %d of %d bytes", name, i, len(c.body))
				}
			}
			for _, n := range []int{1, 32, 64, 96} {
				if c.parse(append(bytes.Clone(c.body), make([]byte, n)...)) {
					t.Errorf("%s: accepted %d trailing bytes", name, n)
				}
			}
		}
	}
}

func TestParsersRefuseImpossibleFields(t *testing.T) {
	ok1 := m1{Version: 1, PIDA: id.ID{1}, PIDB: id.ID{2}, Groups: []byte{1}, Suites: []byte{1}}
	for name, f := range map[string]func(*m1){
		"version":        func(m *m1) { m.Version = 2 },
		"same PIDs":      func(m *m1) { m.PIDA = m.PIDB },
		"no groups":      func(m *m1) { m.Groups = []byte{} },
		"null groups":    func(m *m1) { m.Groups = nil },
		"five groups":    func(m *m1) { m.Groups = []byte{1, 2, 3, 4, 5} },
		"group twice":    func(m *m1) { m.Groups = []byte{1, 2, 1} },
		"null suites":    func(m *m1) { m.Suites = nil },
		"seven suites":   func(m *m1) { m.Suites = []byte{1, 2, 3, 4, 5, 6, 7} },
		"suite repeated": func(m *m1) { m.Suites = []byte{1, 1} },
	} {
		m := ok1
		f(&m)
		if _, ok := parseM1(wire.Marshal(m)); ok {
			t.Errorf("M1 with %s accepted", name)
		}
	}
	for name, f := range map[string]func(*m2){
		"another PID":          func(m *m2) { m.PIDB = id.ID{3} },
		"group not offered":    func(m *m2) { m.Group = 2 },
		"suite not offered":    func(m *m2) { m.Suite = 2 },
		"rekey nobody asked":   func(m *m2) { m.RekeyOK = true },
		"group and suite zero": func(m *m2) { m.Group, m.Suite = 0, 0 },
	} {
		m := m2{PIDB: id.ID{2}, Group: 1, Suite: 1}
		if !m.fits(ok1) {
			t.Fatal("the good M2 does not fit")
		}
		f(&m)
		if m.fits(ok1) {
			t.Errorf("M2 with %s fits", name)
		}
	}
	for name, m := range map[string]m3{
		"reserved SPI":     {SPI: 255, Cred: []byte("c")},
		"no credential":    {SPI: 256, Cred: []byte{}},
		"null credential":  {SPI: 256},
		"large credential": {SPI: 256, Cred: make([]byte, MaxCredential+1)},
	} {
		if _, _, _, ok := parseM3(append(wire.Marshal(m), make([]byte, 64)...)); ok {
			t.Errorf("M3 with %s accepted", name)
		}
	}
	for name, m := range map[string]m4{
		"reserved SPI":              {SPI: 255, Cred: []byte("c")},
		"null credential":           {SPI: 256},
		"refusal with an SPI":       {Status: 1, SPI: 256, Share: []byte{}, Cred: []byte("c")},
		"refusal with a share":      {Status: 1, Share: []byte{1}, Cred: []byte("c")},
		"refusal with a null share": {Status: 1, Cred: []byte("c")},
	} {
		n := 64
		if m.Status == StatusOK {
			n = 96
		}
		if _, _, _, _, ok := parseM4(append(wire.Marshal(m), make([]byte, n)...)); ok {
			t.Errorf("M4 with %s accepted", name)
		}
	}
}

func TestHeaderRefusals(t *testing.T) {
	payloads, bodies := captured(t, GroupHybrid)
	for msg := 1; msg <= 4; msg++ {
		for i, p := range payloads[msg] {
			h, body, ok := parsePayload(p)
			if !ok || int(h.msg) != msg || int(h.index) != i || int(h.total) != len(payloads[msg]) || len(body) != len(p)-headerSize {
				t.Fatalf("message %d: header %v", msg, h)
			}
			for n := range headerSize + 1 {
				if _, _, ok := parsePayload(p[:n]); ok {
					t.Errorf("message %d: accepted %d bytes", msg, n)
				}
			}
		}
		var whole []byte
		for _, f := range fragment(uint8(msg), hash{1}, cookie{}, bodies[msg]) {
			_, body, ok := parsePayload(f)
			whole = append(whole, body...)
			if !ok {
				t.Errorf("message %d: own fragment refused", msg)
			}
		}
		if !bytes.Equal(whole, bodies[msg]) {
			t.Errorf("message %d: fragments do not add up", msg)
		}
	}
	for name, c := range map[string]struct{ msg, index, total, cookie, body int }{
		"message 0":              {0, 0, 1, 0, 10},
		"message 5":              {5, 0, 1, 0, 10},
		"total 0":                {3, 0, 0, 1, 10},
		"total 3":                {3, 0, 3, 1, fragmentSize},
		"index = total":          {3, 1, 1, 1, 10},
		"index > total":          {3, 2, 2, 1, 10},
		"M1 in two":              {1, 0, 2, 0, fragmentSize},
		"M2 in two":              {2, 1, 2, 1, 10},
		"first half not full":    {3, 0, 2, 1, fragmentSize - 1},
		"more than fits":         {4, 0, 1, 0, fragmentSize + 1},
		"second half too large":  {4, 1, 2, 0, fragmentSize + 1},
		"empty body":             {3, 0, 1, 1, 0},
		"empty second half":      {3, 1, 2, 1, 0},
		"M1 with a cookie":       {1, 0, 1, 1, 10},
		"M4 with a cookie":       {4, 0, 1, 1, 10},
		"M4, cookie's last byte": {4, 0, 1, 17, 10},
	} {
		p := make([]byte, headerSize+c.body)
		p[0], p[1], p[2] = byte(c.msg), byte(c.index), byte(c.total)
		if c.cookie > 0 {
			p[34+c.cookie] = 1
		}
		if _, _, ok := parsePayload(p); ok {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParsePayload(f *testing.F) {
	payloads, _ := captured(f, GroupHybrid)
	for _, p := range slices.Concat(payloads[:]...) {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, ok := parsePayload(b)
		if !ok {
			return
		}
		again := fragment(h.msg, h.x, h.cookie, append(make([]byte, int(h.index)*fragmentSize), body...))
		last := again[len(again)-1]
		if h.index+1 == h.total && !bytes.Equal(last, b) {
			t.Errorf("a second division into datagrams was accepted")
		}
	})
}

func FuzzParseMessages(f *testing.F) {
	for _, g := range []Group{GroupHybrid, GroupX25519} {
		_, bodies := captured(f, g)
		for _, b := range bodies[1:] {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(ok bool, raw []byte, v any) {
			if ok && !bytes.Equal(wire.Marshal(v), raw) {
				t.Errorf("a second encoding was accepted: %x", raw)
			}
		}
		q, ok := parseM1(b)
		check(ok, b, q)
		a, ok := parseM2(b)
		check(ok, b, a)
		m3, raw, sig, ok := parseM3(b)
		check(ok, raw, m3)
		if ok && len(raw)+len(sig) != len(b) {
			t.Error("bytes of M3 are unaccounted for")
		}
		m4, raw, sig, mac, ok := parseM4(b)
		check(ok, raw, m4)
		if ok && (len(raw)+len(sig)+len(mac) != len(b) || (len(mac) == 32) != (m4.Status == StatusOK)) {
			t.Error("bytes of M4 are unaccounted for")
		}
	})
}
