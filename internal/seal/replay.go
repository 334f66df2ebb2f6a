package seal

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"icvpn/internal/wire"
)

// nonceSet remembers the nonces of the window in two generations.
//
//	timestamps  ...|<- 240 s, generation k ->|<- 240 s, generation k+1 ->|...
//	                        |<--- window, 240 s --->|
//
// A nonce belongs to the generation of its datagram's timestamp. The window is as
// long as a generation, so it touches two; when a timestamp of generation k+1
// first passes the window check, all of k-1 is out of the window and its place is
// free. No entry is forgotten while its datagram could still pass.
//
// Every member can fill a set, so each type has its own, and in one that is half
// full no source has more than 1/sourceShare of the room: a member that floods
// from its own addresses shuts out itself. Peers behind relays are sources each, but a
// relay can invent them: together they never have more than 1/relayedShare.
type nonceSet struct {
	limit int

	mu   sync.Mutex
	gens [2]generation
}

type generation struct {
	number uint64
	seen   map[uint64]struct{}
	from   map[source]int // entries by source; no more of them than entries
	// relayed is how many of them came through relays.
	relayed int
}

// sourceShare is the part of a set that one source may take once it is half
// full, relayedShare that of all that comes through relays.
const (
	sourceShare  = 16
	relayedShare = 4
)

// source is what a member cannot vary freely in its address: IPv4, or the /64 of
// IPv6; of a peer behind a relay its allocation there.
type source struct {
	relayed bool
	of      uint64
}

func sourceOf(a netip.Addr) source {
	switch a = a.Unmap(); {
	case a.Is4():
		b := a.As4()
		return source{of: uint64(binary.BigEndian.Uint32(b[:]))}
	case a.Is6():
		b := a.As16()
		if wire.Discard.Contains(a) {
			return source{relayed: true, of: binary.BigEndian.Uint64(b[8:])}
		}
		return source{of: binary.BigEndian.Uint64(b[:])}
	}
	return source{}
}

type nonceVerdict uint8

const (
	nonceNew  nonceVerdict = iota
	nonceSeen              // a replay
	nonceFull              // new, but there was no room to remember it
	nonceLate              // its generation has already made room for a later one
)

// add looks nonce up and remembers it. 64 of its 192 random bits are kept: a
// chance hit drops one honest datagram in 2^47, and nobody can aim at a nonce
// that is not drawn yet.
func (s *nonceSet) add(ms uint64, nonce []byte, from source) nonceVerdict {
	number := ms / uint64(generationSpan.Milliseconds())
	key := binary.BigEndian.Uint64(nonce)
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &s.gens[number%2]
	// The clock of a concurrent caller, or of a machine set back by minutes, may
	// lag. Keep the later generation: forgetting it would let replays in. Set back
	// by more, start anew: what was accepted then came from clocks as wrong.
	if g.seen != nil && g.number == number+2 {
		return nonceLate
	}
	if g.seen == nil || g.number != number {
		// A new map, not a cleared one: a burst's memory is given back.
		*g = generation{number: number, seen: make(map[uint64]struct{}), from: make(map[source]int)}
	}
	if _, ok := g.seen[key]; ok {
		return nonceSeen
	}
	if len(g.seen) >= s.limit || 2*len(g.seen) >= s.limit && sourceShare*g.from[from] >= s.limit {
		return nonceFull
	}
	if from.relayed {
		if relayedShare*g.relayed >= s.limit || 2*relayedShare*g.relayed >= s.limit && relayedShare*sourceShare*g.from[from] >= s.limit {
			return nonceFull
		}
		g.relayed++
	}
	g.seen[key] = struct{}{}
	g.from[from]++
	return nonceNew
}
