package keyex

import (
	"errors"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Flow of answering:
//
//	onM1 -> (nothing kept)
//	onM3 -> cookie, fragments -> readM3 -> decide: verify -> hold, refuse or accept -> keepAnswer

// onM1 answers with M2 and a cookie and keeps nothing. Two hashes and a MAC is
// all it costs.
func (m *Machine) onM1(now time.Time, in Input, h header, body []byte, out *Output) Drop {
	if in.Plain != HelloPlain {
		return DropPadding
	}
	h1 := addMessage(startHash(m.cfg.Service, in.Epoch), tagM1, body)
	if h1 != h.x {
		return DropTranscript
	}
	q, ok := parseM1(body)
	if !ok {
		return DropMalformed
	}
	if q.PIDB != m.self {
		return DropNotMine
	}
	g, s, ok := m.choose(q)
	if !ok {
		return DropNoCommon
	}
	if !m.hasEpoch(in.Epoch) {
		return DropEpoch
	}
	reply := m2{PIDB: m.self, NonceB: [32]byte(random(m.cfg.Rand, 32)), Group: g, Suite: s}
	if q.RekeyID != nil {
		rk, ok := m.cfg.RekeyKey(q.PIDA, *q.RekeyID)
		clear(rk[:])
		reply.RekeyOK = ok
	}
	raw := wire.Marshal(reply)
	c := m.cookies.issue(now, in.From, addMessage(h1, tagM2, raw))
	for _, p := range fragment(msgHelloB, h1, c, raw) {
		out.Send = append(out.Send, Send{To: in.From, Epoch: in.Epoch, Plain: HelloPlain, Payload: p})
	}
	return DropNone
}

// request is an M3 that belongs to an M2 of ours.
type request struct {
	path   Path
	epoch  uint32
	hello  m1
	choice m2
	m3     m3
	signed hash // H3'
	sig    []byte
	h3     hash
}

// answer is what a repeated M3 gets. No payloads: silence, because an exchange
// of our own took its place.
type answer struct {
	peer     id.ID
	payloads [][]byte
}

// onM3 is called for each half of an initiator's M3. The order of checks is
// law, cheapest first: cookie, then nothing kept without it; the hash that
// proves we chose group, suite and rekeyOK; repeated M3s; quota; and only then
// credential and signature.
func (m *Machine) onM3(now time.Time, in Input, h header, part []byte, out *Output) Drop {
	if !m.cookies.check(now, h.cookie, in.From, h.x) {
		return DropCookie
	}
	body := part
	if h.total > 1 {
		var d Drop
		body, d = m.halves.add(now, fragmentKey{in.From, h.x, in.Epoch}, h.index, part)
		if body == nil {
			return d
		}
	}
	r, d := m.readM3(in, h.x, body)
	if d != DropNone {
		return d
	}
	if a, ok := m.answers.get(now, r.h3); ok {
		return m.repeat(a, r, out)
	}
	if x := m.own[r.hello.PIDA]; x != nil && x.held != nil && x.held.h3 == r.h3 {
		return DropHeld
	}
	if !m.quota.allow(now, in.From.source()) {
		return DropSourceQuota
	}
	return m.decide(now, r, out)
}

func (m *Machine) repeat(a *answer, r *request, out *Output) Drop {
	if a.payloads == nil {
		return DropHeld
	}
	m.stats.Repeated.Add(1)
	sendAll(a.payloads, r, out)
	return DropNone
}

// readM3 checks what needs no public key: the echoed M1 and M2 hash to X, for
// which we gave a cookie, so M2 is ours and its choice was made by us.
func (m *Machine) readM3(in Input, x hash, body []byte) (*request, Drop) {
	r := &request{path: in.From, epoch: in.Epoch}
	var raw, sig []byte
	var ok bool
	if r.m3, raw, sig, ok = parseM3(body); !ok {
		return nil, DropMalformed
	}
	h1 := addMessage(startHash(m.cfg.Service, in.Epoch), tagM1, r.m3.M1)
	h2 := addMessage(h1, tagM2, r.m3.M2)
	if h2 != x {
		return nil, DropTranscript
	}
	var okA, okB bool
	r.hello, okA = parseM1(r.m3.M1)
	r.choice, okB = parseM2(r.m3.M2)
	if !okA || !okB || !r.choice.fits(r.hello) {
		return nil, DropMalformed
	}
	if r.hello.PIDB != m.self {
		return nil, DropNotMine
	}
	if !m.allows(r.choice.Group, r.choice.Suite) {
		return nil, DropNoCommon
	}
	if n, _ := m.groups[r.choice.Group].lengths(); len(r.m3.Share) != n {
		return nil, DropShare
	}
	r.signed = addMessage(h2, tagM3, raw)
	r.sig = append([]byte(nil), sig...)
	r.h3 = addSignature(r.signed, tagSigA, sig)
	return r, DropNone
}

// decide verifies who asks and answers, refuses, or holds the M3. Nothing that
// an unverified M3 says has an effect on anything.
func (m *Machine) decide(now time.Time, r *request, out *Output) Drop {
	peer, err := m.creds.peer(now, r.m3.Cred, r.epoch)
	if err == nil && peer.PID != r.hello.PIDA {
		err = errors.New("keyex: credential of another peer")
	}
	if err != nil {
		out.Err = err
		return DropCredential
	}
	if !wire.Verify(peer.Key, r.sig, domainInitiator, r.signed[:]) {
		return DropSignature
	}
	if err := m.cfg.Authorize(peer, false); err != nil {
		out.Err = err
		return m.refuse(r, StatusNotAllowed, out)
	}
	if m.answers.full(now) || m.perPeer[peer.PID] >= maxAnswersPerPeer {
		return m.refuse(r, StatusBusy, out)
	}
	var rk [32]byte
	if r.choice.RekeyOK {
		var ok bool
		if rk, ok = m.cfg.RekeyKey(peer.PID, *r.hello.RekeyID); !ok {
			return m.refuse(r, StatusRekeyGone, out)
		}
	}
	defer clear(rk[:])
	own := m.own[peer.PID]
	if own != nil && own.state == stateShare && m.self.Compare(peer.PID) < 0 {
		m.hold(now, own, r)
		return DropHeld
	}
	if d := m.accept(now, r, peer, &rk, out); d != DropNone {
		return d
	}
	if own != nil {
		m.end(own)
		out.Done[len(out.Done)-1].Replaced = true
	}
	return DropNone
}

// hold keeps the peer's newest M3 until our own exchange ends. An older one is
// of an exchange it has given up.
func (m *Machine) hold(now time.Time, own *exchange, r *request) {
	if own.held != nil {
		m.keepAnswer(now, own.held, nil)
	}
	own.held = r
}

// accept makes the keys and M4.
func (m *Machine) accept(now time.Time, r *request, peer Peer, rk *[32]byte, out *Output) Drop {
	cred := m.ownCredential()
	spi, ok := m.newSPI()
	if cred == nil || !ok {
		out.Err = errors.New("keyex: no usable credential or SPI of our own")
		return DropLocal
	}
	epochKey, ok := m.cfg.EpochKey(r.epoch)
	if !ok {
		return DropEpoch
	}
	defer clear(epochKey[:])
	share, dhR, err := m.groups[r.choice.Group].answer(m.cfg.Rand, r.m3.Share)
	if err != nil {
		return DropShare
	}
	body, total := m.makeM4(r, m4{Status: StatusOK, Share: share, SPI: spi, Cred: cred})
	s := newSchedule(m.cfg.Service, r.epoch, &epochKey, rk, dhR, r.hello.PIDA, m.self, total)
	defer s.wipe()
	body = append(body, s.confirmation()...)

	res := Result{Peer: peer, Path: r.path, Epoch: r.epoch, Suite: r.choice.Suite, Group: r.choice.Group,
		SPIIn: spi, SPIOut: r.m3.SPI}
	s.fill(&res, m.cfg.SuiteKeys)
	payloads := fragment(msgShareB, r.h3, cookie{}, body)
	m.keepAnswer(now, r, payloads)
	m.stats.Answered.Add(1)
	out.Done = append(out.Done, res)
	sendAll(payloads, r, out)
	return DropNone
}

// refuse answers a peer with a good signature, and keeps nothing: Ed25519 is
// deterministic, a repeated M3 gets the same bytes.
func (m *Machine) refuse(r *request, s Status, out *Output) Drop {
	if cred := m.ownCredential(); cred != nil {
		body, _ := m.makeM4(r, m4{Status: s, Share: []byte{}, Cred: cred})
		sendAll(fragment(msgShareB, r.h3, cookie{}, body), r, out)
	}
	return DropRefused
}

// makeM4 returns M4 with its signature, and H_T.
func (m *Machine) makeM4(r *request, a m4) (body []byte, total hash) {
	raw := wire.Marshal(a)
	signed := addMessage(r.h3, tagM4, raw)
	sig := wire.Sign(m.cfg.Key, domainResponder, signed[:])
	return append(raw, sig...), addSignature(signed, tagSigB, sig)
}

// keepAnswer remembers what a repeated M3 gets; nil payloads mean silence.
func (m *Machine) keepAnswer(now time.Time, r *request, payloads [][]byte) {
	if m.answers.put(now, r.h3, &answer{peer: r.hello.PIDA, payloads: payloads}) {
		add(m.perPeer, r.hello.PIDA, 1)
	}
}

func sendAll(payloads [][]byte, r *request, out *Output) {
	for _, p := range payloads {
		out.Send = append(out.Send, Send{To: r.path, Epoch: r.epoch, Payload: p})
	}
}
