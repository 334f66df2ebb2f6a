package overlay

import (
	"crypto/ed25519"
	"net/netip"
)

// Class ranks what a node stores for others by the key it stands under. Each
// class has room of its own: what one brings never crowds out another's.
type Class uint8

// The classes of keys.
const (
	ClassStranger Class = iota // nobody we know of
	ClassMember                // listed as a member
	ClassSuper                 // a super peer of the service
	classOwn                   // no matter the key: what this node puts itself
	numClasses
)

// account is what an entry is counted on. A stranger makes as many keys as he
// likes, so his entries are on the account of where they come from; anybody may
// put a listed key's items, so those are on the account of the key.
type account struct {
	class Class
	key   [ed25519.PublicKeySize]byte // of a listed key's items
	from  netip.Prefix                // of anything else, and of a super peer's own items
	port  uint16                      // of a super peer: others may share its address
}

// own is the account of what this node puts itself.
var own = account{class: classOwn}

// sourceAccount is the account of a stranger's entries: one IPv4 address, or the
// /64 in which an IPv6 host has as many addresses as it wants.
func sourceAccount(from netip.Addr) account {
	bits := 64
	if from.Is4() {
		bits = 32
	}
	p, _ := from.Prefix(bits) // invalid only for an invalid address: one account for all
	return account{from: p}
}

// superAccount is the account of a super peer's chunks.
func superAccount(from netip.AddrPort) account {
	return account{class: ClassSuper, from: host(from.Addr()), port: from.Port()}
}

// itemAccount returns the account of an item that from puts.
func (m *Machine) itemAccount(key ed25519.PublicKey, from netip.AddrPort) account {
	class := ClassStranger
	if m.cfg.Class != nil {
		class = m.cfg.Class(key)
	}
	a := account{class: class, key: [ed25519.PublicKeySize]byte(key)}
	switch {
	case class == ClassSuper && m.isSuper(from):
		// Apart from what others put again of it, however old: their copies must not
		// use up the quota of the key.
		r := superAccount(from)
		r.key = a.key
		return r
	case class == ClassSuper || class == ClassMember:
		return a
	}
	return sourceAccount(from.Addr())
}

// chunkAccount returns the account of a chunk that from puts. A chunk is under no
// key; that it comes from a super peer is known by the address, which the write
// token proved.
func (m *Machine) chunkAccount(from netip.AddrPort) account {
	if m.isSuper(from) {
		return superAccount(from)
	}
	return sourceAccount(from.Addr())
}

// isSuper says whether from is a super peer. A replica that is none has no more
// room than any other source.
func (m *Machine) isSuper(from netip.AddrPort) bool {
	for _, a := range m.cfg.Supers() {
		if unmap(a) == from {
			return true
		}
	}
	return false
}

// limits bound a store.
type limits struct {
	usage          // in all, but for what the node puts itself, which may be as much again
	perKey     int // items under a super peer's key
	perSource  int // entries of one address or /64; twice that for a /24 or /56
	perReplica int // chunks of one super peer
	listed     bool
}

// usage is a number of entries and their bytes.
type usage struct{ items, bytes int }

// share is the room of a class. A node that knows no listed keys leaves no room
// free for them.
func (l limits) share(c Class) usage {
	parts := [numClasses]int{ClassStranger: 2, ClassMember: 2, ClassSuper: 4, classOwn: 8}[c]
	if c == ClassStranger && !l.listed {
		parts += 2
	}
	return usage{max(1, l.items*parts/8), max(1, l.bytes*parts/8)}
}

// quota is how many entries may stand on an account.
func (l limits) quota(a account) int {
	switch {
	case a == own:
		return l.items
	case a.class == ClassMember:
		return perMember
	case a.key != [ed25519.PublicKeySize]byte{}:
		return l.perKey
	case a.class == ClassSuper:
		return l.perReplica
	}
	return l.perSource
}

// books count the entries of a store.
//
// Invariant: each class and account has what its entries add up to, and no
// account without entries is kept.
type books struct {
	limits   limits
	classes  [numClasses]usage
	accounts map[account]int
	wider    map[netip.Prefix]int // strangers' entries by /24 or /56
}

func newBooks(l limits) books {
	return books{limits: l, accounts: make(map[account]int), wider: make(map[netip.Prefix]int)}
}

// enter counts n entries of size bytes each, 1 or -1.
func (b *books) enter(a account, n, size int) {
	b.classes[a.class].items += n
	b.classes[a.class].bytes += n * size
	count(b.accounts, a, n)
	if a.class == ClassStranger {
		count(b.wider, sourcePrefix(a.from.Addr()), n)
	}
}

// room says whether an entry of size bytes fits on a, once freed is gone from it.
func (b *books) room(a account, size int, freed usage) bool {
	share, used := b.limits.share(a.class), b.classes[a.class]
	switch {
	case used.items-freed.items >= share.items || used.bytes-freed.bytes+size > share.bytes:
		return false
	case b.accounts[a]-freed.items >= b.limits.quota(a):
		return false
	}
	return a.class != ClassStranger ||
		b.wider[sourcePrefix(a.from.Addr())]-freed.items < 2*b.limits.perSource
}

func count[K comparable](m map[K]int, k K, by int) {
	if m[k] += by; m[k] == 0 {
		delete(m, k)
	}
}
