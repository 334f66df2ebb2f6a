package superpeer

import (
	"math"
	mrand "math/rand/v2"
	"sync"
	"time"

	"icvpn/admission"
	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/service"
)

// We chose:
const (
	// loadHalf is after which time half of an admission counts: a few readings of
	// a directory.
	loadHalf = time.Minute
	// loadNews is how old an admission may be that counts at all, so that a
	// directory read for the first time is no storm.
	loadNews = time.Minute
)

// loads is how busy the other super peers seem: by the newcomers in their
// directories, and by those that we sent there, who are in no directory yet. It
// is a guess, and need be no more: whoever is sent to one that is busy, too, is
// sent on. The zero value is ready.
type loads struct {
	mu sync.Mutex
	of map[id.ID]load // super peers of the descriptor, so few
}

type load struct {
	n  float64 // at that time; halves every loadHalf
	at time.Time
}

func (l load) now(now time.Time) float64 {
	return l.n * math.Exp2(-max(0, now.Sub(l.at).Seconds())/loadHalf.Seconds())
}

func (l *loads) add(pid id.ID, n int, now time.Time) {
	if n == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[id.ID]load{}
	}
	l.of[pid] = load{l.of[pid].now(now) + float64(n), now}
}

// lighter says whether a seems less busy than b.
func (l *loads) lighter(a, b id.ID, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[a].now(now) < l.of[b].now(now)
}

// saw counts the newcomers that another super peer lists.
func (l *loads) saw(issuer id.ID, joined []*directory.Entry, now time.Time) {
	n, since := 0, now.Add(-loadNews).Unix()
	for _, e := range joined {
		if e.Member().Issued >= since {
			n++
		}
	}
	l.add(issuer, n, now)
}

// busy sends a machine to another super peer: of two that are drawn, to the one
// that seems less busy. To send everybody to the least busy of all would make it
// the busiest before anybody hears of it.
func (s *SuperPeer) busy() *admission.Refusal {
	r, now := &admission.Refusal{Code: admission.CodeBusy}, time.Now()
	all := s.authority.elsewhere(now)
	if len(all) == 0 {
		return r
	}
	mrand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	to := all[0]
	if loads := &s.authority.loads; len(all) > 1 && loads.lighter(all[1].PID(), to.PID(), now) {
		to = all[1]
	}
	s.authority.loads.add(to.PID(), 1, now)
	r.Other = to.Endpoints[0]
	return r
}

// elsewhere returns the other super peers that admit: those of whom something
// was heard lately, all if there are none.
func (a *authority) elsewhere(now time.Time) (all []service.SuperPeer) {
	var silent []service.SuperPeer
	for _, sp := range a.trust().Descriptor.SuperPeers {
		pid := sp.PID()
		switch {
		case !sp.Has(service.RoleAdmit) || now.Unix() >= sp.Expires || pid == a.self().PID() || len(sp.Endpoints) == 0:
		case a.others.Silent(pid, now):
			silent = append(silent, sp)
		default:
			all = append(all, sp)
		}
	}
	if len(all) == 0 {
		return silent
	}
	return all
}
