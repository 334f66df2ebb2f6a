package relay

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/underlay"
	"icvpn/internal/wire"
)

var (
	t0      = time.Unix(1_700_000_000, 0)
	at      = netip.MustParseAddrPort("192.0.2.1:4500") // the relay's
	service = id.ID{1}
)

// sockets keep what is written and give what was queued.
type sockets struct {
	sent  []underlay.Message
	queue []underlay.Message
	err   func(m underlay.Message) error
}

func (s *sockets) Readers() []underlay.Reader { return []underlay.Reader{s} }
func (s *sockets) Port() uint16               { return 4500 }
func (s *sockets) Close() error               { return nil }

func (s *sockets) WriteBatch(ms []underlay.Message) (sent int, err error) {
	for i := range ms {
		m := ms[i]
		if ms[i].Err = nil; s.err != nil {
			ms[i].Err = s.err(m)
		}
		if ms[i].Err == nil {
			m.Buf = bytes.Clone(m.Buf[:m.N])
			s.sent = append(s.sent, m)
			sent++
		}
	}
	return sent, nil
}

func (s *sockets) ReadBatch(ms []underlay.Message) (int, error) {
	if len(s.queue) == 0 {
		return 0, net.ErrClosed
	}
	n := min(len(ms), len(s.queue))
	for i, q := range s.queue[:n] {
		ms[i].N, ms[i].Segment, ms[i].Addr, ms[i].TOS = copy(ms[i].Buf, q.Buf), q.Segment, q.Addr, q.TOS
	}
	s.queue = s.queue[n:]
	return n, nil
}

