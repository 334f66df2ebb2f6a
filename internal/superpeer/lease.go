package superpeer

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// leases gives IPv4 addresses from this super peer's block: one for a PID, the
// same after every restart and renewal. Blocks of super peers are disjoint by
// the owners' signature, so no two of them can give one address twice.
//
// Invariant: byPID and byHost are inverse to each other.
type leases struct {
	block  netip.Prefix
	byPID  map[id.ID]lease
	byHost map[uint32]id.ID
	next   uint32 // where the search for a free host number starts
}

// lease is a host number within the block and the end of the lease.
type lease struct {
	_       struct{} `cbor:",toarray"`
	PID     id.ID
	Host    uint32
	Expires int64 // Unix seconds; a lapsed lease is reused last
}

// maxLeases bounds the table, and its encoding to one CBOR array of package wire.
const maxLeases = 1 << 12

func newLeases(block netip.Prefix) *leases {
	return &leases{block: block, byPID: map[id.ID]lease{}, byHost: map[uint32]id.ID{}, next: 1}
}

// size is the number of addresses in the block, without the first and last,
// which could be taken for the network's and broadcast addresses.
func (l *leases) size() uint32 {
	return uint32(min(uint64(1)<<(32-l.block.Bits()), maxLeases)) - 2
}

// has says whether a PID holds an address, lapsed or not.
func (l *leases) has(pid id.ID) bool { _, ok := l.byPID[pid]; return ok }

// release gives the address of pid back, as if it had never been taken.
func (l *leases) release(pid id.ID) {
	if have, ok := l.byPID[pid]; ok {
		delete(l.byHost, have.Host)
		delete(l.byPID, pid)
	}
}

// take returns the address of pid until expires, a new one for a new PID. When
// every address is held, the longest lapsed lease is given away.
func (l *leases) take(pid id.ID, now, expires int64) (netip.Addr, error) {
	if have, ok := l.byPID[pid]; ok {
		have.Expires = max(have.Expires, expires)
		l.byPID[pid] = have
		return l.address(have.Host), nil
	}
	host, ok := l.free()
	if !ok {
		if host, ok = l.lapsed(now); !ok {
			return netip.Addr{}, fmt.Errorf("superpeer: all %d addresses of block %s are leased", l.size(), l.block)
		}
		delete(l.byPID, l.byHost[host])
	}
	l.byPID[pid] = lease{PID: pid, Host: host, Expires: expires}
	l.byHost[host] = pid
	return l.address(host), nil
}

func (l *leases) free() (uint32, bool) {
	n := l.size()
	for range n {
		h := l.next
		if l.next++; l.next > n {
			l.next = 1
		}
		if _, taken := l.byHost[h]; !taken {
			return h, true
		}
	}
	return 0, false
}

func (l *leases) lapsed(now int64) (host uint32, ok bool) {
	oldest := now
	for _, le := range l.byPID {
		if le.Expires < oldest {
			host, oldest, ok = le.Host, le.Expires, true
		}
	}
	return host, ok
}

func (l *leases) address(host uint32) netip.Addr {
	a := l.block.Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+host)
	return netip.AddrFrom4(a)
}

func (l *leases) encode() []byte {
	all := make([]lease, 0, len(l.byPID))
	for h := uint32(1); h <= l.size(); h++ {
		if pid, ok := l.byHost[h]; ok {
			all = append(all, l.byPID[pid])
		}
	}
	return wire.Marshal(all)
}

func decodeLeases(block netip.Prefix, b []byte) (*leases, error) {
	l := newLeases(block)
	var all []lease
	if err := wire.Unmarshal(b, &all, 4<<20); err != nil {
		return nil, err
	}
	for _, le := range all {
		if le.Host == 0 || le.Host > l.size() {
			return nil, fmt.Errorf("superpeer: lease of host %d lies outside block %s", le.Host, block)
		}
		if _, taken := l.byHost[le.Host]; taken {
			return nil, fmt.Errorf("superpeer: host %d is leased twice", le.Host)
		}
		l.byPID[le.PID], l.byHost[le.Host] = le, le.PID
	}
	return l, nil
}
