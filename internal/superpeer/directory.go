package superpeer

import (
	"context"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/service"
)

// directoryRead is the longest time between two looks at another's directory.
const directoryRead = 15 * time.Second

// readLoop reads the directories of the other super peers: for the lists we hand
// out, for whom we let into the overlay, and for machines that were admitted
// elsewhere since.
func (s *SuperPeer) readLoop(ctx context.Context) error {
	select {
	case <-s.service.overlay.Ready(): // the others' members, before anybody asks for a list
	case <-ctx.Done():
		return nil
	}
	a := s.authority
	var all []*directory.Follower
	var seq uint64 // of the descriptor that they are of
	directory.NewWatcher(directory.Watch{
		Every: directoryRead, Unbounded: true,
		Followers: func() []*directory.Follower {
			if now := a.trust().Descriptor.Seq; now != seq {
				all, seq = s.followers(all), now
			}
			return all
		},
		Read: func(f *directory.Follower, _ bool, err error) {
			if err != nil {
				s.log.Debug("directory not read", "super_peer", f.SuperPeer().PID().Short(), "err", err)
			}
			a.roster.others(a.others.Expire(time.Now()))
		},
	}).Run(ctx)
	return nil
}

// newOthers returns the table of whom the other super peers list.
func newOthers(trust *service.Trust, self service.SuperPeer) *directory.Table {
	t := directory.NewTable(trust.Service, id.ID{})
	t.SetIssuers(issuersBut(trust, self.PID()))
	return t
}

// onShard takes in what another super peer says of its members. A machine of
// ours that was admitted there later as another process has a clone: the later
// admission wins.
func (a *authority) onShard(issuer id.ID, s *directory.Shard) {
	d := a.others.Replace(issuer, s)
	a.roster.others(d)
	a.loads.saw(issuer, d.Joined, time.Now())
	for _, e := range d.Joined {
		if a.ledger.Member(e.PID()) != nil { // now our word for it needs the machine's claim
			a.ledger.Touch(e.PID())
			a.touch()
		}
	}
	for i := range s.Members {
		a.supersede(issuer, &s.Members[i])
	}
}

// supersede drops a member of ours that issuer admitted later: as another process,
// or the same one after it had broken off with us.
func (a *authority) supersede(issuer id.ID, m *service.Member) {
	pid := m.PID()
	old := a.ledger.Member(pid)
	if old == nil || !m.Supersedes(old.Member, a.trust().Service, issuer) {
		return
	}
	why := directory.ReasonReplaced
	if m.Instance != old.Member.Instance {
		why = directory.ReasonClone
	}
	a.log.Info("a machine of ours was admitted later elsewhere", "peer", old.Member.Name, "pid", pid.Short(), "super_peer", issuer.Short(), "reason", why)
	a.bury(old, ledger.Reason(why))
}

// bury takes a member out. Its lease stays, with a tombstone, until its last
// credential ends.
func (a *authority) bury(dead *ledger.Entry, why ledger.Reason) {
	host, ok := directory.HostOf(a.block, dead.Member.Addr4())
	if !ok {
		return
	}
	dropped, err := a.ledger.Drop(ledger.Tombstone{PID: dead.PID(), Host: host, Reason: why, Issued: dead.Member.Issued, Until: dead.Member.NotAfter})
	if dropped {
		a.roster.dropOwn(dead.PID())
		a.touch()
	}
	if err != nil {
		a.log.Warn("a member that was dropped is a member again after a restart", "peer", dead.Member.Name, "err", err)
	}
}

// shards is what these shards are to say now. Whom another super peer lists too
// comes with its claim.
func (a *authority) shards(numbers []uint32, now time.Time) []*directory.Shard {
	all := make([]*directory.Shard, 0, len(numbers))
	for _, n := range numbers {
		kept, s := a.ledger.Shard(n), &directory.Shard{Number: n}
		for _, e := range kept.Members {
			m := e.Member
			if now.Unix() >= m.NotAfter {
				continue
			}
			if !a.others.Has(e.PID()) {
				m.Claim = nil
			}
			s.Members = append(s.Members, m)
		}
		for _, t := range kept.Tombstones {
			if now.Unix() < t.Until {
				s.Tombstones = append(s.Tombstones, directory.Tombstone{Host: t.Host, PID: t.PID, Issued: t.Issued, Until: t.Until, Reason: directory.Reason(t.Reason)})
			}
		}
		all = append(all, s)
	}
	return all
}
