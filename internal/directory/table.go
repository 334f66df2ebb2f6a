package directory

import (
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

// Table is the members of a service as their super peers list them. It takes
// some 200 bytes a member (BenchmarkTableMemory). Safe for concurrent use.
//
// Two super peers may list one machine: it has moved, or one of them lies. The
// one that listed it first stays its holder until it lists it no more, falls
// silent, or the machine says otherwise, by its claim or a proof (Prefer); so no
// super peer can give another's member new labels.
//
// Invariant: a super peer has at most one entry for a machine. So a chain is no
// longer than the descriptor's super peers are many, whatever they list.
type Table struct {
	mu     sync.RWMutex
	svc    id.ID
	self   id.ID             // is left out
	blocks map[id.ID]*block  // by super peer
	byBase []*block          // ascending
	chains map[uint64]*Entry // by the first 64 bits of the PID; in the order of arrival
	labels map[string]*labelSet
	pids   int // distinct ones
}

// block is what one super peer lists: its shards, as arrays of host numbers.
type block struct {
	sp      service.SuperPeer
	pid     id.ID
	prefix  netip.Prefix
	expires int64 // end of its root, Unix seconds; 0: none read
	shards  map[uint32]*slots
	void    map[id.ID]Tombstone
}

// slots are the hosts of a shard.
type slots struct {
	entries [ShardHosts]*Entry
	void    []Tombstone
	soonest int64 // no entry and no tombstone ends before
}

// labelSet is one set of labels, whoever has it. Guarded by Table.mu.
type labelSet struct {
	labels map[string]string
	text   string
	users  int
}

// Entry is one member as one super peer lists it. What it says never changes: a
// newer listing makes a new one.
type Entry struct {
	next     *Entry // guarded by Table.mu
	labels   *labelSet
	block    *block
	text     string // name, VM
	notAfter int64
	issued   int64
	key      [32]byte
	pid      id.ID
	instance service.Instance
	claim    *[service.ClaimSize]byte // nil for most
	host     uint16
	name     uint8 // length of the name in text
	word     word  // guarded by Table.mu
}

// word is what is known of the machine's own word for an entry. It is found out
// once, and only where two super peers list the machine.
type word uint8

const (
	wordUnknown word = iota
	wordMissing      // no claim, or one that does not hold
	wordGiven        // its claim holds, or it has proved the entry
)

// PID returns the member's node identifier.
func (e *Entry) PID() id.ID { return e.pid }

// Issuer returns the super peer that lists the member.
func (e *Entry) Issuer() id.ID { return e.block.pid }

// Name returns the member's name.
func (e *Entry) Name() string { return e.text[:e.name] }

// Labels returns the member's labels. They are shared: nobody may change them.
func (e *Entry) Labels() map[string]string { return e.labels.labels }

// NotAfter is the end of the membership as published, in Unix seconds. A member
// that renewed may be one for longer.
func (e *Entry) NotAfter() int64 { return e.notAfter }

// Addr4 returns the leased IPv4 address.
func (e *Entry) Addr4() netip.Addr {
	a, _ := netip.AddrFromSlice(address(e.block.prefix, uint32(e.host)))
	return a
}

// Member returns the entry as a directory has it. Its labels are shared.
func (e *Entry) Member() service.Member {
	m := service.Member{
		Key: slices.Clone(e.key[:]), Name: e.Name(), VM: e.text[e.name:], Labels: e.labels.labels,
		Address4: address(e.block.prefix, uint32(e.host)), NotAfter: e.notAfter, Issued: e.issued, Instance: e.instance,
	}
	if e.claim != nil {
		m.Claim = slices.Clone(e.claim[:])
	}
	return m
}

// Diff is what a new listing changed.
type Diff struct {
	Joined  []*Entry
	Changed []*Entry // the new ones
	Gone    []*Entry
	Void    []Tombstone // those that were not there before
}

// Empty says whether nothing changed.
func (d *Diff) Empty() bool {
	return len(d.Joined)+len(d.Changed)+len(d.Gone)+len(d.Void) == 0
}

func (d *Diff) add(o Diff) {
	d.Joined = append(d.Joined, o.Joined...)
	d.Changed = append(d.Changed, o.Changed...)
	d.Gone = append(d.Gone, o.Gone...)
	d.Void = append(d.Void, o.Void...)
}

// NewTable returns an empty table of a service that leaves out self.
func NewTable(svc, self id.ID) *Table {
	return &Table{svc: svc, self: self, blocks: map[id.ID]*block{}, chains: map[uint64]*Entry{}, labels: map[string]*labelSet{}}
}

// SetIssuers adopts a descriptor: of a super peer that is not in it any more, or
// is now another in block, scope or term, everything is forgotten.
func (t *Table) SetIssuers(all []service.SuperPeer) (d Diff) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := map[id.ID]*block{}
	for _, sp := range all {
		prefix, err := netip.ParsePrefix(sp.Block4)
		if err != nil || !sp.Has(service.RoleAdmit) {
			continue
		}
		pid := sp.PID()
		if b := t.blocks[pid]; b != nil && reflect.DeepEqual(b.sp, sp) {
			now[pid] = b
			continue
		}
		now[pid] = &block{sp: sp, pid: pid, prefix: prefix, shards: map[uint32]*slots{}, void: map[id.ID]Tombstone{}}
	}
	for pid, b := range t.blocks {
		if now[pid] != b {
			for number := range b.shards {
				d.add(t.replaceLocked(b, &Shard{Number: number}))
			}
		}
	}
	t.blocks = now
	t.byBase = slices.SortedFunc(maps.Values(now), func(x, y *block) int { return x.prefix.Addr().Compare(y.prefix.Addr()) })
	return d
}

