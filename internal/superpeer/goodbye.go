package superpeer

import (
	"sync"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/service"
)

// leaveQueue is how many goodbyes may wait for the disk.
const leaveQueue = 256

// leaving are the machines whose goodbye waits for the disk. The zero value is
// ready.
type leaving struct {
	mu  sync.Mutex
	all map[id.ID]bool // as many as wait
}

func (l *leaving) has(pid id.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[pid]
}

// add is false for a machine that is in it.
func (l *leaving) add(pid id.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all[pid] {
		return false
	}
	if l.all == nil {
		l.all = map[id.ID]bool{}
	}
	l.all[pid] = true
	return true
}

func (l *leaving) remove(pid id.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, pid)
}

// onLeave takes a member's goodbye from the network. Only the machine's own word
// gets a place in the queue, and one place: neither forged nor repeated goodbyes
// keep others' out. A full queue drops it, and then the entry ends with its
// lease. Called by the port's readers.
func (a *authority) onLeave(b []byte, now time.Time) {
	l, ok := service.ParseLeave(b, now)
	if !ok || !a.lists(l) { // before the signature: cheap
		return
	}
	pid := id.FromKey(l.Key)
	if a.leaving.has(pid) || !l.Verify(a.trust().Service) || !a.leaving.add(pid) {
		return
	}
	select {
	case a.leaves <- l:
	default:
		a.leaving.remove(pid)
	}
}

// lists says whether the process that says goodbye is the one we list, not
// admitted again since.
func (a *authority) lists(l service.Leave) bool {
	e := a.ledger.Member(id.FromKey(l.Key))
	return e != nil && e.Member.Instance == l.Instance && l.At >= e.Member.Issued
}

// leave takes a member out that said so, and did not come back meanwhile.
func (a *authority) leave(l service.Leave) {
	pid := id.FromKey(l.Key)
	defer a.leaving.remove(pid)
	if !a.lists(l) {
		return
	}
	if e := a.ledger.Member(pid); e != nil {
		a.log.Info("left", "peer", e.Member.Name, "pid", pid.Short())
		a.bury(e, ledger.ReasonLeft)
	}
}