// bench is a relay and some members.
type bench struct {
	t     *testing.T
	now   time.Time
	table *Table
	relay *Relay
	self  id.ID
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pidOf(key ed25519.PrivateKey) id.ID { return id.FromKey(key.Public().(ed25519.PublicKey)) }

func newBench(t *testing.T, l Limits, strangers ...id.ID) *bench {
	t.Helper()
	b := &bench{t: t, now: t0, table: NewTable([32]byte{7}, l)}
	key := newKey(t)
	b.self = pidOf(key)
	b.relay = b.table.Relay(service, key, func(pid id.ID) bool { return !slices.Contains(strangers, pid) })
	return b
}

// member is a machine at an address.
type member struct {
	*Holdings
	conn *Conn
	net  *sockets
	addr netip.AddrPort
}

func (b *bench) member(addr string) *member { return b.memberAs(addr, newKey(b.t)) }

func (b *bench) memberAs(addr string, key ed25519.PrivateKey) *member {
	m := &member{net: new(sockets), addr: netip.MustParseAddrPort(addr)}
	m.conn = NewConn(m.net)
	m.Holdings = NewHoldings(Config{Service: service, Key: key, Rand: rand.Reader, Conn: m.conn})
	return m
}

// settle carries questions and answers until there is nothing to say.
func (b *bench) settle(m *member, out Output) (held, lost []id.ID) {
	for len(out.Send) > 0 {
		held, lost = append(held, out.Held...), append(lost, out.Lost...)
		send := out.Send
		out = Output{}
		for _, q := range send {
			if a := b.relay.Answer(b.now, q.Payload, m.addr); a != nil {
				o := m.Receive(b.now, q.To, a)
				out.Send, out.Held, out.Lost = append(out.Send, o.Send...), append(out.Held, o.Held...), append(out.Lost, o.Lost...)
			}
		}
	}
	return append(held, out.Held...), append(lost, out.Lost...)
}

func (b *bench) join(m *member) ID {
	b.t.Helper()
	b.settle(m, m.Want(b.now, b.self, at, b.now.Add(time.Hour)))
	name, _, ok := m.Held(b.self)
	if !ok {
		b.t.Fatal("no allocation")
	}
	return name
}

// pass gives the relay what m has sent, and returns what it sends.
func (b *bench) pass(m *member) (out []underlay.Message) {
	for i := range m.net.sent {
		m.net.sent[i].Addr = m.addr
	}
	out = b.forward(m.net.sent...)
	m.net.sent = nil
	return out
}

func (b *bench) forward(ms ...underlay.Message) []underlay.Message {
	sink := new(sockets)
	b.table.Forward(b.now, ms, sink.WriteBatch)
	return sink.sent
}

func (b *bench) dropped(d Drop, ms ...underlay.Message) {
	b.t.Helper()
	before := b.table.Stats().Dropped(d)
	if out := b.forward(ms...); len(out) != 0 {
		b.t.Errorf("%v: forwarded to %v", d, out[0].Addr)
	}
	if got := b.table.Stats().Dropped(d) - before; got != uint64(len(ms)) {
		b.t.Errorf("%v: counted %d times, want %d", d, got, len(ms))
	}
}

func datagram(from netip.AddrPort, b []byte) underlay.Message {
	return underlay.Message{Buf: b, N: len(b), Addr: from}
}

func TestTwoMembersReachEachOther(t *testing.T) {
	b := newBench(t, Limits{})
	alice, bob := b.member("198.51.100.1:4500"), b.member("203.0.113.9:61000")
	b.join(alice)
	toBob, ok := alice.conn.Virtual(at, b.join(bob))
	if !ok || !IsVirtual(toBob) {
		t.Fatalf("no way to bob: %v", toBob)
	}
	text := []byte("ESP, say")
	ms := []underlay.Message{
		{Buf: text, N: len(text), Addr: toBob, TOS: 0x2e<<2 | 1},
		{Buf: text, N: len(text), Addr: netip.MustParseAddrPort("203.0.113.77:4500")}, // and one that goes straight
	}
	if n, err := alice.conn.WriteBatch(ms); n != 2 || err != nil || ms[0].Err != nil {
		t.Fatal(n, err, ms[0].Err)
	}
	if direct := alice.net.sent[1]; direct.Addr != ms[1].Addr || !bytes.Equal(direct.Buf, text) {
		t.Errorf("what goes straight is %q to %v", direct.Buf, direct.Addr)
	}
	alice.net.sent = alice.net.sent[:1]
	sent := bytes.Clone(alice.net.sent[0].Buf)
	out := b.pass(alice)
	if len(out) != 1 || out[0].Addr != bob.addr || out[0].TOS != 0x2e<<2|1 || !bytes.Equal(out[0].Buf, sent) {
		t.Fatalf("relayed: %+v", out)
	}
	out[0].Addr = at
	bob.net.queue = out
	in := underlay.NewBatch(4, underlay.TrainBuffer)
	if n, err := bob.conn.Readers()[0].ReadBatch(in); n != 1 || err != nil || !bytes.Equal(in[0].Bytes(), text) {
		t.Fatalf("bob read %d messages, %q, %v", n, in[0].Bytes(), err)
	}
	// And back, with nothing but the address it came from.
	if n, err := bob.conn.WriteBatch([]underlay.Message{{Buf: text, N: len(text), Addr: in[0].Addr}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if out := b.pass(bob); len(out) != 1 || out[0].Addr != alice.addr {
		t.Fatalf("back: %+v", out)
	}
	if s := b.table.Stats(); s.Packets.Load() != 2 || s.Bytes.Load() != 2*uint64(len(sent)) || s.Allocations.Load() != 2 {
		t.Errorf("counted %d packets, %d bytes, %d allocations", s.Packets.Load(), s.Bytes.Load(), s.Allocations.Load())
	}
}

func TestOnlyItsMemberUsesAnAllocation(t *testing.T) {
	b := newBench(t, Limits{})
	alice, bob, carol := b.member("198.51.100.1:4500"), b.member("203.0.113.9:61000"), b.member("203.0.113.10:4500")
	a, c, d := b.join(alice), b.join(bob), b.join(carol)
	good := append(appendHeader(nil, c, a), "content"...)
	b.dropped(DropForged, datagram(bob.addr, good), datagram(carol.addr, good), datagram(netip.MustParseAddrPort("198.51.100.1:4501"), good))
	b.dropped(DropUnknown, datagram(alice.addr, append(appendHeader(nil, c, ID{9}), 1)))
	b.dropped(DropDestination, datagram(alice.addr, append(appendHeader(nil, ID{9}, a), 1)), datagram(alice.addr, append(appendHeader(nil, a, a), 1)))
	reserved := bytes.Clone(good)
	reserved[6] = 1
	b.dropped(DropMalformed, datagram(alice.addr, good[:HeaderLen]), datagram(alice.addr, good[:3]), datagram(alice.addr, reserved))
	// Of a train each datagram is looked at.
	train := slices.Concat(append(appendHeader(nil, c, a), "one"...), append(appendHeader(nil, d, a), "two"...), append(appendHeader(nil, c, d), "no."...))
	out := b.forward(underlay.Message{Buf: train, N: len(train), Segment: HeaderLen + 3, Addr: alice.addr})
	if len(out) != 2 || out[0].Addr != bob.addr || out[1].Addr != carol.addr {
		t.Errorf("of a train: %+v", out)
	}
	// Nobody's time is over before it is.
	b.now = b.now.Add(Life - 1)
	if out := b.forward(datagram(alice.addr, good)); len(out) != 1 {
		t.Error("not forwarded within the allocation's life")
	}
	b.settle(carol, carol.Tick(b.now))
	b.now = b.now.Add(1)
	b.dropped(DropUnknown, datagram(alice.addr, good))
	b.dropped(DropDestination, datagram(carol.addr, append(appendHeader(nil, c, d), 1))) // bob is not there any more
}

func TestServicesOfOnePortAreApart(t *testing.T) {
	b := newBench(t, Limits{})
	alice, mallory := b.member("198.51.100.1:4500"), b.member("203.0.113.9:4500")
	a := b.join(alice)
	other := b.table.Relay(id.ID{2}, newKey(t), func(id.ID) bool { return true })
	mallory.cfg.Service, b.relay, b.self = id.ID{2}, other, other.self
	m := b.join(mallory)
	b.dropped(DropDestination, datagram(mallory.addr, append(appendHeader(nil, a, m), 1)))
}

func TestStrangersGetNothing(t *testing.T) {
	key := newKey(t)
	b := newBench(t, Limits{}, pidOf(key))
	s := b.memberAs("198.51.100.66:4500", key)
	_, lost := b.settle(s, s.Want(b.now, b.self, at, b.now.Add(time.Hour)))
	for range askWaits {
		b.now = s.Deadline()
		out := s.Tick(b.now)
		_, l := b.settle(s, out)
		lost = append(append(lost, out.Lost...), l...)
	}
	if _, _, ok := s.Held(b.self); ok || b.table.Stats().Requested(Stranger) == 0 || b.table.Stats().Requested(Granted) != 0 || !slices.Contains(lost, b.self) {
		t.Errorf("a stranger holds something: %v; lost %v", ok, lost)
	}
}

// TestAllocationsNeedProof: a token of another address, another relay's, an old one, another
// key's signature. The well-formed question gets a token, which says nothing, or silence.
func TestAllocationsNeedProof(t *testing.T) {
	b := newBench(t, Limits{})
	alice, mallory := b.member("198.51.100.1:4500"), b.member("203.0.113.66:4500")
	first := alice.Want(b.now, b.self, at, b.now.Add(time.Hour)).Send[0]
	second := alice.Receive(b.now, at, b.relay.Answer(b.now, first.Payload, alice.addr)).Send[0]
	// Captured on its way, and played from elsewhere.
	if a, _ := parseAnswer(b.relay.Answer(b.now, second.Payload, mallory.addr)); a.Status != statusProve {
		t.Errorf("a question played from another address: %v", a.Status)
	}
	// Mallory's token is good at her address, her signature is not alice's.
	q, _ := parseQuery(second.Payload)
	token := mallory.Receive(b.now, at, b.relay.Answer(b.now, mallory.Want(b.now, b.self, at, b.now.Add(time.Hour)).Send[0].Payload, mallory.addr)).Send[0]
	m, _ := parseQuery(token.Payload)
	m.Key = q.Key
	if b.relay.Answer(b.now, encode(m), mallory.addr) != nil || b.table.Stats().Requested(Unproved) != 1 {
		t.Error("another's signature under alice's key is answered")
	}
	m.Sig = q.Sig // signed for another address's token
	if b.relay.Answer(b.now, encode(m), mallory.addr) != nil || b.table.Stats().Requested(Unproved) != 2 {
		t.Error("a signature of another token is answered")
	}
	// What alice says to one relay is no use at another, even with the same token.
	twin := b.table.Relay(service, newKey(t), func(id.ID) bool { return true })
	if twin.Answer(b.now, second.Payload, alice.addr) != nil {
		t.Error("a signature for another relay is answered")
	}
	if twin := b.table.Relay(id.ID{3}, newKey(t), func(id.ID) bool { return true }); twin.Answer(b.now, second.Payload, alice.addr) != nil {
		t.Error("a signature for another service is answered")
	}
	if n := b.table.Stats().Allocations.Load(); n != 0 {
		t.Errorf("%d allocations without proof", n)
	}
	// An old token.
	if a, _ := parseAnswer(b.relay.Answer(b.now.Add(2*tokenInterval), second.Payload, alice.addr)); a.Status != statusProve {
		t.Errorf("an old token: %v", a.Status)
	}
	if a, _ := parseAnswer(b.relay.Answer(b.now.Add(tokenInterval-1), second.Payload, alice.addr)); a.Status != statusHeld {
		t.Errorf("a token of the interval before: %v", a.Status)
	}
}

func encode(q query) []byte { return wire.Marshal(q) }

func TestAMemberMovesItsAllocation(t *testing.T) {
	b := newBench(t, Limits{})
	alice, bob := b.member("198.51.100.1:4500"), b.member("203.0.113.9:61000")
	a, c := b.join(alice), b.join(bob)
	alice.addr = netip.MustParseAddrPort("198.51.100.1:33333") // its NAT has forgotten it
	b.now = b.now.Add(refreshEvery)
	if held, _ := b.settle(alice, alice.Tick(b.now)); len(held) != 0 {
		t.Error("an allocation that moved has another name")
	}
	out := b.forward(datagram(bob.addr, append(appendHeader(nil, a, c), 1)))
	if len(out) != 1 || out[0].Addr != alice.addr {
		t.Errorf("relayed: %+v", out)
	}
	b.dropped(DropForged, datagram(netip.MustParseAddrPort("198.51.100.1:4500"), append(appendHeader(nil, c, a), 1)))
	// At once, too, for its process has started again.
	again := b.memberAs("198.51.100.1:44444", alice.cfg.Key)
	if name := b.join(again); name != a {
		t.Errorf("one member has %v and %v", a, name)
	}
	if out := b.forward(datagram(bob.addr, append(appendHeader(nil, a, c), 1))); len(out) != 1 || out[0].Addr != again.addr {
		t.Errorf("relayed: %+v", out)
	}
	// A relay that restarts gives the same names.
	key := newKey(t)
	b.relay = b.table.Relay(service, key, b.relay.isMember)
	b.self = pidOf(key)
	first := b.join(alice)
	b.table = NewTable([32]byte{8}, Limits{})
	b.relay = b.table.Relay(service, key, b.relay.isMember)
	b.now = b.now.Add(refreshEvery)
	b.settle(alice, alice.Tick(b.now))
	if again, _, ok := alice.Held(b.self); !ok || again != first || b.table.Stats().Allocations.Load() != 1 {
		t.Errorf("after a restart %v is %v, held %v", first, again, ok)
	}
}

func TestQuotas(t *testing.T) {
	b := newBench(t, Limits{Rate: 1000, Burst: 2000, TotalRate: 1500, TotalBurst: 3000})
	alice, bob, carol := b.member("198.51.100.1:4500"), b.member("203.0.113.9:61000"), b.member("203.0.113.10:4500")
	a, c, d := b.join(alice), b.join(bob), b.join(carol)
	kilo := func(from *member, to, own ID) underlay.Message {
		return datagram(from.addr, append(appendHeader(nil, to, own), make([]byte, 1000-HeaderLen)...))
	}
	if out := b.forward(kilo(alice, c, a), kilo(alice, c, a), kilo(alice, c, a)); len(out) != 2 || b.table.Stats().Dropped(DropQuota) != 1 {
		t.Fatalf("%d pass, of a burst of two", len(out))
	}
	// Another's quota is its own, what there is in all is not.
	if out := b.forward(kilo(carol, c, d), kilo(carol, c, d)); len(out) != 1 || b.table.Stats().Dropped(DropTotal) != 1 {
		t.Fatalf("%d pass", len(out))
	}
	b.now = b.now.Add(time.Second)
	if out := b.forward(kilo(alice, c, a), kilo(alice, c, a)); len(out) != 1 {
		t.Errorf("%d pass after a second", len(out))
	}
	// However the time is cut, the rate is the rate.
	sent := 0
	for range 100_000 {
		b.now = b.now.Add(100 * time.Microsecond)
		sent += len(b.forward(datagram(alice.addr, append(appendHeader(nil, c, a), make([]byte, 1)...))))
	}
	if got := sent * (HeaderLen + 1); got < 9_900 || got > 10_100 {
		t.Errorf("%d bytes in ten seconds of 1000", got)
	}
}

func TestAFullTableMakesRoomForNobodyButTime(t *testing.T) {
	b := newBench(t, Limits{Allocations: 2})
	alice, bob, carol := b.member("198.51.100.1:4500"), b.member("203.0.113.9:61000"), b.member("203.0.113.10:4500")
	b.join(alice)
	b.join(bob)
	_, lost := b.settle(carol, carol.Want(b.now, b.self, at, b.now.Add(time.Hour)))
	if len(lost) != 1 || b.table.Stats().Requested(Full) != 1 {
		t.Errorf("a full relay says so: lost %v", lost)
	}
	b.now = b.now.Add(refreshEvery)
	b.settle(alice, alice.Tick(b.now)) // those who are there stay
	b.now = b.now.Add(Life - refreshEvery)
	b.join(carol)
	if _, _, ok := alice.Held(b.self); !ok || b.table.Stats().Allocations.Load() != 2 {
		t.Errorf("%d allocations", b.table.Stats().Allocations.Load())
	}
}

// shared is a table of two services with some allocations each, numbered from 0.
func shared(l Limits, held ...int) (t *Table, parts []*part, hold func(service, n int) bool) {
	t = NewTable([32]byte{7}, l)
	for s := range held {
		parts = append(parts, t.part(id.ID{byte(s + 1)}))
	}
	hold = func(s, n int) bool {
		return t.hold(t0, ID{byte(s + 1), byte(n)}, parts[s], id.ID{byte(s + 1), byte(n)}, sharedAddr(s, n))
	}
	for s, n := range held {
		for i := range n {
			hold(s, i)
		}
	}
	return t, parts, hold
}

func sharedAddr(service, n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(service), byte(n)}), 4500)
}

