package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"icvpn/internal/id"
)

// maxHosts bounds a book to a /16: 16 bits of host number.
const maxHosts = 1 << 16

// ErrFull is returned when every address of the block is in use.
var ErrFull = errors.New("ledger: every address of the block is leased")

// RestoredError is returned while new addresses wait for the credentials that a
// restored ledger knows nothing of.
type RestoredError struct{ Until time.Time }

func (e *RestoredError) Error() string {
	return fmt.Sprintf("ledger: restored, and not all that was leased before is known: no address for machines that it does not know before %s", e.Until.UTC().Format(time.RFC3339))
}

// book leases the host numbers of one block. It is pure: no lock, no disk, no
// clock. Blocks of super peers are disjoint by the owners' signature, so no two
// of them can give one address twice.
//
// A host number goes to a PID and stays with it, also when the lease has
// lapsed, until all numbers have been given once; then the longest lapsed
// lease goes to whoever comes next. It has lapsed when the last credential with
// it has ended by more than the grace.
//
// Invariant: byPID maps to hosts whose tenant is that PID; a host is in at most
// one of running, lapsed and barred, in none of them while it is held.
type book struct {
	block netip.Prefix
	life  int64 // of a credential, at most; seconds
	grace int64 // seconds

	hosts   []tenancy // by host number; next is len(hosts), 0 is never given
	byPID   map[id.ID]uint32
	running queue[uint32] // by end of lease
	lapsed  queue[uint32] // by end of lease
	unused  []uint32      // below next, given to nobody yet
	held    int

	// After the restore of an older copy at restoredAt, until barredUntil: what
	// the lost time may have given to others is given to nobody (restored).
	restoredAt  int64
	barredUntil int64
	barred      []uint32
}

// tenancy is who had a host number last, and until when.
type tenancy struct {
	pid   id.ID
	until int64 // end of the last credential; 0: nobody had it
}

func newBook(block netip.Prefix, life, grace time.Duration) *book {
	return &book{
		block: block, life: int64(life / time.Second), grace: int64(grace / time.Second),
		hosts: make([]tenancy, 1, 64), byPID: map[id.ID]uint32{},
	}
}

// size is the number of addresses in the block, without the first and last,
// which could be taken for the network's and broadcast addresses.
func (b *book) size() int {
	return max(0, int(min(uint64(1)<<(32-b.block.Bits()), maxHosts))-2)
}

// taken counts the leases that have not lapsed, and those under way.
func (b *book) taken() int { return b.running.Len() + b.held }

// hold is a host number on its way to a PID, until confirm or undo.
type hold struct {
	host uint32
	was  tenancy // before
}

// take holds a host number for pid: its own, a new one, or the longest lapsed.
func (b *book) take(pid id.ID, now int64) (hold, error) {
	b.advance(now)
	host, ok := b.byPID[pid]
	if !ok {
		if host, ok = b.free(now); !ok {
			if now < b.barredUntil {
				return hold{}, &RestoredError{time.Unix(b.barredUntil, 0)}
			}
			return hold{}, ErrFull
		}
	}
	h := hold{host: host, was: b.hosts[host]}
	b.running.Remove(host)
	b.lapsed.Remove(host)
	if b.byPID[h.was.pid] == host {
		delete(b.byPID, h.was.pid)
	}
	b.held++
	return h, nil
}

// free finds a host number for a PID that has none.
func (b *book) free(now int64) (uint32, bool) {
	if now < b.barredUntil {
		return 0, false
	}
	for n := len(b.unused); n > 0; n = len(b.unused) {
		host := b.unused[n-1]
		b.unused = b.unused[:n-1]
		if b.hosts[host].until == 0 { // not adopted meanwhile
			return host, true
		}
	}
	if len(b.hosts) <= b.size() {
		b.hosts = append(b.hosts, tenancy{})
		return uint32(len(b.hosts) - 1), true
	}
	host, _, ok := b.lapsed.Min()
	return host, ok
}

