package ledger

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"slices"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// KeepSlot keeps a prepared slot over restarts. Whoever gives it away names its
// key in the Grant.
func (l *Ledger) KeepSlot(key, value []byte) error {
	return l.commit(&change{stage: func(b *batch) { b.add(op{bucketSlots, string(key), value}) }})
}

// ForgetSlots forgets slots that nobody is to get any more.
func (l *Ledger) ForgetSlots(keys ...[]byte) error {
	if len(keys) == 0 {
		return nil
	}
	return l.commit(&change{stage: func(b *batch) {
		for _, key := range keys {
			b.add(op{bucketSlots, string(key), nil})
		}
	}})
}

// Slots visits the kept slots. Both slices are the visitor's own.
func (l *Ledger) Slots(visit func(key, value []byte) error) error {
	return l.place.each(bucketSlots, func(key, value []byte) error {
		return visit(slices.Clone(key), slices.Clone(value))
	})
}

// Numbers returns the first of n numbers of a name that nobody gets again, not
// even after kill -9: they are spent on disk before Numbers returns. The first
// ever is 1, or atLeast if that is higher.
func (l *Ledger) Numbers(name string, n, atLeast uint64) (first uint64, err error) {
	name = "number " + name
	var exhausted bool
	err = l.commit(&change{stage: func(b *batch) {
		first = max(b.number(name)+1, atLeast)
		if exhausted = n == 0 || first > math.MaxUint64-n; !exhausted {
			b.mark(name, first+n-1)
		}
	}})
	if err == nil && exhausted {
		err = errors.New("ledger: the numbers of " + name + " are used up")
	}
	return first, err
}

// Adopt leases the addresses of members that this super peer is known to have
// admitted, from a directory that it signed once, and that a new or restored
// ledger has forgotten. They are no members by that, but nobody else gets their
// addresses before their credentials have ended. Call it before the first
// Reserve: an address on its way to somebody is not called back.
func (l *Ledger) Adopt(members []service.Member) error {
	var leases map[uint32]tenancy
	find := func() {
		leases = map[uint32]tenancy{}
		for _, m := range members {
			host, ok := l.book.host(m.Addr4())
			if !ok {
				continue
			}
			l.book.grow(host)
			if have := l.book.hosts[host]; have.until < m.NotAfter && l.members[m.PID()] == nil {
				leases[host] = tenancy{m.PID(), m.NotAfter}
			}
		}
	}
	return l.commit(&change{
		stage: func(b *batch) {
			find()
			for host, t := range leases {
				b.add(leaseOp(l.book.address(host), t))
			}
		},
		apply: func() {
			find()
			for host, t := range leases {
				l.book.set(host, t)
			}
		},
	})
}

func encoded(m service.Member) []byte {
	m.Claim = nil
	return wire.Marshal(m)
}

func idOf(key string) (pid id.ID) {
	copy(pid[:], key)
	return pid
}

// addrOf returns the zero Addr for anything but 4 bytes.
func addrOf(key string) netip.Addr {
	if len(key) != 4 {
		return netip.Addr{}
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32([]byte(key)))
	return netip.AddrFrom4(a)
}
