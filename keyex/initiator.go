package keyex

import (
	"bytes"
	"container/heap"
	"crypto/hmac"
	"errors"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Flow of an exchange of our own:
//
//	Initiate -> begin -> transmit (M1) -> onM2 -> transmit (M3) -> onM4 -> conclude
//	Tick -> onTimeout -> transmit again, begin again, or conclude

// state of an exchange of our own.
//
//	         begin           onM2            conclude
//	(none) --------> hello ---------> share ----------> ended
//	                   |  ^             |                 ^
//	                   |  +-------------+                 |
//	                   |   new attempt                    |
//	                   +----------------------------------+
type state uint8

const (
	stateNone state = iota
	stateHello
	stateShare
	stateEnded
)

// exchange is one of our own, from Initiate to its end.
type exchange struct {
	// set by Initiate
	peer    id.ID
	epoch   uint32
	paths   []Path
	rekeyID *[8]byte
	rk      [32]byte // zeros unless rekeyID is set

	// the timer
	state    state
	attempt  int
	tries    int // transmissions of the current message
	next     time.Time
	slot     int // in Machine.timers
	outgoing [][]byte

	// the transcript so far
	hello m1
	rawM1 []byte
	x     hash // what the awaited answer carries: H1, then H3
	m2    m2

	// from M3 on
	path   Path
	spi    uint32
	secret []byte // of our key share
	halves [maxFragments][]byte
	held   *request // the peer's own M3, unanswered while ours is under way

	// last thing that went wrong after M2, for the Failure
	trouble error
}

// Initiate begins an exchange. While one with the same peer is under way it
// does nothing.
func (m *Machine) Initiate(now time.Time, t Target) Output {
	var out Output
	if m.own[t.PID] != nil {
		return out
	}
	x := &exchange{peer: t.PID, epoch: t.Epoch, slot: -1}
	for _, p := range t.Paths {
		if p = p.clean(); p.valid() && !slices.Contains(x.paths, p) && len(x.paths) < MaxPaths {
			x.paths = append(x.paths, p)
		}
	}
	if err := m.cannotBegin(x); err != nil {
		m.fail(x, Failure{Reason: ReasonLocal, Detail: err}, &out)
		return out
	}
	if t.RekeyID != nil {
		if rk, ok := m.cfg.RekeyKey(t.PID, *t.RekeyID); ok {
			rekeyID := *t.RekeyID
			x.rekeyID, x.rk = &rekeyID, rk
			clear(rk[:])
		}
	}
	m.own[t.PID] = x
	m.stats.Started.Add(1)
	m.begin(now, x, &out)
	return out
}

// Extend adds paths to an exchange of our own that has had no answer, and sends its M1
// there, too: those that are to be used only if the ones that Initiate was given are
// silent. Without such an exchange it does nothing.
func (m *Machine) Extend(pid id.ID, paths []Path) (out Output) {
	x := m.own[pid]
	if x == nil || x.state != stateHello {
		return out
	}
	for _, p := range paths {
		if p = p.clean(); !p.valid() || slices.Contains(x.paths, p) || len(x.paths) >= MaxPaths+MaxExtended {
			continue
		}
		x.paths = append(x.paths, p)
		for _, payload := range x.outgoing {
			out.Send = append(out.Send, Send{To: p, Epoch: x.epoch, Plain: HelloPlain, Payload: payload})
		}
	}
	return out
}

func (m *Machine) cannotBegin(x *exchange) error {
	switch {
	case x.peer == m.self:
		return errors.New("that is ourselves")
	case len(x.paths) == 0:
		return errors.New("no endpoint is known")
	case len(m.own) >= maxOwn:
		return errors.New("too many exchanges under way")
	case !m.hasEpoch(x.epoch):
		return errors.New("no key of this epoch")
	case m.ownCredential() == nil:
		return errors.New("no usable credential of our own")
	}
	return nil
}

// Cancel ends an exchange of our own without a Result or Failure. An M3 of the
// peer that waited for it is forgotten; the peer will send it again.
func (m *Machine) Cancel(pid id.ID) {
	if x := m.own[pid]; x != nil {
		m.end(x)
	}
}

// begin makes a new M1, with a new nonce, and sends it to all paths.
func (m *Machine) begin(now time.Time, x *exchange, out *Output) {
	m.forget(x)
	x.hello = m1{
		Version: version, PIDA: m.self, PIDB: x.peer,
		NonceA: [32]byte(random(m.cfg.Rand, 32)),
		Groups: toBytes(m.groupPref), Suites: toBytes(m.suitePref),
		RekeyID: x.rekeyID,
	}
	x.rawM1 = wire.Marshal(x.hello)
	x.x = addMessage(startHash(m.cfg.Service, x.epoch), tagM1, x.rawM1)
	x.outgoing = fragment(msgHelloA, x.x, cookie{}, x.rawM1)
	m.becomeHello(x)
	m.transmit(now, x, out)
}

// transmit sends the current message and sets the timer.
func (m *Machine) transmit(now time.Time, x *exchange, out *Output) {
	waits, to, plain := helloWaits, x.paths, HelloPlain
	if x.state == stateShare {
		waits, to, plain = shareWaits, []Path{x.path}, 0
	}
	for _, p := range to {
		for _, payload := range x.outgoing {
			out.Send = append(out.Send, Send{To: p, Epoch: x.epoch, Plain: plain, Payload: payload})
		}
	}
	x.next = now.Add(m.jitter(waits[x.tries]))
	x.tries++
	if x.slot < 0 {
		heap.Push(&m.timers, x)
	} else {
		heap.Fix(&m.timers, x.slot)
	}
}

// onTimeout is called when the wait after a transmission is over.
func (m *Machine) onTimeout(now time.Time, x *exchange, out *Output) {
	switch {
	case x.state == stateHello && x.tries < len(helloWaits),
		x.state == stateShare && x.tries < len(shareWaits):
		m.transmit(now, x, out)
	case x.state == stateHello:
		m.conclude(now, x, &Failure{Reason: ReasonNoAnswer, Tries: x.tries, Paths: x.paths}, out)
	case x.held == nil && x.attempt+1 < maxAttempts:
		// The M2 may have been forged, the path may swallow large datagrams, or
		// the responder may have restarted: all over again, elsewhere if
		// possible.
		x.attempt++
		if len(x.paths) > 1 {
			x.paths = slices.DeleteFunc(x.paths, func(p Path) bool { return p == x.path })
		}
		m.begin(now, x, out)
	default:
		m.conclude(now, x, &Failure{Reason: ReasonIncomplete, Tries: x.tries, Paths: []Path{x.path}, Detail: x.trouble}, out)
	}
}

// onM2 takes the first possible answer to our M1. M2 is unsigned: a choice we
// offered and still allow is all that can be checked here; the responder
// vouches for it by its cookie when it sees M3, and by its signature.
func (m *Machine) onM2(now time.Time, in Input, h header, body []byte, out *Output) Drop {
	x := m.awaiting[h.x]
	if x == nil || x.state != stateHello {
		return DropUnknown
	}
	if in.Epoch != x.epoch {
		return DropEpoch
	}
	// Only from where M1 went: M3 is ten times as large as M2, and nobody shall
	// point us at an address of his choice.
	if !slices.Contains(x.paths, in.From) {
		return DropPath
	}
	if in.Plain != HelloPlain {
		return DropPadding
	}
	choice, ok := parseM2(body)
	if !ok || !choice.fits(x.hello) {
		return DropMalformed
	}
	if !m.allows(choice.Group, choice.Suite) {
		return DropNoCommon
	}
	cred := m.ownCredential()
	spi, ok := m.newSPI()
	if cred == nil || !ok {
		out.Err = errors.New("keyex: no usable credential or SPI of our own")
		return DropLocal
	}
	x.m2, x.path, x.spi = choice, in.From, spi
	m.makeM3(x, body, h.cookie, cred)
	m.transmit(now, x, out)
	return DropNone
}

// makeM3 builds M3 once; it is resent unchanged.
func (m *Machine) makeM3(x *exchange, rawM2 []byte, c cookie, cred []byte) {
	h2 := addMessage(x.x, tagM2, rawM2)
	secret, share := m.groups[x.m2.Group].offer(m.cfg.Rand)
	raw := wire.Marshal(m3{M1: x.rawM1, M2: rawM2, Share: share, SPI: x.spi, Cred: cred})
	signed := addMessage(h2, tagM3, raw)
	sig := wire.Sign(m.cfg.Key, domainInitiator, signed[:])

	delete(m.awaiting, x.x)
	x.secret = secret
	x.x = addSignature(signed, tagSigA, sig)
	x.outgoing = fragment(msgShareA, h2, c, append(raw, sig...))
	m.becomeShare(x)
}

// onM4 is called for each half of the responder's answer. A bad one is
// forgotten and the next is awaited: only a good signature has a say.
func (m *Machine) onM4(now time.Time, in Input, h header, part []byte, out *Output) Drop {
	x := m.awaiting[h.x]
	if x == nil || x.state != stateShare {
		return DropUnknown
	}
	if in.Epoch != x.epoch {
		return DropEpoch
	}
	if in.From != x.path {
		return DropPath
	}
	body, d := x.collect(h, part)
	if body == nil {
		return d
	}
	answer, raw, sig, mac, ok := parseM4(body)
	if !ok {
		return DropMalformed
	}
	peer, err := m.creds.peer(now, answer.Cred, x.epoch)
	if err != nil || peer.PID != x.peer {
		x.trouble = errors.New("its credential was not accepted")
		if err != nil {
			x.trouble = errors.Join(x.trouble, err)
		}
		out.Err = x.trouble
		return DropCredential
	}
	signed := addMessage(x.x, tagM4, raw)
	if !wire.Verify(peer.Key, sig, domainResponder, signed[:]) {
		x.trouble = errors.New("its signature is wrong")
		return DropSignature
	}
	if answer.Status != StatusOK {
		m.onRefusal(now, x, answer.Status, out)
		return DropNone
	}
	if err := m.cfg.Authorize(peer, true); err != nil {
		m.conclude(now, x, &Failure{Reason: ReasonNotAllowed, Detail: err}, out)
		return DropNone
	}
	return m.finish(now, x, peer, answer, addSignature(signed, tagSigB, sig), mac, out)
}

// collect returns the whole body once it is there. The first copy of a half
// wins; both are forgotten once they were put together, right or wrong.
func (x *exchange) collect(h header, part []byte) ([]byte, Drop) {
	if h.total == 1 {
		return part, DropNone
	}
	if x.halves[h.index] != nil {
		return nil, DropDuplicate
	}
	x.halves[h.index] = bytes.Clone(part)
	if x.halves[0] == nil || x.halves[1] == nil {
		return nil, DropNone
	}
	whole := join(x.halves[0], x.halves[1])
	x.halves = [maxFragments][]byte{}
	return whole, DropNone
}

// onRefusal is called for a refusal with a good signature.
func (m *Machine) onRefusal(now time.Time, x *exchange, s Status, out *Output) {
	if s == StatusRekeyGone && x.rekeyID != nil && x.held == nil {
		x.rekeyID = nil
		clear(x.rk[:])
		m.begin(now, x, out)
		return
	}
	m.conclude(now, x, &Failure{Reason: ReasonRefused, Status: s}, out)
}

// finish derives the keys and compares mac_B. A wrong one is not the end: who
// sits on the path can put a wrong MAC behind a good signature.
func (m *Machine) finish(now time.Time, x *exchange, peer Peer, answer m4, total hash, mac []byte, out *Output) Drop {
	g := m.groups[x.m2.Group]
	if _, n := g.lengths(); len(answer.Share) != n {
		return DropShare
	}
	dhR, err := g.finish(x.secret, answer.Share)
	if err != nil {
		x.trouble = err
		return DropShare
	}
	epochKey, ok := m.cfg.EpochKey(x.epoch)
	if !ok {
		clear(dhR)
		return DropEpoch
	}
	var rk [32]byte
	if x.m2.RekeyOK {
		rk = x.rk
	}
	s := newSchedule(m.cfg.Service, x.epoch, &epochKey, &rk, dhR, m.self, x.peer, total)
	clear(epochKey[:])
	clear(rk[:])
	defer s.wipe()
	if !hmac.Equal(mac, s.confirmation()) {
		x.trouble = errors.New("it is the right peer, but the keys differ: epoch key or rekey secret not the same")
		return DropConfirmation
	}
	r := Result{Peer: peer, Initiator: true, Path: x.path, Epoch: x.epoch,
		Suite: x.m2.Suite, Group: x.m2.Group, SPIIn: x.spi, SPIOut: answer.SPI}
	s.fill(&r, m.cfg.SuiteKeys)
	out.Done = append(out.Done, r)
	m.stats.Completed.Add(1)
	m.conclude(now, x, nil, out)
	return DropNone
}

// conclude ends x. An M3 of the peer that waited for it is answered now if ours
// came to nothing, and otherwise marked as done with, so that a late copy of it
// does not start a second pair.
func (m *Machine) conclude(now time.Time, x *exchange, f *Failure, out *Output) {
	held := x.held
	m.end(x)
	if held != nil && f == nil {
		m.keepAnswer(now, held, nil)
	} else if held != nil {
		d := m.decide(now, held, out)
		if d == DropNone {
			out.Done[len(out.Done)-1].Replaced = true
			return
		}
		m.stats.drops[d].Add(1)
	}
	if f != nil {
		m.fail(x, *f, out)
	}
}

func (m *Machine) fail(x *exchange, f Failure, out *Output) {
	f.PID, f.Epoch = x.peer, x.epoch
	out.Failed = append(out.Failed, f)
	m.stats.Failed.Add(1)
}

// becomeHello, becomeShare and end are the only places where a state changes.
func (m *Machine) becomeHello(x *exchange) {
	if x.state == stateEnded {
		panic("keyex: internal error: an exchange began after its end")
	}
	x.state, x.tries = stateHello, 0
	m.awaiting[x.x] = x
}

func (m *Machine) becomeShare(x *exchange) {
	if x.state != stateHello {
		panic("keyex: internal error: M3 without M1")
	}
	x.state, x.tries = stateShare, 0
	m.awaiting[x.x] = x
	m.spis[x.spi] = true
}

// end forgets x and erases its secrets.
func (m *Machine) end(x *exchange) {
	if x.state == stateEnded {
		panic("keyex: internal error: an exchange ended twice")
	}
	x.state = stateEnded
	m.forget(x)
	clear(x.rk[:])
	x.held = nil
	delete(m.own, x.peer)
	if x.slot >= 0 {
		heap.Remove(&m.timers, x.slot)
		x.slot = -1
	}
}

// forget erases what belongs to one attempt.
func (m *Machine) forget(x *exchange) {
	delete(m.awaiting, x.x)
	delete(m.spis, x.spi)
	clear(x.secret)
	x.secret, x.spi, x.outgoing = nil, 0, nil
	x.halves = [maxFragments][]byte{}
}
