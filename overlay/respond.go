package overlay

import "net/netip"

// answer answers a query of another node: rate first, then the work. A query
// under our own ID is our own, by a bootstrap address that is ours, or a forgery;
// it gets an answer, since that is how meet learns the address.
func (m *Machine) answer(msg *message, from netip.AddrPort, via Transport) Drop {
	n := Node{msg.id, from}
	if !m.mayAsk(n) {
		return DropRate
	}
	if m.table.wanted(n) && m.cfg.Admit(n.ID, from) {
		m.returnVisit(from)
	}
	reply := m.reply(msg, from)
	reply.t = msg.t
	// No answer is larger than PaddedLen of its query: a get answer is at most
	// 1142 bytes, any other 382, and one to a ping has nine bytes less
	// (TestAnswersFit).
	m.post(&reply, from, via)
	return DropNone
}

// mayAsk says whether a query is within the rate. A contact, whose address is
// proved, has a rate of its own, so that others of its prefix cannot use it up; all
// others of a prefix share one.
func (m *Machine) mayAsk(n Node) bool {
	if m.table.onQuery(m.now, n) {
		return m.regulars.take(m.now, n.Addr, false) == 0
	}
	return m.answers.take(m.now, sourcePrefix(n.Addr.Addr()), false) == 0
}

func (m *Machine) reply(msg *message, from netip.AddrPort) message {
	r := message{kind: response, has: hasID, id: m.cfg.Self}
	switch msg.q {
	case findNode:
		m.addNodes(&r, msg)
	case get:
		m.addNodes(&r, msg)
		r.has |= hasToken
		r.token = m.proofs.writeToken(m.now, from)
		if it, ok := m.store.get(m.now, msg.target); ok && it.Key != nil {
			r.setItem(it)
		} else if ok {
			r.has |= hasValue
			r.value = it.Value
		}
	case put:
		if code, text := m.keep(msg, from); code != 0 {
			m.stats.Refused.Add(1)
			return message{kind: refusal, code: code, text: []byte(text)}
		}
		m.stats.Stored.Add(1)
	}
	return r
}

// addNodes adds the answering contacts nearest to the target that msg asks for.
func (m *Machine) addNodes(r, msg *message) {
	var nearest [bucketSize]Node
	r.nodes = m.compact[:0]
	for _, n := range m.table.nearest(nearest[:0], msg.target, bucketSize, true) {
		if n.ID != msg.id {
			r.nodes = appendNode(r.nodes, n)
		}
	}
	if len(r.nodes) > 0 {
		r.has |= hasNodes
	}
}

// keep stores what msg puts.
func (m *Machine) keep(msg *message, from netip.AddrPort) (code int64, text string) {
	if !m.proofs.checkToken(m.now, from, msg.token) {
		return codeProtocol, "bad token"
	}
	if msg.all(hasKey) {
		code = m.store.putItem(m.now, msg.item(msg.salt), m.itemAccount(msg.key[:], from))
	} else {
		code = m.store.putChunk(m.now, msg.value, m.chunkAccount(from), msg.lifetime())
	}
	return code, putTexts[code]
}

var putTexts = map[int64]string{
	codeProtocol:  "bad key",
	codeFull:      "full",
	codeTooBig:    "value too big",
	codeSignature: "invalid signature",
	codeSalt:      "salt too big",
	codeSequence:  "sequence number less than current",
}
