package ledger

import (
	"container/list"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Config says whose ledger it is.
type Config struct {
	Service   id.ID
	SuperPeer id.ID
	// Block is where addresses come from. Leases outside it are dropped: the
	// owner gave the block to somebody else, and every verifier knows.
	Block netip.Prefix
	// Life is the longest that a credential lasts.
	Life time.Duration
	// Grace is how long after the end of its last credential an address stays
	// with its PID: verifiers' clocks may be slow.
	Grace time.Duration
}

// Ledger is an open ledger. Safe for concurrent use.
type Ledger struct {
	// set at start
	cfg   Config
	place *place
	fault func(step string) error // tests break off here; nil otherwise

	writes writes

	mu      sync.Mutex
	book    *book
	members map[id.ID]*Entry
	ends    queue[id.ID] // members by end of credential
	secrets map[string]*usage
	pending map[id.ID]chan struct{} // PIDs with a Reservation; closed at its end
	tickets map[[16]byte]Ticket
	spent   queue[[16]byte] // tickets by end
	dropped [][16]byte      // forgotten, and on disk still
	tombs   map[id.ID]Tombstone
	fading  queue[id.ID] // tombstones by end
	marks   map[string]uint64
	shards  map[uint32]*shard
	changes *list.List // of *shard, last changed first
	version uint64     // of the last change
	gone    []*Entry   // ended since the last Expire
}

// usage is what the members of one secret take.
type usage struct {
	uses     uint32 // admissions ever, those under way too
	members  int    // live, and under way
	underway uint32 // uses that are not on disk yet
}

// Open opens the ledger in home, and makes it if there is none. now is the
// service's time: the end of restored leases is counted from it.
func Open(home Home, cfg Config, now time.Time) (*Ledger, error) {
	l := &Ledger{
		cfg: cfg, book: newBook(cfg.Block, cfg.Life, cfg.Grace), members: map[id.ID]*Entry{}, secrets: map[string]*usage{},
		pending: map[id.ID]chan struct{}{}, tickets: map[[16]byte]Ticket{}, tombs: map[id.ID]Tombstone{},
		marks: map[string]uint64{}, shards: map[uint32]*shard{}, changes: list.New(),
	}
	p, err := home.enter(l.first)
	if err != nil {
		return nil, err
	}
	l.place = p
	if err := l.start(now); err != nil {
		_ = p.store.close()
		return nil, err
	}
	return l, nil
}

func (l *Ledger) start(now time.Time) error {
	if err := l.checkMeta(); err != nil {
		return err
	}
	if err := l.load(now.Unix()); err != nil {
		return l.place.unreadable(err)
	}
	if b, ok := l.place.store.(*bolt); ok {
		if err := b.check(); err != nil {
			return l.place.unreadable(err)
		}
	}
	return l.countOpening(now.Unix())
}

// first returns the content of a new ledger.
func (l *Ledger) first(key, former []byte) ([]op, error) {
	ops := []op{
		{bucketMeta, metaSchema, []byte{0, schema}},
		{bucketMarks, metaOwner, wire.Marshal(owner{Service: l.cfg.Service, SuperPeer: l.cfg.SuperPeer})},
	}
	if key != nil {
		ops = append(ops, op{bucketMeta, metaKey, key})
	}
	if former == nil {
		return ops, nil
	}
	moved, err := migrate(former, l.cfg.Block)
	return append(ops, moved...), err
}

// checkMeta says what is wrong with a ledger that is whole, but not ours.
func (l *Ledger) checkMeta() error {
	var version, key []byte
	err := l.place.each(bucketMeta, func(k, v []byte) error {
		switch string(k) {
		case metaSchema:
			version = slices.Clone(v)
		case metaKey:
			key = slices.Clone(v)
		}
		return nil
	})
	switch {
	case err != nil:
		return l.place.unreadable(err)
	case len(version) != 2:
		return l.place.unreadable(fmt.Errorf("%w: it has no schema", errDamaged))
	case version[0] != 0 || version[1] != schema:
		return fmt.Errorf("ledger: %s was written by another version of icvpn (schema %d, this one knows %d); use that version", l.place.name, int(version[0])<<8|int(version[1]), schema)
	case l.place.sealer != nil && string(key) != string(l.place.sealer.KeyID()):
		return fmt.Errorf("ledger: %s is sealed under another key than the state directory and was left as it is; give the key it was made with, as seal_key_file or credential", l.place.name)
	}
	return nil
}

// Close lets go of the file. Commits under way must have returned.
func (l *Ledger) Close() error { return l.place.store.close() }

// load reads everything but slots into the indexes. A visitor's error, of a
// record that opens but is not what it should be, counts as damage, too.
func (l *Ledger) load(now int64) error {
	for _, b := range []struct {
		bucket string
		visit  func(key, value []byte) error
	}{
		{bucketMarks, l.loadMark},
		{bucketLeases, l.loadLease},
		{bucketMembers, func(key, value []byte) error { return l.loadMember(key, value, now) }},
		{bucketSecrets, l.loadSecret},
		{bucketTickets, l.loadTicket},
		{bucketTombstones, l.loadTombstone},
		{bucketSlots, func([]byte, []byte) error { return nil }}, // they open
	} {
		if err := l.place.each(b.bucket, b.visit); err != nil {
			return err
		}
	}
	l.book.loaded()
	return nil
}

func (l *Ledger) loadMark(key, value []byte) error {
	if string(key) == metaOwner {
		var o owner
		if err := wire.Unmarshal(value, &o, maxRecord); err != nil {
			return err
		}
		if o.Service != l.cfg.Service || o.SuperPeer != l.cfg.SuperPeer {
			return fmt.Errorf("it belongs to super peer %s of service %s", o.SuperPeer.Short(), o.Service.Short())
		}
		return nil
	}
	v, err := parseNumber(value)
	l.marks[string(key)] = v
	return err
}

func (l *Ledger) loadLease(key, value []byte) error {
	var v lease
	if err := wire.Unmarshal(value, &v, maxRecord); err != nil {
		return err
	}
	addr, ok := netip.AddrFromSlice(key)
	if !ok {
		return fmt.Errorf("a lease has no address")
	}
	if _, within := l.book.host(addr); !within {
		return nil // of a block that was taken away
	}
	return l.book.load(addr, tenancy{v.PID, v.Until})
}

// loadMember enters who is a member still. An entry whose address is not
// leased to it, because the block changed, is none.
func (l *Ledger) loadMember(key, value []byte, now int64) error {
	e, err := parseEntry(key, value)
	if err != nil {
		return err
	}
	host, ok := l.book.host(e.Member.Addr4())
	if !ok || now >= e.Member.NotAfter || int(host) >= len(l.book.hosts) || l.book.hosts[host].pid != e.pid {
		l.gone = append(l.gone, e)
		return nil
	}
	e.host = host
	l.enter(e)
	return nil
}

func (l *Ledger) loadSecret(key, value []byte) error {
	v, err := parseNumber(value)
	l.usage(string(key)).uses = uint32(v)
	return err
}

func (l *Ledger) loadTicket(_, value []byte) error {
	var t Ticket
	if err := wire.Unmarshal(value, &t, maxRecord); err != nil {
		return err
	}
	l.tickets[t.ID] = t
	l.spent.Set(t.ID, t.Expires)
	return nil
}

func (l *Ledger) loadTombstone(_, value []byte) error {
	var t Tombstone
	if err := wire.Unmarshal(value, &t, maxRecord); err != nil {
		return err
	}
	if uint64(t.Host) <= uint64(l.book.size()) { // else of a block that was taken away
		l.bury(t)
	}
	return nil
}

// countOpening counts this opening in the ledger and then beside it. A counter
// that is ahead has seen a later ledger than this one: it is an older copy.
func (l *Ledger) countOpening(now int64) error {
	var seen uint64
	if l.place.opened != nil {
		var err error
		if seen, err = l.place.opened.Value(); err != nil {
			return err
		}
	}
	restored, is := l.marks[markRestored]
	if is = is && restored == 0; is || l.marks[markOpened] < seen {
		restored = uint64(now)
	}
	next := max(seen, l.marks[markOpened]) + 1
	err := l.commit(&change{stage: func(b *batch) {
		b.mark(markOpened, next)
		if restored != 0 {
			b.mark(markRestored, restored)
		}
	}})
	if err != nil {
		return err
	}
	if restored != 0 && now < int64(restored)+l.book.life+l.book.grace {
		l.book.restored(int64(restored))
	}
	if l.place.opened == nil {
		return nil
	}
	return l.place.opened.Raise(next)
}

// Restored returns until when an older copy, put back, gives no new addresses;
// the zero time if it is none.
func (l *Ledger) Restored(now time.Time) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Unix() >= l.book.barredUntil {
		return time.Time{}
	}
	return time.Unix(l.book.barredUntil, 0)
}