func TestAServiceDoesNotTakeTheAllocationsOfAnother(t *testing.T) {
	table, parts, hold := shared(Limits{Allocations: 64}, 64, 0)
	if parts[0].held != 48 {
		t.Errorf("the first service holds %d of 64, want all but the other's part", parts[0].held)
	}
	for i := range 16 {
		if !hold(1, i) {
			t.Fatalf("the other service's member %d gets no allocation", i)
		}
	}
	if hold(1, 16) || hold(0, 100) || len(table.of) != 64 {
		t.Errorf("%d allocations of 64", len(table.of))
	}
	// What has ended makes room, whoever had it.
	if !table.hold(t0.Add(Life), ID{9}, parts[1], id.ID{9}, at) || parts[0].held != 0 || parts[1].held != 1 {
		t.Errorf("%d and %d are held after all have ended", parts[0].held, parts[1].held)
	}
	if _, parts, _ = shared(Limits{Allocations: 64}, 65); parts[0].held != 64 {
		t.Errorf("a service alone holds %d of 64", parts[0].held)
	}
}

func TestAServiceDoesNotTakeTheRateOfAnother(t *testing.T) {
	const size = 1000
	table, _, _ := shared(Limits{Rate: 1 << 30, Burst: 1 << 30, TotalRate: 100 * size, TotalBurst: 80 * size}, 2, 2)
	// passes says how much of n datagrams of a service is relayed.
	passes := func(now time.Time, s, n int) (passed int) {
		b := append(appendHeader(nil, ID{byte(s + 1), 1}, ID{byte(s + 1), 0}), make([]byte, size-HeaderLen)...)
		for range n {
			table.Forward(now, []underlay.Message{datagram(sharedAddr(s, 0), b)}, func(ms []underlay.Message) (int, error) { passed += len(ms); return len(ms), nil })
		}
		return passed
	}
	if n := passes(t0, 0, 1000); n != 60 {
		t.Errorf("a service that floods has a burst of %d, want half and its part of the other half", n)
	}
	if n := passes(t0, 1, 1000); n != 20 {
		t.Errorf("beside it the other one has a burst of %d, want its part", n)
	}
	// Both in a flood, one always first: the second one has its part, a quarter. Alone the
	// first one has all, once the half that nobody may touch is full again.
	first, second := 0, 0
	for i := range 1000 {
		now := t0.Add(time.Duration(i+1) * 10 * time.Millisecond)
		first, second = first+passes(now, 0, 10), second+passes(now, 1, 10)
	}
	if first < 700 || first > 760 || second < 240 || second > 260 {
		t.Errorf("%d and %d in ten seconds of 100", first, second)
	}
	first = 0
	for i := range 1000 {
		first += passes(t0.Add(10*time.Second+time.Duration(i+1)*10*time.Millisecond), 0, 10)
	}
	if first < 980 {
		t.Errorf("a service whose neighbour is silent has %d in ten seconds of 100", first)
	}
	if n := passes(t0.Add(20*time.Second), 1, 1000); n != 20 {
		t.Errorf("and then its neighbour has a burst of %d", n)
	}
}

