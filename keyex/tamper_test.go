package keyex

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"icvpn/internal/wire"
)

// place is one byte of one datagram of an exchange.
type place struct {
	msg, index uint8
	offset     int
}

func places(t testing.TB, stride int, mend ...func(*Config)) (all []place) {
	w, a, b := twoNodes(t, mend...)
	w.initiate(a, b)
	w.run(time.Second)
	a.only(t)
	for _, p := range w.log {
		for i := 0; i < len(p.Payload); i += stride {
			all = append(all, place{p.msg(), p.Payload[1], i})
		}
	}
	return all
}

// tampered runs an exchange whose packets at pl have one bit turned: only the
// first copy, or all.
func tampered(t testing.TB, pl place, bit byte, all bool, mend ...func(*Config)) (w *world, a, b *node) {
	w, a, b = twoNodes(t, mend...)
	hits := 0
	w.bend = func(p packet) []packet {
		if p.msg() == pl.msg && p.Payload[1] == pl.index && pl.offset < len(p.Payload) && (all || hits == 0) {
			hits++
			p.Payload = bytes.Clone(p.Payload)
			p.Payload[pl.offset] ^= bit
		}
		return []packet{p}
	}
	w.initiate(a, b)
	if all {
		w.run(6 * time.Second) // nine copies of each message
	} else {
		w.run(2 * time.Minute)
	}
	if hits == 0 {
		t.Fatalf("nothing was tampered at %v", pl)
	}
	return w, a, b
}

// A middle that has the group key turns one bit: of every copy, and nothing
// completes; of one copy, and the exchange completes all the same.
func TestTamperedByteNeverCompletesButOneCopyDoesNoLastingHarm(t *testing.T) {
	for _, c := range []struct {
		stride int
		mend   func(*Config)
	}{{1, small}, {31, withGroups(GroupHybrid)}} {
		for _, pl := range places(t, c.stride*slow, c.mend) {
			bit := byte(1) << (pl.offset % 8)
			w, a, b := tampered(t, pl, bit, true, c.mend)
			if len(a.done) != 0 || pl.msg != msgShareB && len(b.done) != 0 {
				t.Fatalf("completed with %v tampered: %v %v", pl, a.done, b.done)
			}
			w.checkPairs()
			w, a, b = tampered(t, pl, bit, false, c.mend)
			if len(a.done) != 1 || len(a.failed) != 0 {
				t.Fatalf("one tampered copy at %v: %v, drops %v and %v", pl, a.failed, a.drops, b.drops)
			}
			w.checkPairs()
			if len(b.done) != 1 {
				t.Fatalf("one tampered copy at %v: %d results at the responder", pl, len(b.done))
			}
		}
	}
}