func (l *Ledger) usage(secretID string) *usage {
	u := l.secrets[secretID]
	if u == nil {
		u = new(usage)
		l.secrets[secretID] = u
	}
	return u
}

// enter makes e the entry of its PID in every index.
func (l *Ledger) enter(e *Entry) {
	l.leave(e.pid)
	l.unbury(e.pid)
	l.members[e.pid] = e
	l.ends.Set(e.pid, e.Member.NotAfter)
	l.usage(e.SecretID).members++
	l.changed(e.host).hosts[e.host] = e
	e.version = l.version
}

// leave takes the entry of a PID out of every index and returns it.
func (l *Ledger) leave(pid id.ID) *Entry {
	e := l.members[pid]
	if e == nil {
		return nil
	}
	delete(l.members, pid)
	l.ends.Remove(pid)
	l.usage(e.SecretID).members--
	if s := l.changed(e.host); s.hosts[e.host] == e {
		delete(s.hosts, e.host)
	}
	return e
}

// expire moves those whose credential has ended out of the indexes.
func (l *Ledger) expire(now int64) {
	for {
		pid, end, ok := l.ends.Min()
		if !ok || now < end {
			break
		}
		l.gone = append(l.gone, l.leave(pid))
	}
	for {
		pid, end, ok := l.fading.Min()
		if !ok || now < end {
			return
		}
		l.unbury(pid)
	}
}

