package superpeer

import (
	"net/netip"
	"sync"
	"time"
)

// We chose:
const (
	// quietFor is how long a line that a stranger can provoke is not repeated.
	quietFor = time.Minute
	// maxQuiet bounds the sources told apart meanwhile; the others are one.
	maxQuiet = 256
)

// quiet keeps strangers from filling the log: one line for each source network
// and reason in a minute, which says how many were left out before it.
type quiet struct {
	mu    sync.Mutex
	lines map[quietKey]*quietLine
}

type quietKey struct {
	network netip.Prefix
	reason  string // one of a fixed set
}

type quietLine struct {
	at         time.Time // of the last line
	suppressed int       // since then
}

func newQuiet() *quiet { return &quiet{lines: map[quietKey]*quietLine{}} }

// line says whether to write a line, and how many like it were left out.
func (q *quiet) line(now time.Time, addr netip.Addr, reason string) (suppressed int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := quietKey{networkOf(addr), reason}
	l, found := q.lines[key]
	if !found && len(q.lines) >= maxQuiet {
		q.forgetLocked(now)
	}
	if !found && len(q.lines) >= maxQuiet {
		key.network = netip.Prefix{} // the table grows by one for each reason, at most
		l, found = q.lines[key]
	}
	if !found {
		q.lines[key] = &quietLine{at: now}
		return 0, true
	}
	if now.Sub(l.at) < quietFor {
		l.suppressed++
		return 0, false
	}
	suppressed = l.suppressed
	*l = quietLine{at: now}
	return suppressed, true
}

// forgetLocked drops what has been quiet for long enough, and adds what was left
// out of it to the line that all others share.
func (q *quiet) forgetLocked(now time.Time) {
	for key, l := range q.lines {
		if now.Sub(l.at) < quietFor || !key.network.IsValid() {
			continue
		}
		delete(q.lines, key)
		if l.suppressed == 0 {
			continue
		}
		shared := quietKey{reason: key.reason}
		if q.lines[shared] == nil {
			q.lines[shared] = &quietLine{at: l.at}
		}
		q.lines[shared].suppressed += l.suppressed
	}
}
