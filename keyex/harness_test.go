package keyex

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// The world of these tests: machines, a simulated clock, and a network that a
// test may bend. Nothing is sealed; what the seal would carry (epoch, plaintext
// length) travels beside the payload.

var testEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const testDelay = 50 * time.Millisecond

var testService = id.Hash("test service")

// authority signs test credentials: key 32 ‖ label ‖ padding ‖ signature 64.
var authority = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))

func testCredential(signer ed25519.PrivateKey, key ed25519.PublicKey, size int) []byte {
	c := append([]byte(nil), key...)
	c = append(c, make([]byte, size-32-64)...)
	return append(c, wire.Sign(signer, "test credential", c)...)
}

func verifyTestCredential(_ time.Time, c []byte, _ uint32) (Peer, error) {
	n := len(c) - ed25519.SignatureSize
	if n < 32 || !wire.Verify(authority.Public().(ed25519.PublicKey), c[n:], "test credential", c[:n]) {
		return Peer{}, errors.New("not signed by the authority")
	}
	key := ed25519.PublicKey(bytes.Clone(c[:32]))
	return Peer{PID: id.FromKey(key), Key: key}, nil
}

func testSuiteKeys(s Suite) (enc, integ, iv, salt int, ok bool) {
	switch s {
	case 1:
		return 16, 32, 16, 0, true
	case 2:
		return 32, 64, 16, 0, true
	case 3:
		return 32, 0, 0, 4, true
	}
	return 0, 0, 0, 0, false
}

// detRand is a reproducible random source.
func detRand(name string) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte(name))) }

// node is one machine and what it brought forth.
type node struct {
	*Machine
	name   string
	addr   Path
	cfg    Config
	epochs map[uint32][32]byte
	rekeys map[[8]byte][32]byte
	deny   error
	cred   []byte
	done   []Result
	failed []Failure
	drops  []Drop
	sent   []Send
}

func newNode(t testing.TB, name string, port uint16, mend ...func(*Config)) *node {
	t.Helper()
	seed := sha256.Sum256([]byte("identity of " + name))
	key := ed25519.NewKeyFromSeed(seed[:])
	n := &node{
		name:   name,
		addr:   Path{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(port)}), 4500)},
		epochs: map[uint32][32]byte{7: sha256.Sum256([]byte("epoch 7")), 8: sha256.Sum256([]byte("epoch 8"))},
		rekeys: map[[8]byte][32]byte{},
		cred:   testCredential(authority, key.Public().(ed25519.PublicKey), MaxCredential),
	}
	spi := uint32(port) << 16
	n.cfg = Config{
		Service: testService, Key: key,
		Credential: func() []byte { return n.cred },
		VerifyCred: verifyTestCredential,
		Authorize:  func(Peer, bool) error { return n.deny },
		EpochKey:   func(e uint32) ([32]byte, bool) { k, ok := n.epochs[e]; return k, ok },
		RekeyKey:   func(_ id.ID, r [8]byte) ([32]byte, bool) { k, ok := n.rekeys[r]; return k, ok },
		NewSPI:     func() uint32 { spi++; return spi },
		SuiteKeys:  testSuiteKeys,
		Suites:     []Suite{1, 2, 3},
		Rand:       detRand("random of " + name),
	}
	for _, f := range mend {
		f(&n.cfg)
	}
	m, err := New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Machine = m
	return n
}

// restart gives n a new machine: the same identity, nothing remembered.
func (n *node) restart(t testing.TB) {
	n.cfg.Rand = detRand("random of " + n.name + " after a restart")
	m, err := New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Machine = m
	clear(n.rekeys)
}

// packet is one datagram on its way.
type packet struct {
	Send
	from Path
	at   time.Time
	n    int // serial number
}

func (p packet) msg() uint8 { return p.Payload[0] }

// world is the network and the clock.
type world struct {
	t     testing.TB
	now   time.Time
	nodes map[Path]*node
	queue []packet
	n     int

	// bend decides what becomes of a packet: itself by default, nothing for
	// loss, several for duplication, with other times for reordering.
	bend func(packet) []packet
	log  []packet // everything sent, before bending
}

func newWorld(t testing.TB, nodes ...*node) *world {
	w := &world{t: t, now: testEpoch, nodes: map[Path]*node{}}
	for _, n := range nodes {
		w.nodes[n.addr] = n
	}
	return w
}

// twoNodes returns a and b with PID(a) < PID(b).
func twoNodes(t testing.TB, mend ...func(*Config)) (w *world, a, b *node) {
	a, b = newNode(t, "alpha", 1, mend...), newNode(t, "beta", 2, mend...)
	if a.PID().Compare(b.PID()) > 0 {
		a, b = b, a
	}
	return newWorld(t, a, b), a, b
}

func (w *world) take(n *node, out Output) {
	n.done = append(n.done, out.Done...)
	n.failed = append(n.failed, out.Failed...)
	n.sent = append(n.sent, out.Send...)
	for _, s := range out.Send {
		p := packet{Send: s, from: n.addr, at: w.now.Add(testDelay), n: w.n}
		p.Payload = bytes.Clone(p.Payload)
		w.n++
		w.log = append(w.log, p)
		bent := []packet{p}
		if w.bend != nil {
			bent = w.bend(p)
		}
		w.queue = append(w.queue, bent...)
	}
	slices.SortStableFunc(w.queue, func(x, y packet) int {
		return cmp.Or(x.at.Compare(y.at), cmp.Compare(x.n, y.n))
	})
}