// Member returns the entry of a PID, nil if it is no member.
func (l *Ledger) Member(pid id.ID) *Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.members[pid]
}

// Len returns how many members there are.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.members)
}

// Members returns all members, in no order: for people who ask. It costs as
// much as there are members.
func (l *Ledger) Members() []*Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*Entry, 0, len(l.members))
	for _, e := range l.members {
		all = append(all, e)
	}
	return all
}

// Leases returns how many addresses are leased, and how many there are.
func (l *Ledger) Leases() (taken, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.book.taken(), l.book.size()
}

// Uses returns how many admissions a secret has had.
func (l *Ledger) Uses(secretID string) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.secrets[secretID]; u != nil {
		return u.uses
	}
	return 0
}

// Expire forgets what has ended by now: members, tickets, tombstones. It
// returns the members that have ended since the last call, also with an error
// of the disk, on which they are then until the next opening. It costs what
// there is to forget. Once a minute is often enough: nothing that has ended is
// answered meanwhile, only counted.
func (l *Ledger) Expire(now time.Time) ([]*Entry, error) {
	l.mu.Lock()
	l.expire(now.Unix())
	gone := l.gone
	l.gone = nil
	for {
		t, end, ok := l.spent.Min()
		if !ok || now.Unix() < end {
			break
		}
		l.forget(t)
	}
	spent := l.dropped
	l.dropped = nil
	l.mu.Unlock()
	if len(gone) == 0 && len(spent) == 0 {
		return nil, nil
	}
	err := l.commit(&change{stage: func(b *batch) {
		for _, e := range gone {
			if l.members[e.pid] == nil && l.pending[e.pid] == nil { // not back, nor on the way
				b.add(op{bucketMembers, string(e.pid[:]), nil})
			}
		}
		for _, t := range spent {
			b.add(op{bucketTickets, string(t[:]), nil})
		}
	}})
	if err != nil {
		l.mu.Lock()
		l.dropped = append(l.dropped, spent...) // again next time
		l.mu.Unlock()
	}
	return gone, err
}

// Backup writes the whole ledger as it is at one moment, sealed as it lies on
// the disk. Writers go on meanwhile.
func (l *Ledger) Backup(w io.Writer) error { return l.place.store.writeTo(w) }
