package keyex

import (
	"bytes"
	"container/heap"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"icvpn/internal/id"
)

// Config is what a Machine needs to know. Every function field is called
// during a method of the Machine and must not call back into it.
type Config struct {
	Service id.ID
	Key     ed25519.PrivateKey // identity; its hash is our PID

	// Credential returns our own, 1 to MaxCredential bytes. Nil or empty: we
	// can neither begin nor answer, yet.
	Credential func() []byte

	// VerifyCred checks chain, service, epoch, dates and revocation, and
	// returns whom the credential names. What it accepts is remembered for a
	// minute, or until Peer.Expires or SetPolicy.
	VerifyCred func(now time.Time, cred []byte, epoch uint32) (Peer, error)

	// Authorize says whether policy allows the pair; initiator means that we
	// are. It is asked about authenticated peers only.
	Authorize func(p Peer, initiator bool) error

	// EpochKey returns K_e while e may be used.
	EpochKey func(epoch uint32) (k [32]byte, ok bool)

	// RekeyKey returns Result.Rekey of the pair with peer pid that has this
	// RekeyID. Nil: never.
	RekeyKey func(pid id.ID, rekeyID [8]byte) (rk [32]byte, ok bool)

	// NewSPI returns a random number from 256 up that is no inbound SPI in
	// use. Those of exchanges under way are kept apart here.
	NewSPI func() uint32

	// SuiteKeys returns the key lengths of an ESP suite.
	SuiteKeys func(Suite) (enc, integ, iv, salt int, ok bool)

	// Groups and Suites in order of preference, 1 to 4 and 1 to 6 of them.
	// Groups defaults to GroupHybrid, GroupX25519, GroupMODP3072.
	Groups []Group
	Suites []Suite

	// Rand defaults to crypto/rand, which is the only choice outside tests.
	Rand io.Reader
}