// SetExpires notes until when issuer is heard: the end of its root.
func (t *Table) SetExpires(issuer id.ID, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.blocks[issuer]; b != nil {
		b.expires = at
	}
}

// Replace takes in a shard of issuer: who is not in it any more is forgotten.
func (t *Table) Replace(issuer id.ID, s *Shard) Diff {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.blocks[issuer]; b != nil {
		return t.replaceLocked(b, s)
	}
	return Diff{}
}

func (t *Table) replaceLocked(b *block, s *Shard) (d Diff) {
	at := b.shards[s.Number]
	if at == nil {
		if len(s.Members)+len(s.Tombstones) == 0 {
			return d
		}
		at = new(slots)
		b.shards[s.Number] = at
	}
	d.Void = b.setVoid(at, s.Tombstones)
	listed := [ShardHosts]*service.Member{}
	for i := range s.Members {
		if host, ok := HostOf(b.prefix, s.Members[i].Addr4()); ok && ShardOf(host) == s.Number {
			listed[host%ShardHosts] = &s.Members[i]
		}
	}
	// Who is gone goes first: a machine may have moved within the shard.
	for i, old := range at.entries {
		if old != nil && (listed[i] == nil || listed[i].PID() != old.pid) {
			t.setLocked(b, uint32(old.host), &at.entries[i], nil, &d)
		}
	}
	for i, m := range listed {
		t.setLocked(b, s.Number<<shardBits|uint32(i), &at.entries[i], m, &d) //nolint:gosec // below 64
	}
	at.settle()
	if at.empty() {
		delete(b.shards, s.Number)
	}
	return d
}

// Learn takes in some members that issuer vouches for; it says nothing about
// others. What the table has is kept unless it ends earlier.
func (t *Table) Learn(issuer id.ID, members []service.Member) (d Diff) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.blocks[issuer]
	if b == nil {
		return d
	}
	for i := range members {
		m := &members[i]
		host, ok := HostOf(b.prefix, m.Addr4())
		if v, void := b.void[m.PID()]; !ok || void && m.Issued <= v.Issued {
			continue
		}
		at := b.shards[ShardOf(host)]
		if at == nil {
			at = new(slots)
			b.shards[ShardOf(host)] = at
		}
		if old := at.entries[host%ShardHosts]; old == nil || old.notAfter < m.NotAfter {
			t.setLocked(b, host, &at.entries[host%ShardHosts], m, &d)
			at.settle()
		}
	}
	return d
}

