package superpeer

import (
	"sync"
	"time"

	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/service"
)

// handed counts what each super peer was handed today.
type handed struct {
	turn chan struct{} // one request is computed at a time

	mu     sync.Mutex
	places map[id.ID]chan struct{}
	day    int64
	counts map[count]int
}

// count is one of the counts that something handed out is part of.
type count struct {
	pid   id.ID
	of    string
	limit int
}

func newHanded() handed {
	return handed{turn: make(chan struct{}, 1), places: map[id.ID]chan struct{}{}, counts: map[count]int{}}
}

// placeOf returns what is held for a super peer's one request. Only listed ones come
// so far.
func (h *handed) placeOf(pid id.ID) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.places[pid] == nil {
		h.places[pid] = make(chan struct{}, 1)
	}
	return h.places[pid]
}

// allow adds n to counts, unless that were more than a day's of one.
func (h *handed) allow(now time.Time, n int, counts ...count) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if day := dayOf(now); day != h.day {
		h.day = day
		clear(h.counts)
	}
	for _, c := range counts {
		if h.counts[c]+n > c.limit {
			return false
		}
	}
	for _, c := range counts {
		h.counts[c] += n
	}
	return true
}

// giveBack takes back what allow has added at the same time.
func (h *handed) giveBack(then time.Time, n int, counts ...count) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if dayOf(then) != h.day {
		return
	}
	for _, c := range counts {
		h.counts[c] -= n
	}
}

func dayOf(t time.Time) int64 { return t.Unix() / int64(24*time.Hour/time.Second) }

// countsOf returns what a key for a super peer is counted as. Labels are those
// that somebody has to grant: a set is no other one for labels without a value.
func (a *authority) countsOf(pid id.ID, labels map[string]string) []count {
	text := service.LabelText(labels)
	all := []count{{pid, "keys", handedPerDay}, {pid, "keys of " + text, handedPerSet}}
	for _, s := range a.secrets {
		if service.LabelText(discovery.LabelsOf(discovery.Attributes(a.rules(), s.Grant))) == text {
			return all
		}
	}
	return append(all, count{pid, "keys of chosen labels", handedChosen})
}