func (c Config) withDefaults() Config {
	if c.Groups == nil {
		c.Groups = []Group{GroupHybrid, GroupX25519, GroupMODP3072}
	}
	if c.RekeyKey == nil {
		c.RekeyKey = func(id.ID, [8]byte) (k [32]byte, ok bool) { return k, false }
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c
}

func (c Config) validate() error {
	switch {
	case len(c.Key) != ed25519.PrivateKeySize:
		return errors.New("keyex: Key is not an Ed25519 private key")
	case c.Credential == nil, c.VerifyCred == nil, c.Authorize == nil, c.EpochKey == nil, c.NewSPI == nil, c.SuiteKeys == nil:
		return errors.New("keyex: Credential, VerifyCred, Authorize, EpochKey, NewSPI and SuiteKeys are required")
	}
	return nil
}

// Input is one received datagram after its seal was opened.
type Input struct {
	From    Path
	Epoch   uint32 // of the seal
	Plain   int    // plaintext length of the seal, padding included
	Payload []byte // borrowed
}

// Send is one datagram to seal and send.
type Send struct {
	To      Path
	Epoch   uint32 // to seal under
	Plain   int    // plaintext length to pad to, padding included; 0: none
	Payload []byte // read only: the machine sends it again
}

// Output is what a call brought about. Handle Done before Send: a peer must
// never learn an SPI that is not installed.
type Output struct {
	Send   []Send
	Done   []Result // yours to wipe
	Failed []Failure
	Drop   Drop  // Receive only
	Err    error // what VerifyCred, Authorize or we ourselves had against it; for the local log only
}

// Target says whom to reach and how.
type Target struct {
	PID     id.ID
	Paths   []Path   // at most MaxPaths are used
	Epoch   uint32   // the highest activated; e-1 only if that stays unanswered
	RekeyID *[8]byte // of the pair to replace, or nil
}

// Machine runs all exchanges of one peer in one service. It belongs to one
// goroutine. A bad datagram never harms it, and no error is final.
type Machine struct {
	// set by New
	cfg    Config
	self   id.ID
	groups map[Group]agreement

	// policy
	groupPref []Group
	suitePref []Suite

	// our own exchanges
	own      map[id.ID]*exchange // by peer
	awaiting map[hash]*exchange  // by X of the answer to come
	timers   timers
	spis     map[uint32]bool // in M3s under way

	// as a responder
	cookies cookieJar
	halves  *fragments
	quota   requestQuota
	answers *bounded[hash, *answer] // by H3
	perPeer map[id.ID]int           // answers kept

	creds credentials
	stats Stats
}

// New returns a machine that has sent nothing.
func New(cfg Config) (*Machine, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Machine{
		cfg:      cfg,
		self:     id.FromKey(cfg.Key.Public().(ed25519.PublicKey)),
		groups:   agreements(),
		own:      make(map[id.ID]*exchange),
		awaiting: make(map[hash]*exchange),
		spis:     make(map[uint32]bool),
		cookies:  cookieJar{rand: cfg.Rand},
		halves:   newFragments(),
		quota:    newRequestQuota(),
		perPeer:  make(map[id.ID]int),
		creds:    newCredentials(cfg.VerifyCred),
	}
	m.answers = newBounded(maxAnswers, answerLife, func(_ hash, a *answer) { add(m.perPeer, a.peer, -1) })
	if err := m.SetPolicy(cfg.Groups, cfg.Suites); err != nil {
		return nil, err
	}
	return m, nil
}

// SetPolicy replaces the allowed groups and suites and forgets remembered
// credentials. Call it whenever descriptor, policy or revocations change; pairs
// already agreed are the caller's to keep or delete.
func (m *Machine) SetPolicy(groups []Group, suites []Suite) error {
	if !isOffer(toBytes(groups), maxGroups) {
		return fmt.Errorf("keyex: Groups: want 1 to %d different ones, have %v", maxGroups, groups)
	}
	for _, g := range groups {
		if m.groups[g] == nil {
			return fmt.Errorf("keyex: Groups: no such group: %v", g)
		}
	}
	if !isOffer(toBytes(suites), maxSuites) {
		return fmt.Errorf("keyex: Suites: want 1 to %d different ones, have %v", maxSuites, suites)
	}
	for _, s := range suites {
		if _, _, _, _, ok := m.cfg.SuiteKeys(s); !ok {
			return fmt.Errorf("keyex: Suites: no such suite: %d", s)
		}
	}
	m.groupPref = append([]Group(nil), groups...)
	m.suitePref = append([]Suite(nil), suites...)
	m.creds.known.clear()
	return nil
}

// PID returns our own.
func (m *Machine) PID() id.ID { return m.self }

// String names the machine, without its secrets.
func (m *Machine) String() string { return "keyex.Machine{" + m.self.String() + "}" }

// Stats returns the counters.
func (m *Machine) Stats() *Stats { return &m.stats }

// Receive handles one datagram. It borrows in.Payload.
func (m *Machine) Receive(now time.Time, in Input) Output {
	var out Output
	in.From = in.From.clean()
	out.Drop = m.receive(now, in, &out)
	m.stats.drops[out.Drop].Add(1)
	return out
}

func (m *Machine) receive(now time.Time, in Input, out *Output) Drop {
	h, body, ok := parsePayload(in.Payload)
	if !ok || !in.From.valid() {
		return DropHeader
	}
	switch h.msg {
	case msgHelloA:
		return m.onM1(now, in, h, body, out)
	case msgHelloB:
		return m.onM2(now, in, h, body, out)
	case msgShareA:
		return m.onM3(now, in, h, body, out)
	default:
		return m.onM4(now, in, h, body, out)
	}
}

// Tick does what is due: resends, failures, forgetting.
func (m *Machine) Tick(now time.Time) Output {
	var out Output
	m.halves.halves.expire(now)
	m.quota.seen.expire(now)
	m.answers.expire(now)
	m.creds.known.expire(now)
	for len(m.timers) > 0 && !m.timers[0].next.After(now) {
		m.onTimeout(now, m.timers[0], &out)
	}
	return out
}

// Deadline returns when Tick is due next, or the zero time if nothing is.
func (m *Machine) Deadline() time.Time {
	var first time.Time
	for _, t := range []time.Time{m.halves.halves.next(), m.quota.seen.next(), m.answers.next(), m.creds.known.next()} {
		first = earlier(first, t)
	}
	if len(m.timers) > 0 {
		first = earlier(first, m.timers[0].next)
	}
	return first
}

// earlier returns the earlier of two times of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// choose picks our favourite group and suite among those offered.
func (m *Machine) choose(q m1) (g Group, s Suite, ok bool) {
	g, gok := firstIn(m.groupPref, q.Groups)
	s, sok := firstIn(m.suitePref, q.Suites)
	return g, s, gok && sok
}

// allows says whether a choice is within policy.
func (m *Machine) allows(g Group, s Suite) bool {
	_, gok := firstIn(m.groupPref, []byte{byte(g)})
	_, sok := firstIn(m.suitePref, []byte{byte(s)})
	return gok && sok
}

func firstIn[T ~uint8](mine []T, offered []byte) (v T, ok bool) {
	for _, v = range mine {
		if bytes.IndexByte(offered, byte(v)) >= 0 {
			return v, true
		}
	}
	return 0, false
}

func toBytes[T ~uint8](list []T) []byte {
	b := make([]byte, len(list))
	for i, v := range list {
		b[i] = byte(v)
	}
	return b
}

// newSPI returns an SPI that no exchange under way has.
func (m *Machine) newSPI() (uint32, bool) {
	for range spiTries {
		if spi := m.cfg.NewSPI(); spi >= minSPI && !m.spis[spi] {
			return spi, true
		}
	}
	return 0, false
}

// ownCredential returns our credential, or nil if there is none to send.
func (m *Machine) ownCredential() []byte {
	if c := m.cfg.Credential(); isCredential(c) {
		return c
	}
	return nil
}

// hasEpoch says whether e may be used.
func (m *Machine) hasEpoch(e uint32) bool {
	k, ok := m.cfg.EpochKey(e)
	clear(k[:])
	return ok
}

// jitter spreads d by a quarter either way.
func (m *Machine) jitter(d time.Duration) time.Duration {
	u := binary.BigEndian.Uint32(random(m.cfg.Rand, 4))
	spread := int64(d / jitterShare)
	return d - time.Duration(spread) + time.Duration(2*spread*int64(u)>>32)
}

// timers is the heap of our exchanges, the next to act first.
type timers []*exchange

var _ heap.Interface = (*timers)(nil)

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].next.Before(t[j].next) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].slot, t[j].slot = i, j
}
func (t *timers) Push(x any) {
	e := x.(*exchange)
	e.slot = len(*t)
	*t = append(*t, e)
}
func (t *timers) Pop() any {
	old := *t
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	return e
}
