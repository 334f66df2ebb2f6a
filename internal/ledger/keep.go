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
