package overlay

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"icvpn/internal/id"
)

// far returns the i-th ID of the farthest bucket of the zero ID, near one of
// the bucket next to it.
func far(i byte) id.ID  { return id.ID{0x80, i} }
func near(i byte) id.ID { return id.ID{0x40, i} }

func at(i byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 4500)
}

func fullTable() *table {
	t := newTable(id.ID{}, bucketSize)
	for i := range byte(bucketSize) {
		t.onAnswer(day.Add(time.Duration(i)*time.Second), Node{far(i), at(i)})
	}
	return t
}

func (t *table) silent(addr netip.AddrPort, times int) {
	for range times {
		t.onSilence(day, addr, day, true)
	}
}

func TestTableKeepsOldContactsAndSpares(t *testing.T) {
	tab := fullTable()
	tab.onAnswer(day, Node{far(100), at(100)})
	tab.onAnswer(day, Node{far(101), at(101)})
	if all, _ := tab.counts(); all != bucketSize {
		t.Fatalf("%d contacts", all)
	}
	if tab.wanted(Node{far(102), at(102)}) {
		t.Error("wants a newcomer although the bucket is full of living contacts")
	}
	tab.silent(at(3), 1)
	if !tab.wanted(Node{far(102), at(102)}) {
		t.Error("wants no newcomer although a contact fails")
	}
	tab.silent(at(3), maxFails-1)
	nodes := tab.nearest(nil, far(101), 99, false)
	if len(nodes) != bucketSize || nodes[0] != (Node{far(101), at(101)}) {
		t.Errorf("the newest spare did not move up: %v", nodes)
	}
	if slices.Contains(tab.nearest(nil, far(101), 99, true), nodes[0]) {
		t.Error("a spare is handed out before it has answered again")
	}
	if old := tab.due(day.Add(time.Minute), time.Minute, time.Minute, 1); len(old) != 1 || old[0] != nodes[0] {
		t.Errorf("stale = %v, want the spare to be asked first", old)
	}
}

func TestTableReplacesAFailingContactByANewcomer(t *testing.T) {
	tab := fullTable()
	tab.silent(at(5), 1)
	tab.onAnswer(day, Node{far(100), at(100)})
	nodes := tab.nearest(nil, far(100), 99, true)
	if len(nodes) != bucketSize || nodes[0].ID != far(100) || slices.Contains(nodes, Node{far(5), at(5)}) {
		t.Errorf("contacts %v", nodes)
	}
}

func TestTableForgetsTheDeadButNotWhileOffline(t *testing.T) {
	tab := newTable(id.ID{}, bucketSize)
	tab.onAnswer(day, Node{far(1), at(1)})
	for range 10 {
		tab.onSilence(day, at(1), day.Add(-time.Hour), false)
	}
	if all, answering := tab.counts(); all != 1 || answering != 0 {
		t.Fatalf("offline: %d contacts, %d answering", all, answering)
	}
	tab.onSilence(day, at(1), day.Add(time.Hour), false)
	if all, _ := tab.counts(); all != 0 {
		t.Fatal("not forgotten after a long time offline")
	}
	tab.onAnswer(day, Node{far(1), at(1)})
	tab.silent(at(1), maxFails)
	if all, _ := tab.counts(); all != 0 {
		t.Fatal("not forgotten while others answer")
	}
}

func TestTableMovesAnAddressOnlyFromASilentOne(t *testing.T) {
	tab := newTable(id.ID{}, bucketSize)
	tab.onAnswer(day, Node{far(1), at(1)})
	if old := tab.onAnswer(day, Node{far(1), at(2)}); old != at(1) {
		t.Fatalf("doubtful = %v, want the old address", old)
	}
	if got := tab.nearest(nil, far(1), 1, true); got[0].Addr != at(1) {
		t.Fatalf("an ID moved to %v although its address answers", got[0].Addr)
	}
	tab.silent(at(1), 1)
	if old := tab.onAnswer(day, Node{far(1), at(2)}); old.IsValid() {
		t.Fatalf("doubtful = %v", old)
	}
	if got := tab.nearest(nil, far(1), 9, true); len(got) != 1 || got[0].Addr != at(2) {
		t.Fatalf("after the old address fell silent: %v", got)
	}
}

func TestTableHoldsOneContactPerAddress(t *testing.T) {
	tab := newTable(id.ID{}, bucketSize)
	for i := range byte(5) {
		tab.onAnswer(day, Node{far(i), at(1)})
		tab.onAnswer(day, Node{near(i), at(1)})
	}
	if got := tab.nearest(nil, far(0), 99, false); len(got) != 1 || got[0].ID != near(4) {
		t.Errorf("contacts %v, want the last to answer", got)
	}
	tab = fullTable()
	tab.onAnswer(day, Node{far(100), at(100)}) // a spare
	tab.onAnswer(day, Node{near(1), at(100)})  // and gone
	tab.silent(at(3), maxFails)
	if got := tab.nearest(nil, far(100), 99, false); len(got) != bucketSize || got[0].ID == far(100) {
		t.Errorf("contacts %v", got)
	}
}