// A middle that also puts the running hash right, to win a weaker choice.
func TestNoDowngrade(t *testing.T) {
	strongFirst := func(c *Config) {
		c.Groups, c.Suites = []Group{GroupHybrid, GroupX25519}, []Suite{2, 1}
	}
	rewrite := func(p packet, x hash, raw []byte) packet {
		var c cookie
		copy(c[:], p.Payload[35:52])
		p.Payload = fragment(p.msg(), x, c, raw)[0]
		return p
	}
	rid := [8]byte{1}
	for name, edit := range map[string]struct {
		m1 func(*m1)
		m2 func(*m2)
	}{
		"groups in M1":   {m1: func(m *m1) { m.Groups = []byte{2} }},
		"suites in M1":   {m1: func(m *m1) { m.Suites = []byte{1} }},
		"order in M1":    {m1: func(m *m1) { slices.Reverse(m.Groups) }},
		"caps in M1":     {m1: func(m *m1) { m.Caps = 1 }},
		"rekeyID in M1":  {m1: func(m *m1) { m.RekeyID = nil }},
		"nonce in M1":    {m1: func(m *m1) { m.NonceA[0] ^= 1 }},
		"initiator":      {m1: func(m *m1) { m.PIDA[0] ^= 1 }},
		"group in M2":    {m2: func(m *m2) { m.Group = 2 }},
		"suite in M2":    {m2: func(m *m2) { m.Suite = 1 }},
		"rekeyOK in M2":  {m2: func(m *m2) { m.RekeyOK = false }},
		"caps in M2":     {m2: func(m *m2) { m.Caps = 1 }},
		"nonce in M2":    {m2: func(m *m2) { m.NonceB[0] ^= 1 }},
		"M1 and then M2": {m1: func(m *m1) { m.Groups = []byte{2} }, m2: func(m *m2) { m.Group = 2 }},
	} {
		t.Run(name, func(t *testing.T) {
			w, a, b := twoNodes(t, strongFirst)
			a.rekeys[rid], b.rekeys[rid] = [32]byte{2}, [32]byte{2}
			var back map[hash]hash = map[hash]hash{} // H1 as B sees it -> as A knows it
			w.bend = func(p packet) []packet {
				body := p.Payload[headerSize:]
				switch {
				case p.msg() == msgHelloA && edit.m1 != nil:
					q, _ := parseM1(body)
					edit.m1(&q)
					raw := wire.Marshal(q)
					x := addMessage(startHash(testService, 7), tagM1, raw)
					back[x] = hash(p.Payload[3:35])
					p = rewrite(p, x, raw)
				case p.msg() == msgHelloB:
					x, ok := back[hash(p.Payload[3:35])]
					if !ok {
						x = hash(p.Payload[3:35])
					}
					q, _ := parseM2(body)
					if edit.m2 != nil {
						edit.m2(&q)
					}
					p = rewrite(p, x, wire.Marshal(q))
				}
				return []packet{p}
			}
			w.initiate(a, b, func(x *Target) { x.RekeyID = &rid })
			w.run(2 * time.Minute)
			if len(a.done)+len(b.done) != 0 {
				t.Errorf("completed: %v %v", a.done, b.done)
			}
			if len(w.messages(msgShareA)) == 0 {
				t.Error("the attack did not get as far as M3")
			}
		})
	}
}

// A choice that was not offered is not even followed, nor one that policy has
// forbidden meanwhile, nor an M2 in another's name.
func TestInitiatorIgnoresAChoiceItDidNotOffer(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*m2)
		groups []Group // allowed from then on
		want   Drop
	}{
		"group not offered, but allowed by now": {func(m *m2) { m.Group = GroupMODP2048 }, []Group{GroupHybrid, GroupMODP2048}, DropMalformed},
		"group allowed no more":                 {func(*m2) {}, []Group{GroupX25519}, DropNoCommon},
		"suite not offered":                     {func(m *m2) { m.Suite = 9 }, []Group{GroupHybrid}, DropMalformed},
		"another PID":                           {func(m *m2) { m.PIDB[0] ^= 1 }, []Group{GroupHybrid}, DropMalformed},
		"rekey nobody asked for":                {func(m *m2) { m.RekeyOK = true }, []Group{GroupHybrid}, DropMalformed},
	} {
		w, a, b := twoNodes(t, withGroups(GroupHybrid))
		w.bend = func(p packet) []packet {
			if p.msg() == msgHelloB {
				if err := a.SetPolicy(c.groups, []Suite{1, 2, 3}); err != nil {
					t.Fatal(err)
				}
				q, _ := parseM2(p.Payload[headerSize:])
				c.edit(&q)
				p.Payload = append(bytes.Clone(p.Payload[:headerSize]), wire.Marshal(q)...)
			}
			return []packet{p}
		}
		w.initiate(a, b)
		w.run(time.Minute)
		if len(w.messages(msgShareA)) != 0 || !slices.Contains(a.drops, c.want) {
			t.Errorf("%s: M3 followed it; drops %v", name, a.drops)
		}
		wantFailure(t, a, ReasonNoAnswer)
	}
}