// confirm gives a held host number to pid until the end of its credential. A
// lease is never shortened: an earlier credential may live longer.
func (b *book) confirm(h hold, pid id.ID, until int64) {
	b.held--
	if h.was.pid == pid {
		until = max(until, h.was.until)
	}
	b.set(h.host, tenancy{pid, until})
}

// until is what confirm will make the end of the lease.
func (h hold) until(pid id.ID, until int64) int64 {
	if h.was.pid == pid {
		return max(until, h.was.until)
	}
	return until
}

// undo gives a held host number back as it was.
func (b *book) undo(h hold) {
	b.held--
	if h.was.until == 0 {
		b.unused = append(b.unused, h.host)
		return
	}
	b.set(h.host, h.was)
}

// set enters a tenancy. Its PID may have got another host meanwhile, when this
// one was on its way to somebody else: the longer lease is the one it keeps.
func (b *book) set(host uint32, t tenancy) {
	b.hosts[host] = t
	b.lapsed.Remove(host)
	b.running.Set(host, t.until)
	if other, ok := b.byPID[t.pid]; !ok || b.hosts[other].until <= t.until {
		b.byPID[t.pid] = host
	}
}

// advance moves on what has lapsed. Each lease moves once for each time that it
// was renewed.
func (b *book) advance(now int64) {
	if b.barred != nil && now >= b.barredUntil {
		for _, host := range b.barred {
			if !b.running.Has(host) { // adopted meanwhile
				b.lapsed.Set(host, b.hosts[host].until)
			}
		}
		b.barred = nil
	}
	for {
		host, until, ok := b.running.Min()
		if !ok || until+b.grace > now {
			return
		}
		b.running.Remove(host)
		b.lapsed.Set(host, until)
	}
}

// load enters a lease from the disk. Loaded must follow.
func (b *book) load(addr netip.Addr, t tenancy) error {
	host, ok := b.host(addr)
	if !ok {
		return fmt.Errorf("lease of %s lies outside block %s", addr, b.block)
	}
	b.grow(host)
	b.set(host, t)
	return nil
}

// grow makes room up to host, used by nobody.
func (b *book) grow(host uint32) {
	for uint32(len(b.hosts)) <= host {
		b.unused = append(b.unused, uint32(len(b.hosts)))
		b.hosts = append(b.hosts, tenancy{})
	}
}

// loaded ends loading: numbers that were on their way when the process ended
// were given to nobody.
func (b *book) loaded() {
	b.unused = b.unused[:0]
	for host := uint32(len(b.hosts)) - 1; host > 0; host-- {
		if b.hosts[host].until == 0 {
			b.unused = append(b.unused, host)
		}
	}
}

// restored says that the book is an older copy, put back at restoredAt. For as
// long as a credential of the lost time may live:
//
//   - a lease that had not lapsed by restoredAt had not lapsed in the lost time
//     either, since leases only grow: nobody else has it, and its PID keeps it.
//     It may have grown in the lost time, so nobody else gets it when it lapses;
//   - one that had lapsed may have gone to somebody else in the lost time: nobody
//     gets it, its former PID neither;
//   - a number that the copy has never given may have been given in the lost
//     time, by the hundred a second: nobody gets it.
//
// So machines that the copy knows go on, and new ones wait, or go to another
// super peer.
func (b *book) restored(restoredAt int64) {
	b.restoredAt, b.barredUntil = restoredAt, restoredAt+b.life+b.grace
	for host := 1; host < len(b.hosts); host++ {
		t := b.hosts[host]
		if t.until == 0 || t.until+b.grace > restoredAt {
			continue
		}
		b.running.Remove(uint32(host))
		b.lapsed.Remove(uint32(host))
		b.barred = append(b.barred, uint32(host))
		if b.byPID[t.pid] == uint32(host) {
			delete(b.byPID, t.pid)
		}
	}
}

func (b *book) host(addr netip.Addr) (uint32, bool) {
	if !addr.Is4() || !b.block.Contains(addr) {
		return 0, false
	}
	host := number(addr) - number(b.block.Masked().Addr())
	return host, host > 0 && host <= uint32(b.size())
}

func (b *book) address(host uint32) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], number(b.block.Masked().Addr())+host)
	return netip.AddrFrom4(a)
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