// setLocked puts m, nil for nobody, into a slot and notes what that changes.
func (t *Table) setLocked(b *block, host uint32, slot **Entry, m *service.Member, d *Diff) {
	old := *slot
	if m != nil && m.PID() == t.self {
		m = nil
	}
	switch {
	case m == nil && old == nil:
	case m == nil:
		t.unlink(old)
		*slot = nil
		d.Gone = append(d.Gone, old)
	case old == nil || old.pid != m.PID():
		if !t.displace(b, host, m, d) {
			return
		}
		if old != nil {
			t.unlink(old)
			d.Gone = append(d.Gone, old)
		}
		*slot = t.newEntry(b, host, m)
		t.link(*slot)
		t.contest(*slot)
		d.Joined = append(d.Joined, *slot)
	case !old.says(m):
		e := t.newEntry(b, host, m)
		t.swap(old, e)
		t.contest(e)
		*slot = e
		d.Changed = append(d.Changed, e)
	}
}

// displace forgets what b lists of the machine at another host than m's, and says
// whether m may take its place: unless that admission is the later one. Of two in
// one second the one that was read last stays, since an address that is given up
// is gone from its shard with the next reading.
func (t *Table) displace(b *block, host uint32, m *service.Member, d *Diff) bool {
	pid := m.PID()
	for e := t.chains[prefixOf(pid)]; e != nil; e = e.next {
		if e.block != b || e.pid != pid {
			continue
		}
		if e.issued > m.Issued {
			return false
		}
		number := ShardOf(uint32(e.host))
		at := b.shards[number]
		t.setLocked(b, uint32(e.host), &at.entries[e.host%ShardHosts], nil, d)
		at.settle()
		if number != ShardOf(host) && at.empty() {
			delete(b.shards, number)
		}
		return true
	}
	return true
}

// says whether m adds nothing to e.
func (e *Entry) says(m *service.Member) bool {
	return e.notAfter == m.NotAfter && e.sameClaim(m.Claim) && e.issued == m.Issued && e.instance == m.Instance && e.Name() == m.Name &&
		e.text[e.name:] == m.VM && maps.Equal(e.labels.labels, m.Labels)
}

func (e *Entry) sameClaim(c service.Claim) bool {
	return e.claim == nil && len(c) == 0 || e.claim != nil && string(e.claim[:]) == string(c)
}

func (t *Table) newEntry(b *block, host uint32, m *service.Member) *Entry {
	e := &Entry{
		labels: t.intern(m.Labels), block: b, text: m.Name + m.VM, notAfter: m.NotAfter, issued: m.Issued, key: [32]byte(m.Key),
		pid: m.PID(), instance: m.Instance, host: uint16(host), name: uint8(len(m.Name)), //nolint:gosec // both checked by HostOf and Vouched
	}
	if len(m.Claim) == service.ClaimSize {
		e.claim = (*[service.ClaimSize]byte)(slices.Clone(m.Claim))
	}
	return e
}

// intern returns the one copy of a set of labels.
func (t *Table) intern(labels map[string]string) *labelSet {
	text := service.LabelText(labels)
	set := t.labels[text]
	if set == nil {
		set = &labelSet{labels: maps.Clone(labels), text: text}
		t.labels[text] = set
	}
	set.users++
	return set
}

func (t *Table) drop(set *labelSet) {
	if set.users--; set.users == 0 {
		delete(t.labels, set.text)
	}
}

func prefixOf(pid id.ID) uint64 { return binary.BigEndian.Uint64(pid[:8]) }

// link appends e to its chain: who was listed first stays first.
func (t *Table) link(e *Entry) {
	first := t.chains[prefixOf(e.pid)]
	known := false
	if first == nil {
		t.chains[prefixOf(e.pid)] = e
	} else {
		last := first
		for at := first; at != nil; at = at.next {
			known = known || at.pid == e.pid
			last = at
		}
		last.next = e
	}
	if !known {
		t.pids++
	}
}