// An M2 that we would never make is refused in M3 even behind a good cookie:
// the one in the message is for our own mistakes.
func TestM3WithAnImpossibleM2IsDropped(t *testing.T) {
	for name, c := range map[string]struct {
		m1   func(*m1)
		m2   func(*m2)
		m3   func(*m3)
		want Drop
	}{
		"rekey nobody asked for":    {nil, func(m *m2) { m.RekeyOK = true }, nil, DropMalformed},
		"group not offered":         {nil, func(m *m2) { m.Group = GroupX25519 }, nil, DropMalformed},
		"suite not offered":         {nil, func(m *m2) { m.Suite = 7 }, nil, DropMalformed},
		"another responder":         {nil, func(m *m2) { m.PIDB[0] ^= 1 }, nil, DropMalformed},
		"another responder in both": {func(m *m1) { m.PIDB[0] ^= 1 }, func(m *m2) { m.PIDB[0] ^= 1 }, nil, DropNotMine},
		"initiator is us":           {func(m *m1) { m.PIDA = m.PIDB }, nil, nil, DropMalformed},
		"share too short":           {nil, nil, func(m *m3) { m.Share = m.Share[1:] }, DropShare},
		"share too long":            {nil, nil, func(m *m3) { m.Share = append(m.Share, 0) }, DropShare},
		"share null":                {nil, nil, func(m *m3) { m.Share = nil }, DropShare},
		"share out of range":        {nil, nil, func(m *m3) { m.Share[0], m.Share[1] = 0xff, 0xff }, DropShare},
	} {
		t.Run(name, func(t *testing.T) {
			w, a, b := twoNodes(t, withGroups(GroupHybrid))
			_, share := a.groups[GroupHybrid].offer(detRand("share"))
			q := m1{Version: version, PIDA: a.PID(), PIDB: b.PID(), Groups: []byte{1}, Suites: []byte{1}}
			r := m2{PIDB: b.PID(), Group: GroupHybrid, Suite: 1}
			m := m3{Share: share, SPI: minSPI, Cred: a.cred}
			edit(c.m1, &q)
			edit(c.m2, &r)
			edit(c.m3, &m)
			m.M1, m.M2 = wire.Marshal(q), wire.Marshal(r)
			x := addMessage(addMessage(startHash(testService, 7), tagM1, m.M1), tagM2, m.M2)
			raw := wire.Marshal(m)
			signed := addMessage(x, tagM3, raw)
			body := append(raw, wire.Sign(a.cfg.Key, domainInitiator, signed[:])...)
			var got Drop
			for _, p := range fragment(msgShareA, x, b.cookies.issue(w.now, a.addr, x), body) {
				out := b.Receive(w.now, Input{From: a.addr, Epoch: 7, Payload: p})
				got = out.Drop
				if len(out.Done)+len(out.Send) != 0 {
					t.Error("it was answered")
				}
			}
			if got != c.want {
				t.Errorf("dropped for %v, want %v", got, c.want)
			}
		})
	}
}

func edit[T any](f func(*T), v *T) {
	if f != nil {
		f(v)
	}
}

// Unusable shares and keys of the responder, all with a good signature: the
// initiator waits on, and says in the end what was wrong.
func TestInitiatorRefusesASignedButUnusableM4(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*m4)
		want Drop
	}{
		"share too short": {func(m *m4) { m.Share = m.Share[1:] }, DropShare},
		"share too long":  {func(m *m4) { m.Share = append(m.Share, 0) }, DropShare},
		"share null":      {func(m *m4) { m.Share = nil }, DropShare},
		"X25519 all zero": {func(m *m4) { clear(m.Share[len(m.Share)-32:]) }, DropShare},
		"ML-KEM garbage":  {func(m *m4) { clear(m.Share[:1088]) }, DropConfirmation},
		"as it was":       {func(*m4) {}, DropConfirmation}, // signed anew without mac_B for it
	} {
		t.Run(name, func(t *testing.T) {
			w, a, b := twoNodes(t, withGroups(GroupHybrid))
			w.bend = func(p packet) []packet {
				if p.msg() == msgShareB {
					return nil
				}
				return []packet{p}
			}
			w.initiate(a, b)
			w.run(300 * time.Millisecond)
			x := a.own[b.PID()]
			m := m4{Share: make([]byte, 1120), SPI: minSPI, Cred: b.cred}
			m.Share[1119] = 9
			c.edit(&m)
			body, _ := b.makeM4(&request{h3: x.x}, m)
			var got Drop
			for _, p := range fragment(msgShareB, x.x, cookie{}, append(body, make([]byte, 32)...)) {
				out := a.Receive(w.now, Input{From: b.addr, Epoch: 7, Payload: p})
				got = out.Drop
				if len(out.Done)+len(out.Failed) != 0 {
					t.Error("it ended the exchange")
				}
			}
			if got != c.want {
				t.Errorf("dropped for %v, want %v", got, c.want)
			}
			w.bend = nil
			w.run(5 * time.Second) // the genuine M4 comes at last
			agree(t, a.only(t), b.only(t))
		})
	}
}