func TestSignaturesAreBounded(t *testing.T) {
	b := newBench(t, Limits{})
	m := b.member("198.51.100.1:4500")
	q, _ := parseQuery(m.Receive(b.now, at, b.relay.Answer(b.now, m.Want(b.now, b.self, at, b.now.Add(time.Hour)).Send[0].Payload, m.addr)).Send[0].Payload)
	q.Sig = make([]byte, 64)
	bad := encode(q)
	for range 2 * networkBurst {
		b.relay.Answer(b.now, bad, m.addr)
	}
	if s := b.table.Stats(); s.Requested(Unproved) != networkBurst || s.Requested(Limited) != networkBurst {
		t.Errorf("%d looked at, %d not", s.Requested(Unproved), s.Requested(Limited))
	}
	// One that was granted a moment ago costs no signature, and gains no time.
	other := b.member("203.0.113.1:1")
	b.join(other)
	q.Key, q.Token = other.cfg.Key.Public().(ed25519.PublicKey), other.of[b.self].token
	if a, ok := parseAnswer(b.relay.Answer(b.now.Add(refreshEvery/2-1), encode(q), other.addr)); !ok || a.Status != statusHeld {
		t.Errorf("repeated at once: %v, %v", a.Status, ok)
	}
	if b.relay.Answer(b.now.Add(refreshEvery/2), encode(q), other.addr) != nil {
		t.Error("a bad signature is answered later")
	}
	if n := len(b.table.of); n != 1 || !b.table.of[allocationOf(b.relay.key, service, pidOf(other.cfg.Key))].expires.Equal(b.now.Add(Life)) {
		t.Error("an allocation was prolonged without a signature")
	}
}

