package superpeer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"icvpn/abe"
)

// We chose:
const (
	// idleTick is how often it is looked whether it is the time for something.
	idleTick = 50 * time.Millisecond
	// calm is how long nobody has taken a key before more are made ahead. Lulls
	// within a storm are shorter, and a key costs as much as 30 admissions.
	calm = 3 * time.Second
	// patience is for machines that come one after the other without a pause: one
	// key is made all the same, half a percent of a core.
	patience = 30 * time.Second
	// leastPause is between two keys up to the least depth, a fifth of a core;
	// morePause between those that demand asks for, 3 %.
	leastPause = 500 * time.Millisecond
	morePause  = 5 * time.Second
)

// pace says when an attribute key is made ahead. One that a machine would wait
// for is made at once; the others when nobody has come for a while, and slowly,
// so that neither a storm nor what else the machine runs is slower for them.
type pace struct {
	mu    sync.Mutex
	taken time.Time // last time a key was asked for
	since time.Time // first time since one was made ahead; zero: not since then
	made  time.Time // when the last one made ahead was ready
}

func (p *pace) onTaken(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = now
	if p.since.IsZero() {
		p.since = now
	}
}

func (p *pace) onMade(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made, p.since = now, time.Time{}
}

// due says whether it is the time for a key. idle says that no step of an
// admission is computed or waits.
func (p *pace) due(why abe.Urgency, idle bool, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	pause := leastPause
	if why == abe.NeedMore {
		pause = morePause
	}
	switch {
	case why == abe.NeedFirst, !p.since.IsZero() && now.Sub(p.since) >= patience:
		return true
	}
	return idle && now.Sub(p.made) >= pause && now.Sub(p.taken) >= calm
}

// idle says whether no step of an admission is computed or waits.
func (w *workers) idle() bool { return w.waiting.Load() == 0 && len(w.all) == 0 }

// idleLoop makes ahead what admissions take: SRP pairs, which are used up one for
// one, and attribute keys, at their pace, which keysLoop fetches where we make none.
func (s *SuperPeer) idleLoop(ctx context.Context) error {
	tick := time.NewTicker(idleTick)
	defer tick.Stop()
	for {
		for ctx.Err() == nil && s.pool.Precompute() {
		}
		if need, ok := s.due(time.Now()); ok && ctx.Err() == nil && s.authority.makes() {
			if err := s.authority.makeSlot(need); err != nil {
				return fmt.Errorf("superpeer: attribute key: %w", err)
			}
			s.authority.pace.onMade(time.Now())
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// due returns the attribute key that is to be made now.
func (s *SuperPeer) due(now time.Time) (abe.Need, bool) {
	need, lacks := s.authority.slots.Need(now)
	if !lacks || need.Why != abe.NeedFirst {
		s.becomeReady()
	}
	return need, lacks && s.authority.pace.due(need.Why, s.door.workers.idle(), now)
}