// An M4, or a refusal, of another exchange is worth nothing.
func TestOldM4AndOldRefusalAreWorthNothing(t *testing.T) {
	w, a, b := twoNodes(t, small)
	b.deny = errOneWay
	w.initiate(a, b)
	w.run(time.Second)
	old := w.messages(msgShareB)
	b.deny = nil
	w.initiate(a, b)
	w.run(time.Second)
	old = append(old, w.messages(msgShareB)[len(old):]...)
	a.done, a.failed = nil, nil

	var x hash
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareB {
			return nil
		}
		return []packet{p}
	}
	w.initiate(a, b)
	w.run(300 * time.Millisecond)
	x = a.own[b.PID()].x
	for _, p := range old {
		if d := w.deliver(p); d != DropUnknown {
			t.Errorf("an old M4: %v", d)
		}
		copy(p.Payload[3:35], x[:])
		if d := w.deliver(p); d != DropSignature {
			t.Errorf("an old M4 with the new X: %v", d)
		}
	}
	if len(a.done)+len(a.failed) != 0 {
		t.Errorf("%v %v", a.done, a.failed)
	}
}

// An initiator's messages do not work against itself.
func TestReflectionIsDropped(t *testing.T) {
	w, a, b := twoNodes(t)
	w.initiate(a, b)
	w.run(time.Second)
	a.only(t)
	for _, p := range w.log {
		p.To, p.from = p.from, p.To
		if d := w.deliver(p); d == DropNone {
			t.Errorf("message %d was taken by its sender", p.msg())
		}
	}
	a.only(t)
	b.only(t)
}

func FuzzReceive(f *testing.F) {
	var signed [][]byte // bodies of M3 that a really signed
	for _, g := range []Group{GroupHybrid, GroupX25519} {
		payloads, bodies := captured(f, g)
		signed = append(signed, bodies[msgShareA])
		for _, p := range slices.Concat(payloads[:]...) {
			f.Add(p, uint32(7), HelloPlain)
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte, epoch uint32, plain int) {
		// Other randomness than the seeds', so that none of them is genuine.
		w, a, b := twoNodes(t, func(c *Config) { c.Rand = detRand("fuzz " + string(c.Key[:8])) })
		w.bend = func(p packet) []packet {
			if p.msg() == msgShareA {
				return nil
			}
			return []packet{p}
		}
		w.initiate(a, b)
		w.run(200 * time.Millisecond)
		x := a.own[b.PID()]
		for _, fix := range []bool{false, true} {
			p := bytes.Clone(payload)
			if fix && len(p) > headerSize { // get past the running hash
				switch p[0] {
				case msgHelloA:
					h1 := addMessage(startHash(testService, epoch), tagM1, p[headerSize:])
					copy(p[3:], h1[:])
				case msgShareA:
					c := b.cookies.issue(w.now, a.addr, hash(p[3:35]))
					copy(p[35:], c[:])
				case msgShareB:
					copy(p[3:], x.x[:])
				}
			}
			for _, n := range []*node{a, b} {
				from := b.addr
				if n == b {
					from = a.addr
				}
				out := n.Receive(w.now, Input{From: from, Epoch: epoch, Plain: plain, Payload: p})
				// With a cookie that the test forges, what a signed may be answered.
				genuine := fix && n == b && slices.ContainsFunc(signed, func(s []byte) bool {
					return len(p) > headerSize && bytes.HasSuffix(s, p[headerSize:])
				})
				if len(out.Done)+len(out.Failed) != 0 && !genuine {
					t.Errorf("%s ended an exchange: %v %v", n.name, out.Done, out.Failed)
				}
				for _, s := range out.Send {
					if (p[0] != msgHelloA || s.Plain > plain) && !genuine {
						t.Errorf("message %d drew an answer of %d bytes", p[0], len(s.Payload))
					}
				}
			}
		}
	})
}