func TestNobodyAsksThroughARelay(t *testing.T) {
	b := newBench(t, Limits{})
	m := b.member("198.51.100.1:4500")
	q := m.Want(b.now, b.self, at, b.now.Add(time.Hour)).Send[0]
	if b.relay.Answer(b.now, q.Payload, virtual(ID{5}, 1)) != nil || b.table.Stats().Requested(Malformed) != 1 {
		t.Error("a question that came through a relay is answered")
	}
}

func TestSilentRelayIsLostAndUnwantedOneLetGo(t *testing.T) {
	b := newBench(t, Limits{})
	m := b.member("198.51.100.1:4500")
	b.settle(m, m.Want(b.now, b.self, at, b.now.Add(time.Minute)))
	v, _ := m.conn.Virtual(at, ID{5})
	var out Output
	asked := 0
	for len(out.Lost) == 0 { // it is dead now
		b.now = m.Deadline()
		out = m.Tick(b.now)
		asked += len(out.Send)
		if b.now.Sub(t0) > Life {
			t.Fatal("never lost")
		}
	}
	if took := b.now.Sub(t0); asked != len(askWaits) || took != refreshEvery+9500*time.Millisecond {
		t.Errorf("lost after %v, asked %d times", took, asked)
	}
	if _, _, ok := m.conn.Resolve(v); ok {
		t.Error("there is a way through a lost relay")
	}
	ms := []underlay.Message{{Buf: []byte{1}, N: 1, Addr: v}, {Buf: []byte{2}, N: 1, Addr: at}}
	if n, err := m.conn.WriteBatch(ms); n != 1 || err != nil || ms[0].Err != ErrNoAllocation || ms[1].Err != nil {
		t.Errorf("sent %d, %v, %v", n, err, ms[0].Err)
	}
	b.settle(m, m.Want(b.now, b.self, at, b.now.Add(time.Minute)))
	if again, _ := m.conn.Virtual(at, ID{5}); again == v {
		t.Error("a virtual address was given out again")
	}
	b.now = b.now.Add(time.Minute)
	if out := m.Tick(b.now); len(out.Send)+len(out.Lost) != 0 || !m.Deadline().IsZero() {
		t.Errorf("what nobody wants is asked for: %+v", out)
	}
}