func (t *Table) unlink(e *Entry) {
	t.drop(e.labels)
	others := false
	var before *Entry
	for at := t.chains[prefixOf(e.pid)]; at != nil; at = at.next {
		if at.next == e {
			before = at
		}
		others = others || at != e && at.pid == e.pid
	}
	switch {
	case before != nil:
		before.next = e.next
	case e.next != nil:
		t.chains[prefixOf(e.pid)] = e.next
	default:
		delete(t.chains, prefixOf(e.pid))
	}
	if !others {
		t.pids--
	}
}

// swap puts e into old's place.
func (t *Table) swap(old, e *Entry) {
	t.drop(old.labels)
	e.next = old.next
	first := t.chains[prefixOf(e.pid)]
	if first == old {
		t.chains[prefixOf(e.pid)] = e
		return
	}
	for at := first; at != nil; at = at.next {
		if at.next == old {
			at.next = e
			return
		}
	}
}

// contest puts e before what others list of the machine if the machine itself
// asked for e last. A listing without its word is no rival, whenever it says the
// admission was.
func (t *Table) contest(e *Entry) {
	first := t.chains[prefixOf(e.pid)]
	if e.claim == nil || first == e && e.next == nil {
		return
	}
	m := e.Member()
	for o := first; o != nil; o = o.next {
		if o != e && o.pid == e.pid && !m.LaterThan(o.Member()) && t.hasWord(o) {
			return
		}
	}
	if t.hasWord(e) {
		t.prefer(e.pid, e.block.pid)
	}
}

// hasWord says whether the machine itself stands for e.
func (t *Table) hasWord(e *Entry) bool {
	if e.word == wordUnknown {
		e.word = wordMissing
		if e.claim != nil && e.Member().Claimed(t.svc, e.block.pid) {
			e.word = wordGiven
		}
	}
	return e.word == wordGiven
}

// setVoid replaces a shard's tombstones and returns the new ones.
func (b *block) setVoid(at *slots, all []Tombstone) (fresh []Tombstone) {
	for _, v := range at.void {
		delete(b.void, v.PID)
	}
	for _, v := range all {
		if !slices.Contains(at.void, v) {
			fresh = append(fresh, v)
		}
		b.void[v.PID] = v
	}
	at.void = all
	return fresh
}

// settle notes when something in the shard ends.
func (at *slots) settle() {
	at.soonest = 1<<63 - 1
	for _, e := range at.entries {
		if e != nil {
			at.soonest = min(at.soonest, e.notAfter)
		}
	}
	for _, v := range at.void {
		at.soonest = min(at.soonest, v.Until)
	}
}

func (at *slots) empty() bool { return at.entries == [ShardHosts]*Entry{} && len(at.void) == 0 }

// Expire forgets what has ended. A shard in which nothing has costs one look.
func (t *Table) Expire(now time.Time) (d Diff) {
	unix := now.Unix()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.blocks {
		for number, at := range b.shards {
			if unix < at.soonest {
				continue
			}
			for i, e := range at.entries {
				if e != nil && unix >= e.notAfter {
					t.setLocked(b, uint32(e.host), &at.entries[i], nil, &d)
				}
			}
			b.setVoid(at, slices.DeleteFunc(slices.Clone(at.void), func(v Tombstone) bool { return unix >= v.Until }))
			at.settle()
			if at.empty() {
				delete(b.shards, number)
			}
		}
	}
	return d
}

// Tombstone returns what issuer says of the end of an admission of pid at a time,
// in Unix seconds.
func (t *Table) Tombstone(issuer, pid id.ID, issued int64) (Tombstone, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b := t.blocks[issuer]
	if b == nil {
		return Tombstone{}, false
	}
	v, ok := b.void[pid]
	return v, ok && issued <= v.Issued
}

// Has says whether anybody lists a machine.
func (t *Table) Has(pid id.ID) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for e := t.chains[prefixOf(pid)]; e != nil; e = e.next {
		if e.pid == pid {
			return true
		}
	}
	return false
}

// Len is the number of machines.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.pids
}

// Entries returns what is said of a machine, its holder's word first.
func (t *Table) Entries(pid id.ID, now time.Time) (all []*Entry) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return entriesOf(t.chains[prefixOf(pid)], pid, now.Unix())
}