// deliver hands p to its receiver. The payload is overwritten afterwards: the
// machine only borrowed it.
func (w *world) deliver(p packet) Drop {
	n := w.nodes[p.To]
	if n == nil {
		return DropNone
	}
	buf := bytes.Clone(p.Payload)
	out := n.Receive(w.now, Input{From: p.from, Epoch: p.Epoch, Plain: p.Plain, Payload: buf})
	for i := range buf {
		buf[i] = 0xa5
	}
	n.drops = append(n.drops, out.Drop)
	w.take(n, out)
	return out.Drop
}

func (w *world) initiate(n, to *node, mend ...func(*Target)) {
	t := Target{PID: to.PID(), Paths: []Path{to.addr}, Epoch: 7}
	for _, f := range mend {
		f(&t)
	}
	w.take(n, n.Initiate(w.now, t))
}

// step does the next thing that is due before limit.
func (w *world) step(limit time.Time) bool {
	var next time.Time
	if len(w.queue) > 0 {
		next = w.queue[0].at
	}
	var who *node
	for _, n := range w.sorted() {
		if d := n.Deadline(); !d.IsZero() && (next.IsZero() || d.Before(next)) {
			next, who = d, n
		}
	}
	if next.IsZero() || next.After(limit) {
		return false
	}
	if next.After(w.now) {
		w.now = next
	}
	if who != nil {
		w.take(who, who.Tick(w.now))
		if d := who.Deadline(); !d.IsZero() && !d.After(w.now) {
			w.t.Fatalf("Deadline %v is not after the Tick at %v", d, w.now)
		}
		return true
	}
	p := w.queue[0]
	w.queue = w.queue[1:]
	w.deliver(p)
	return true
}

func (w *world) sorted() []*node {
	var all []*node
	for _, n := range w.nodes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	return all
}

// run lets d pass.
func (w *world) run(d time.Duration) {
	limit := w.now.Add(d)
	for w.step(limit) {
	}
	w.now = limit
}

// agree fails unless x and y are the two ends of one exchange.
func agree(t testing.TB, x, y Result) {
	t.Helper()
	if x.Initiator == y.Initiator {
		t.Fatalf("both ends say initiator %t", x.Initiator)
	}
	same := func(what string, a, b []byte) {
		t.Helper()
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs: %x and %x", what, a, b)
		}
	}
	for _, d := range []struct {
		name string
		a, b Keys
	}{{"out", x.Out, y.In}, {"in", x.In, y.Out}} {
		same(d.name+" enc", d.a.Enc, d.b.Enc)
		same(d.name+" int", d.a.Int, d.b.Int)
		same(d.name+" iv", d.a.IV, d.b.IV)
		same(d.name+" salt", d.a.Salt, d.b.Salt)
	}
	same("ctl out", x.CtlOut[:], y.CtlIn[:])
	same("ctl in", x.CtlIn[:], y.CtlOut[:])
	same("rekey", x.Rekey[:], y.Rekey[:])
	same("rekey id", x.RekeyID[:], y.RekeyID[:])
	same("transcript", x.Transcript[:], y.Transcript[:])
	if x.SPIIn != y.SPIOut || x.SPIOut != y.SPIIn || x.Suite != y.Suite || x.Group != y.Group || x.Epoch != y.Epoch {
		t.Errorf("parameters differ: %v and %v", x, y)
	}
}

// checkPairs fails unless every initiator's Result has its other end, and no
// Result, transcript or key was made twice.
func (w *world) checkPairs() {
	w.t.Helper()
	seen := map[string]string{}
	once := func(what string, b []byte, who string) {
		if k := what + string(b); seen[k] != "" {
			w.t.Errorf("%s made %s %x, %s did before", who, what, b, seen[k])
		} else {
			seen[k] = who
		}
	}
	byTranscript := map[hash]Result{}
	for _, n := range w.sorted() {
		for _, r := range n.done {
			once("transcript as "+fmt.Sprint(r.Initiator), r.Transcript[:], n.name)
			once("outbound key", r.Out.Enc, n.name)
			if !r.Initiator {
				byTranscript[r.Transcript] = r
			}
		}
	}
	for _, n := range w.sorted() {
		for _, r := range n.done {
			if !r.Initiator {
				continue
			}
			other, ok := byTranscript[r.Transcript]
			if !ok {
				w.t.Errorf("%s completed an exchange that nobody answered", n.name)
				continue
			}
			agree(w.t, r, other)
			if other.Peer.PID != n.PID() {
				w.t.Errorf("%s is taken for %s", n.PID(), other.Peer.PID)
			}
			if w.nodes[r.Path] == nil || w.nodes[r.Path].PID() != r.Peer.PID {
				w.t.Errorf("%s took %v for %s", n.name, r.Path, r.Peer.PID)
			}
		}
	}
}

// only returns the single Result of n.
func (n *node) only(t testing.TB) Result {
	t.Helper()
	if len(n.done) != 1 {
		t.Fatalf("%s has %d results, want 1; failures %v, drops %v", n.name, len(n.done), n.failed, n.drops)
	}
	return n.done[0]
}

// idle fails if n remembers anything of an exchange of its own.
func (n *node) idle(t testing.TB) {
	t.Helper()
	if len(n.own) != 0 || len(n.awaiting) != 0 || len(n.timers) != 0 || len(n.spis) != 0 {
		t.Errorf("%s is not idle: %d exchanges, %d awaited, %d timers, %d SPIs", n.name, len(n.own), len(n.awaiting), len(n.timers), len(n.spis))
	}
}