// TestAnswersOfOthersAreIgnored: another address, another question, one too many.
func TestAnswersOfOthersAreIgnored(t *testing.T) {
	b := newBench(t, Limits{})
	m := b.member("198.51.100.1:4500")
	q := m.Want(b.now, b.self, at, b.now.Add(time.Hour)).Send[0]
	a := b.relay.Answer(b.now, q.Payload, m.addr)
	wrong := bytes.Clone(a)
	wrong[3] ^= 1 // tx
	for _, out := range []Output{m.Receive(b.now, netip.MustParseAddrPort("192.0.2.2:4500"), a), m.Receive(b.now, at, wrong), m.Receive(b.now, at, q.Payload)} {
		if len(out.Send) != 0 {
			t.Error("an answer of somebody else counts")
		}
	}
	if out := m.Receive(b.now, at, a); len(out.Send) != 1 {
		t.Error("the answer does not count")
	}
	if out := m.Receive(b.now, at, a); len(out.Send) != 0 {
		t.Error("an answer counts twice")
	}
	// The name of no allocation is none.
	nobody := answer{Ver: version, Tx: make([]byte, txLen), Status: statusHeld, Token: make([]byte, tokenLen), Allocation: make([]byte, idLen)}
	if IsAnswer(wire.Marshal(nobody)) {
		t.Error("the zero ID is held")
	}
	// A relay that asks for proof for ever is given up.
	var lost []id.ID
	for q := m.Tick(b.now.Add(time.Second)).Send; len(lost) == 0; {
		sent, _ := parseQuery(q[0].Payload)
		out := m.Receive(b.now, at, wire.Marshal(answer{Ver: version, Tx: sent.Tx, Status: statusProve, Token: make([]byte, tokenLen), Allocation: []byte{}}))
		lost, q = out.Lost, out.Send
	}
}