// entriesOf returns the valid entries of pid in a chain: those of silent super
// peers come last.
func entriesOf(chain *Entry, pid id.ID, unix int64) (all []*Entry) {
	for e := chain; e != nil; e = e.next {
		if e.pid == pid && unix < e.notAfter {
			all = append(all, e)
		}
	}
	if len(all) > 1 {
		slices.SortStableFunc(all, func(a, b *Entry) int { return cmp.Compare(a.block.silence(unix), b.block.silence(unix)) })
	}
	return all
}

// silence is 1 for a super peer whose last root has ended, 0 otherwise.
func (b *block) silence(unix int64) int {
	if b.expires != 0 && unix >= b.expires {
		return 1
	}
	return 0
}

// Silent says whether issuer's last root has ended.
func (t *Table) Silent(issuer id.ID, now time.Time) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b := t.blocks[issuer]
	return b != nil && b.silence(now.Unix()) == 1
}

// At returns who is listed at an IPv4 address, and the super peer and shard that
// would list it; ok is false for an address in nobody's block.
func (t *Table) At(a netip.Addr) (e *Entry, issuer id.ID, shard uint32, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i, exact := slices.BinarySearchFunc(t.byBase, a, func(b *block, a netip.Addr) int { return b.prefix.Addr().Compare(a) })
	if !exact {
		i--
	}
	if i < 0 {
		return nil, id.ID{}, 0, false
	}
	b := t.byBase[i]
	host, ok := HostOf(b.prefix, a)
	if !ok {
		return nil, id.ID{}, 0, false
	}
	if at := b.shards[ShardOf(host)]; at != nil {
		e = at.entries[host%ShardHosts]
	}
	return e, b.pid, ShardOf(host), true
}

// ByPrefix returns a machine whose PID begins with these 64 bits, which an IPv6
// address carries. Of two, which takes 2^64 keys to make, it is the one with the
// smaller PID, everywhere.
func (t *Table) ByPrefix(bits uint64) (first *Entry) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for e := t.chains[bits]; e != nil; e = e.next {
		if first == nil || e.pid.Compare(first.pid) < 0 {
			first = e
		}
	}
	return first
}

// Prefer makes issuer the holder of a machine that has proved its word.
func (t *Table) Prefer(pid, issuer id.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A claim that does not hold stays one: its time is not the machine's.
	if e := t.prefer(pid, issuer); e != nil && e.claim == nil {
		e.word = wordGiven
	}
}

// prefer puts issuer's entry first and returns it.
func (t *Table) prefer(pid, issuer id.ID) *Entry {
	var before *Entry
	for e := t.chains[prefixOf(pid)]; e != nil; before, e = e, e.next {
		if e.pid == pid && e.block.pid == issuer {
			if before != nil {
				before.next, e.next = e.next, t.chains[prefixOf(pid)]
				t.chains[prefixOf(pid)] = e
			}
			return e
		}
	}
	return nil
}

// Members returns one entry for each machine, its holder's, in no order.
func (t *Table) Members(now time.Time) []*Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	unix := now.Unix()
	all := make([]*Entry, 0, t.pids)
	for _, chain := range t.chains {
		if chain.next == nil {
			if unix < chain.notAfter {
				all = append(all, chain)
			}
			continue
		}
		seen := map[id.ID]bool{}
		for e := chain; e != nil; e = e.next {
			if !seen[e.pid] {
				seen[e.pid] = true
				all = append(all, entriesOf(chain, e.pid, unix)[:min(1, len(entriesOf(chain, e.pid, unix)))]...)
			}
		}
	}
	return all
}

// ListedBy returns what one super peer lists, in no order.
func (t *Table) ListedBy(issuer id.ID, now time.Time) (all []*Entry) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b := t.blocks[issuer]
	if b == nil {
		return nil
	}
	for _, at := range b.shards {
		for _, e := range at.entries {
			if e != nil && now.Unix() < e.notAfter {
				all = append(all, e)
			}
		}
	}
	return all
}