func TestTableNearestIsExact(t *testing.T) {
	tab := newTable(id.ID{}, bucketSize)
	var all []Node
	for i := range byte(30) {
		n := Node{id.Hash("n", []byte{i}), at(i)}
		tab.onAnswer(day, n)
	}
	for c := range tab.all {
		all = append(all, c.Node)
	}
	target := id.Hash("target")
	slices.SortFunc(all, func(a, b Node) int { return a.ID.Distance(target).Compare(b.ID.Distance(target)) })
	if got := tab.nearest(nil, target, bucketSize, true); !slices.Equal(got, all[:bucketSize]) {
		t.Errorf("nearest = %v, want %v", got, all[:bucketSize])
	}
}

func TestTableNeverHoldsItself(t *testing.T) {
	tab := newTable(near(1), bucketSize)
	tab.onAnswer(day, Node{near(1), at(1)})
	if all, _ := tab.counts(); all != 0 || tab.wanted(Node{near(1), at(1)}) {
		t.Error("the table wants its own ID")
	}
}

func TestLimiter(t *testing.T) {
	l := newLimiter[netip.Prefix](10)
	key := sourcePrefix(source.from.Addr())
	for i := range 20 {
		if l.take(day, key, false) != 0 {
			t.Fatalf("token %d refused", i)
		}
	}
	if l.take(day, sourcePrefix(source2.from.Addr()), false) == 0 {
		t.Error("a /24 got more than its burst")
	}
	if w := l.take(day, key, true); w != 100*time.Millisecond {
		t.Errorf("wait %v", w)
	}
	if w := l.take(day, key, true); w != 200*time.Millisecond {
		t.Errorf("wait in a queue %v", w)
	}
	if l.take(day, sourcePrefix(netip.MustParseAddr("198.51.100.1")), false) != 0 {
		t.Error("another prefix pays for it")
	}
	if l.take(day.Add(time.Second), key, false) != 0 {
		t.Error("no token after a second")
	}
	l.sweep(day.Add(10 * time.Second))
	if len(l.keys) != 0 {
		t.Errorf("%d full buckets kept", len(l.keys))
	}
	for i := range 2 * maxLimiterKeys {
		a := netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1})
		l.take(day, host(a), false)
	}
	if len(l.keys) > maxLimiterKeys+1 {
		t.Errorf("%d keys", len(l.keys))
	}
}

func TestProofs(t *testing.T) {
	p, q := newProofs([32]byte{1}), newProofs([32]byte{2})
	a, b := at(1), at(2)
	now := day.Add(time.Second)
	token := slices.Clone(p.writeToken(now, a))
	for name, c := range map[string]struct {
		ok   bool
		want bool
	}{
		"at once":             {p.checkToken(now, a, token), true},
		"an interval later":   {p.checkToken(now.Add(writeTokenLife), a, token), true},
		"two intervals later": {p.checkToken(now.Add(2*writeTokenLife), a, token), false},
		"another address":     {p.checkToken(now, b, token), false},
		"another port":        {p.checkToken(now, netip.AddrPortFrom(a.Addr(), 1), token), false},
		"another process":     {q.checkToken(now, a, token), false},
		"empty":               {p.checkToken(now, a, nil), false},
		"truncated":           {p.checkToken(now, a, token[:7]), false},
	} {
		if c.ok != c.want {
			t.Errorf("token %s: %v", name, c.ok)
		}
	}
	tagged := p.transaction(1<<40, a)
	if n, ok := p.untag(a, tagged); !ok || n != 1<<40 {
		t.Errorf("untag = %d, %v", n, ok)
	}
	if _, ok := p.untag(b, tagged); ok {
		t.Error("an answer from another address was accepted")
	}
	tagged[0] ^= 1
	if _, ok := p.untag(a, tagged); ok {
		t.Error("a guessed transaction was accepted")
	}
	if _, ok := p.untag(a, make([]byte, tagSize)); ok {
		t.Error("a bare tag was accepted")
	}
}

func TestTableLetsGoWhoIsNotAdmitted(t *testing.T) {
	tab := fullTable()
	for i := byte(100); i < 104; i++ {
		tab.onAnswer(day, Node{far(i), at(i)}) // spares
	}
	odd := func(n Node) bool { return n.ID[1]%2 == 1 }
	version := tab.version
	tab.readmit(day, odd)
	if all, answering := tab.counts(); all != bucketSize || answering != bucketSize/2 || tab.version == version {
		t.Fatalf("%d contacts, %d answering", all, answering)
	}
	if !tab.wanted(Node{far(105), at(105)}) {
		t.Error("there is no room for a newcomer")
	}
	tab.onAnswer(day, Node{far(0), at(0)}) // admitted again
	if _, answering := tab.counts(); answering != bucketSize/2+1 {
		t.Errorf("%d contacts answer", answering)
	}
	for range maxFails {
		tab.readmit(day, odd)
	}
	nodes := tab.nearest(nil, far(0), 99, false)
	if len(nodes) != bucketSize/2+2 || !slices.Contains(nodes, Node{far(103), at(103)}) || slices.ContainsFunc(nodes, func(n Node) bool { return !odd(n) }) {
		t.Errorf("contacts %v, want those of before and the spares that are admitted", nodes)
	}
}