// TestTrainsOfSeveralKinds: the kernel joins what has one sender and one length.
func TestTrainsOfSeveralKinds(t *testing.T) {
	b := newBench(t, Limits{})
	m := b.member("198.51.100.1:4500")
	own := b.join(m)
	piece := func(to, from ID, text string) []byte { return append(appendHeader(nil, to, from), text...) }
	train := slices.Concat(piece(own, ID{5}, "a1"), piece(own, ID{5}, "a2"), piece(own, ID{6}, "b1"), piece(ID{9}, ID{7}, "x1"), piece(ID{9}, ID{7}, "x2"), piece(own, ID{5}, "a3"), piece(own, ID{5}, "4"))
	m.net.queue = []underlay.Message{
		{Buf: train, Segment: HeaderLen + 2, Addr: at, TOS: 3},
		datagram(at, piece(own, ID{5}, "single")),
		datagram(netip.MustParseAddrPort("192.0.2.2:4500"), piece(own, ID{5}, "of another relay")),
		datagram(virtual(ID{5}, 1), []byte("nobody has this address")),
	}
	r := m.conn.Readers()[0]
	var got []string
	for {
		ms := underlay.NewBatch(4, underlay.TrainBuffer)
		n, err := r.ReadBatch(ms)
		if err != nil {
			break
		}
		for i := range ms[:n] {
			for _, d := range ms[i].Datagrams() {
				who := "relay"
				if IsVirtual(ms[i].Addr) {
					who = peerOf(ms[i].Addr).String()[:2]
				}
				got = append(got, who+" "+string(d[max(0, len(d)-2):]))
			}
			if ms[i].Addr.Addr() == at.Addr() && ms[i].Segment != HeaderLen+2 {
				t.Errorf("what is for the relay in us has lost its form: %d", ms[i].Segment)
			}
		}
	}
	want := []string{"05 a1", "05 a2", "05 le", "relay ay", "06 b1", "relay x1", "relay x2", "05 a3", "05 4"}
	if !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
}

func TestRefusedMessagesKeepTheirErrors(t *testing.T) {
	b := newBench(t, Limits{})
	m := b.member("198.51.100.1:4500")
	b.join(m)
	to, _ := m.conn.Virtual(at, ID{5})
	m.net.err = func(m underlay.Message) error {
		if m.N > HeaderLen+10 {
			return underlay.ErrTooLong
		}
		return nil
	}
	long := make([]byte, 11)
	ms := []underlay.Message{{Buf: long, N: 10, Addr: to}, {Buf: long, N: 11, Addr: to}, {Buf: long, N: 1, Addr: virtual(ID{5}, 999)}, {Buf: long, N: 3, Addr: to}}
	n, err := m.conn.WriteBatch(ms)
	if n != 2 || err != nil || ms[0].Err != nil || ms[1].Err != underlay.ErrTooLong || ms[2].Err != ErrNoAllocation || ms[3].Err != nil {
		t.Errorf("%d, %v: %v %v %v %v", n, err, ms[0].Err, ms[1].Err, ms[2].Err, ms[3].Err)
	}
}

func TestNothingIsAllocatedPerDatagram(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's pools forget at random")
	}
	b := newBench(t, Limits{Rate: 1 << 30, TotalRate: 1 << 30, Burst: 1 << 30, TotalBurst: 1 << 30})
	alice, bob := b.member("198.51.100.1:4500"), b.member("203.0.113.9:61000")
	a, c := b.join(alice), b.join(bob)
	ms := []underlay.Message{datagram(alice.addr, append(appendHeader(nil, c, a), make([]byte, 1000)...))}
	nowhere := func(ms []underlay.Message) (int, error) { return len(ms), nil }
	b.table.Forward(b.now, ms, nowhere)
	if n := testing.AllocsPerRun(100, func() { b.table.Forward(b.now, ms, nowhere) }); n != 0 {
		t.Errorf("a relay allocates %v times for a datagram", n)
	}
	to, _ := alice.conn.Virtual(at, c)
	alice.net.err = func(underlay.Message) error { return underlay.ErrTooLong }
	out := []underlay.Message{{Buf: make([]byte, 1000), N: 1000, Addr: to}}
	if n := testing.AllocsPerRun(100, func() { _, _ = alice.conn.WriteBatch(out) }); n != 0 {
		t.Errorf("a sender allocates %v times for a datagram", n)
	}
}

