package overlay

import "net/netip"

// answer answers a query of another node: rate first, then the work. A query
// under our own ID is our own, by a bootstrap address that is ours, or a forgery;
// it gets an answer, since that is how meet learns the address.
func (o *Overlay) answer(m *message, from netip.AddrPort, via Transport) Drop {
	o.mu.Lock()
	wait := o.answers.take(o.cfg.Now(), sourcePrefix(from.Addr()), false)
	wanted := o.table.wanted(Node{m.id, from})
	o.mu.Unlock()
	if wait > 0 {
		return DropRate
	}
	if wanted && o.cfg.Admit(m.id, from) {
		o.AddNode(from)
	}
	reply := o.reply(m, from)
	reply.t = m.t
	// No answer is larger than PaddedLen of its query: a get answer is at most
	// 1142 bytes, any other 382 (TestAnswersFit).
	if err := via.WriteTo(reply.append(make([]byte, 0, MaxPayload)), from); err != nil {
		return DropSend
	}
	o.stats.Answered.Add(1)
	return DropNone
}

func (o *Overlay) reply(m *message, from netip.AddrPort) message {
	r := message{kind: response, has: hasID, id: o.cfg.Self}
	switch m.q {
	case findNode:
		o.addNodes(&r, m)
	case get:
		o.addNodes(&r, m)
		r.has |= hasToken
		r.token = o.proofs.writeToken(o.cfg.Now(), from)
		if it, ok := o.store.get(o.cfg.Now(), m.target); ok && it.Key != nil {
			r.setItem(it)
		} else if ok {
			r.has |= hasValue
			r.value = it.Value
		}
	case put:
		if code, text := o.keep(m, from); code != 0 {
			o.stats.Refused.Add(1)
			return message{kind: refusal, code: code, text: []byte(text)}
		}
		o.stats.Stored.Add(1)
	}
	return r
}

// addNodes adds the answering contacts nearest to the target that m asks for.
func (o *Overlay) addNodes(r, m *message) {
	o.mu.Lock()
	nodes := o.table.nearest(m.target, bucketSize, true)
	o.mu.Unlock()
	for _, n := range nodes {
		if n.ID != m.id {
			r.nodes = appendNode(r.nodes, n)
		}
	}
	if len(r.nodes) > 0 {
		r.has |= hasNodes
	}
}

// keep stores what m puts.
func (o *Overlay) keep(m *message, from netip.AddrPort) (code int64, text string) {
	now := o.cfg.Now()
	if !o.proofs.checkToken(now, from, m.token) {
		return codeProtocol, "bad token"
	}
	if m.all(hasKey) {
		code = o.store.putItem(now, m.item(m.salt), o.itemAccount(m.key[:], from))
	} else {
		code = o.store.putChunk(now, m.value, o.chunkAccount(from), m.lifetime())
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
