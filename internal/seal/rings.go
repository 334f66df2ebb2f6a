package seal

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/internal/id"
)

// Rings opens the datagrams of several services that share one port: a super
// peer's universal overlay and the VPN overlays it serves. The zero value is
// empty and ready.
type Rings struct {
	stats Stats
	mu    sync.Mutex              // orders writers
	rings atomic.Pointer[[]*Ring] // the slice is never changed
}

// Add takes r in, in place of a former Ring of the same service.
func (s *Rings) Add(r *Ring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := append(s.without(r.Service()), r)
	s.rings.Store(&next)
}

// Remove forgets the Ring of a service.
func (s *Rings) Remove(service id.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.without(service)
	s.rings.Store(&next)
}

func (s *Rings) without(service id.ID) []*Ring {
	return slices.DeleteFunc(slices.Clone(s.all()), func(r *Ring) bool { return r.Service() == service })
}

func (s *Rings) all() []*Ring {
	if p := s.rings.Load(); p != nil {
		return *p
	}
	return nil
}

// Ring returns the Ring of a service, nil if there is none.
func (s *Rings) Ring(service id.ID) *Ring {
	for _, r := range s.all() {
		if r.Service() == service {
			return r
		}
	}
	return nil
}

// Stats counts the datagrams that no Ring claimed; the others are counted by
// the Ring whose key they were sealed under.
func (s *Rings) Stats() *Stats { return &s.stats }

// Tick calls Tick of every Ring.
func (s *Rings) Tick(now time.Time) {
	for _, r := range s.all() {
		r.Tick(now)
	}
}

// Open selects by kid, tries every match and takes datagram as Ring.Open does.
func (s *Rings) Open(now time.Time, datagram []byte, from netip.Addr) (Opened, Drop) {
	if d := precheck(datagram); d != Passed {
		s.stats.count(d)
		return Opened{}, d
	}
	owner, matches, old := s.match(now, datagram)
	switch matches {
	case 0:
		d := unmatched(old)
		s.stats.count(d)
		return Opened{}, d
	case 1:
		return owner.Open(now, datagram, from)
	}
	return s.openCollision(now, datagram, from)
}

// Claims says whether some Ring has a key for datagram, which it borrows: a usable
// one, or one whose time is over.
func (s *Rings) Claims(now time.Time, datagram []byte) bool {
	if precheck(datagram) != Passed {
		return true // nobody's: Open counts it
	}
	_, matches, old := s.match(now, datagram)
	return matches > 0 || old
}

// match counts the keys with the datagram's kid; owner holds the last of them.
func (s *Rings) match(now time.Time, datagram []byte) (owner *Ring, matches int, old bool) {
	var found [maxEpochs]*epochKey
	for _, r := range s.all() {
		n, o := r.match(now, datagram, &found)
		old = old || o
		if n > 0 {
			owner, matches = r, matches+n
		}
	}
	return owner, matches, old
}

// openCollision tries the services one after the other on copies: two of them
// have a key of the same kid.
func (s *Rings) openCollision(now time.Time, datagram []byte, from netip.Addr) (Opened, Drop) {
	var found [maxEpochs]*epochKey
	for _, r := range s.all() {
		n, _ := r.match(now, datagram, &found)
		if o, d := openCopies(now, datagram, from, r, found[:n]); d != DropForged {
			r.stats.count(d)
			return o, d
		}
	}
	s.stats.count(DropForged)
	return Opened{}, DropForged
}