func TestMessagesAreExact(t *testing.T) {
	b := newBench(t, Limits{})
	m := b.member("198.51.100.1:4500")
	first := m.Want(b.now, b.self, at, b.now.Add(time.Hour)).Send[0].Payload
	prove := b.relay.Answer(b.now, first, m.addr)
	second := m.Receive(b.now, at, prove).Send[0].Payload
	for _, good := range [][]byte{first, second} {
		for n := range good {
			if b.relay.Answer(b.now, good[:n], m.addr) != nil {
				t.Fatalf("%d of %d bytes are answered", n, len(good))
			}
		}
		if b.relay.Answer(b.now, append(bytes.Clone(good), 0), m.addr) != nil {
			t.Error("a trailing byte is answered")
		}
	}
	if IsAnswer(first) || IsAnswer(second) || !IsAnswer(prove) || IsAnswer(prove[:len(prove)-1]) {
		t.Error("questions and answers are mixed up")
	}
	if a, ok := ParseID(ID{1, 2}.String()); !ok || a != (ID{1, 2}) {
		t.Error("an ID does not survive its text")
	}
	for _, bad := range []string{"", "01", "zz00000000000000", "010200000000000000"} {
		if _, ok := ParseID(bad); ok {
			t.Errorf("%q is an ID", bad)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	table := NewTable([32]byte{7}, Limits{})
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	relay := table.Relay(service, key, func(id.ID) bool { return true })
	h := NewHoldings(Config{Service: service, Key: key, Rand: rand.Reader, Conn: NewConn(nil)})
	from := netip.MustParseAddrPort("198.51.100.1:4500")
	first := h.Want(t0, relay.self, at, t0.Add(time.Hour)).Send[0].Payload
	prove := relay.Answer(t0, first, from)
	second := h.Receive(t0, at, prove).Send[0].Payload
	for _, b := range [][]byte{first, prove, second} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a := relay.Answer(t0, b, from)
		if a != nil && !IsAnswer(a) {
			t.Fatalf("%x is no answer", a)
		}
		if len(a) > seal.PadQuery {
			t.Fatal("an answer is longer than a padded question")
		}
		h.Receive(t0, at, b)
	})
}

// FuzzReader: whatever a relay sends, what is read is what was sent, less headers.
func FuzzReader(f *testing.F) {
	own := ID{1}
	one := append(appendHeader(nil, own, ID{2}), "abc"...)
	f.Add(slices.Concat(one, append(appendHeader(nil, own, ID{3}), "def"...), one), HeaderLen+3)
	f.Add(one, 0)
	f.Fuzz(func(t *testing.T, b []byte, segment int) {
		if len(b) == 0 || len(b) > underlay.TrainBuffer || segment < 0 || segment >= len(b) || segment > 0 && len(b)/segment > 64 {
			return
		}
		net := &sockets{queue: []underlay.Message{{Buf: b, Segment: segment, Addr: at}}}
		c := NewConn(net)
		c.setRoutes([]route{{n: 1, relay: at, own: own}})
		var want, got []string
		for _, d := range (&underlay.Message{Buf: b, N: len(b), Segment: segment}).Datagrams() {
			if to, from, ok := parseHeader(d); ok && to == own {
				want = append(want, virtual(from, 1).String()+string(d[HeaderLen:]))
			} else {
				want = append(want, at.String()+string(d))
			}
		}
		for r := c.Readers()[0]; ; {
			ms := underlay.NewBatch(1, underlay.TrainBuffer)
			n, err := r.ReadBatch(ms)
			if err != nil {
				break
			}
			for i := range ms[:n] {
				for _, d := range ms[i].Datagrams() {
					got = append(got, ms[i].Addr.String()+string(d))
				}
			}
		}
		if !slices.Equal(got, want) && marked(b) {
			t.Errorf("read %q, want %q", got, want)
		}
	})
}

// The port tells relayed datagrams apart by package underlay's constants, which has to
// know them without this package.
func TestPortKnowsTheHeader(t *testing.T) {
	head := appendHeader(nil, ID{1}, ID{2})
	if k := underlay.Classify(head); len(head) != HeaderLen || k == underlay.Relayed {
		t.Errorf("a header of %d bytes without content is %v", len(head), k)
	}
	if k := underlay.Classify(append(head, 7)); k != underlay.Relayed {
		t.Errorf("a relayed datagram is %v", k)
	}
}
