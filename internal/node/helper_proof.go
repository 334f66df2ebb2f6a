package node

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/id"
)

// A super peer may name any address as a helper's, a stranger's too, and every
// member would send it puts of a kilobyte. So a helper is pinged first, once in a
// long while, and nothing else goes to it before an answer came from there, with its
// PID. The answer has to repeat what only that address was told (overlay.Ping).
//
//	listed ──ping──> answered ──> proved for proofLife; asked again at half of it
//	   ▲               └ silent: again after proofRetry, doubling to proofRests
//	   └─ no longer listed: forgotten

// We chose:
const (
	proofLife  = directory.HelperLife
	proofRetry = 10 * time.Second
	proofRests = 10 * time.Minute
	// maxProofs are under way at once; the first ones of the lists come first.
	maxProofs = 8
)

// helperAt is a helper at an endpoint.
type helperAt struct {
	pid  id.ID
	addr netip.AddrPort
}

// helperProofs are the helpers that answered where they are said to be. The zero
// value is ready. Invariant: there are none but of those listed.
type helperProofs struct {
	mu    sync.Mutex
	of    map[helperAt]*helperProof
	asked int // under way
}

type helperProof struct {
	until  time.Time // proved
	next   time.Time // to be asked
	wait   time.Duration
	asking bool
}

// has says whether a helper is proved.
func (p *helperProofs) has(h directory.Helper, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.of[helperAt{h.PID, h.Addr}]
	return known != nil && now.Before(known.until)
}

// due returns whom to ask now and forgets who is not listed any more.
func (p *helperProofs) due(listed []directory.Helper, now time.Time) (ask []helperAt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := make(map[helperAt]*helperProof, len(listed))
	for _, h := range listed {
		at := helperAt{h.PID, h.Addr}
		known := p.of[at]
		if known == nil {
			known = &helperProof{}
		}
		kept[at] = known
		if !known.asking && !now.Before(known.next) && p.asked < maxProofs {
			known.asking = true
			p.asked++
			ask = append(ask, at)
		}
	}
	p.of = kept
	return ask
}

// learn takes in what came of asking, and says whether that is news.
func (p *helperProofs) learn(at helperAt, answered bool, now time.Time) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked--
	known := p.of[at]
	if known == nil {
		return false // no longer listed
	}
	known.asking = false
	if answered {
		news = !now.Before(known.until)
		known.until, known.next, known.wait = now.Add(proofLife), now.Add(proofLife/2), 0
		return news
	}
	known.wait = min(max(2*known.wait, proofRetry), proofRests)
	known.next = now.Add(known.wait)
	return false
}

// proveHelpers asks those listed who are not proved, or were long ago.
func (n *Node) proveHelpers() {
	for _, at := range n.proofs.due(n.helperView().others, n.now()) {
		n.loops.Go(func() { n.proveHelper(at) })
	}
}

func (n *Node) proveHelper(at helperAt) {
	ctx, cancel := context.WithTimeout(n.ctx, lookupTimeout)
	defer cancel()
	pid, err := n.overlay.Ping(ctx, at.addr)
	if err != nil {
		n.log.Debug("helper does not answer where it is said to be", "pid", at.pid.Short(), "addr", at.addr, "err", err)
	}
	if n.proofs.learn(at, err == nil && pid == at.pid, n.now()) {
		n.helping.mu.Lock()
		n.helping.view.ends = time.Time{}
		n.helping.mu.Unlock()
	}
}
