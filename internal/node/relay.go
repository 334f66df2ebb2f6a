package node

import (
	"cmp"
	"crypto/rand"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/port"
	"icvpn/internal/relay"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/internal/underlay"
	"icvpn/keyex"
)

// Relays carry what cannot go directly (docs/protocol/relay.md). Three parts, of
// which the first two belong to the control loop:
//
//	behind a NAT: tendHomes ─> allocations at two relays ─> contact record
//	to a peer that its endpoints do not lead to: relay_use.go
//	as a helper: onRelayQuery, onRelayed
//
// Above relay.Conn a path through a relay is an address like others; the key exchange
// is told what it stands for, since its quotas and cookies go by that.

// We chose:
const (
	// homeRelays are kept and named in the contact record by who is behind a NAT.
	homeRelays = service.MaxRelays
	// homeKept is how long one is kept without being wanted again, each reflectEvery.
	homeKept = 4 * reflectEvery
	// relayAfter is the start that direct endpoints have.
	relayAfter = time.Second
	// relayKept is how long an allocation outlives its last use: no shorter than a tunnel.
	relayKept = idleLife + time.Minute
	// relayRest is how long a relay is left alone that was silent or full, doubling to
	// relayRests.
	relayRest  = 10 * time.Second
	relayRests = 10 * time.Minute
	// directFirst is when the direct way is tried first after a tunnel has become relayed,
	// directEvery the time between two tries later.
	directFirst = 20 * time.Second
	directEvery = 5 * time.Minute
	// natKept is how long a direct tunnel of a machine behind a NAT may send nothing
	// (RFC 3948, Section 4).
	natKept = 20 * time.Second
	// knockEvery is the least time between two knocks of one peer that are answered.
	knockEvery = 30 * time.Second
)

// helperLimits bound what a helper relays: nobody asked its operator how much that may be.
var helperLimits = relay.Limits{Allocations: 256, Rate: 512 << 10, Burst: 512 << 10, TotalRate: 2 << 20, TotalBurst: 1 << 20}

// relaying is what we have to do with relays.
type relaying struct {
	// set at start
	conn  *relay.Conn
	table *relay.Table // what we relay ourselves
	desk  *relay.Relay
	seed  maphash.Seed // of the order of relays

	named atomic.Pointer[[]service.ContactRelay] // in our contact record

	// owned by controlLoop
	holdings *relay.Holdings
	homes    []id.ID // asked, or held
	rests    map[id.ID]*relayRested
	supers   map[id.ID]*relaySuper
}

// relayRested is a relay that did not answer.
type relayRested struct {
	until time.Time
	wait  time.Duration
	count int
}

// relaySuper is where a super peer that relays is.
type relaySuper struct {
	endpoints []string
	resolver  *port.Resolver
}

// newRelaying makes what stands between the port and its sockets.
func (n *Node) newRelaying() {
	r := &n.relaying
	r.seed = maphash.MakeSeed()
	var key [32]byte
	rand.Read(key[:])
	r.conn = relay.NewConn(n.cfg.UDP)
	r.table = relay.NewTable(key, helperLimits)
	r.desk = r.table.Relay(n.service, n.key, n.isMember)
	r.holdings = relay.NewHoldings(relay.Config{Service: n.service, Key: n.key, Rand: rand.Reader, Conn: r.conn})
	r.rests, r.supers = map[id.ID]*relayRested{}, map[id.ID]*relaySuper{}
}

// keyexPath is what the key exchange calls an address; false for a path through a relay
// where we have no allocation.
func (n *Node) keyexPath(a netip.AddrPort) (keyex.Path, bool) {
	if !relay.IsVirtual(a) {
		return keyex.Path{Addr: a}, true
	}
	at, peer, ok := n.relaying.conn.Resolve(a)
	return keyex.Path{Addr: at, Relay: peer.String()}, ok
}

// pathAddr reverses keyexPath.
func (n *Node) pathAddr(p keyex.Path) (netip.AddrPort, bool) {
	if p.Relay == "" {
		return p.Addr, true
	}
	peer, ok := relay.ParseID(p.Relay)
	if !ok {
		return netip.AddrPort{}, false
	}
	return n.relaying.conn.Virtual(p.Addr, peer)
}

func isDirect(a netip.AddrPort) bool { return !relay.IsVirtual(a) }

// shown is a path for people: through a relay, the relay's address.
func (n *Node) shown(a netip.AddrPort) (string, control.Route) {
	if !relay.IsVirtual(a) {
		return a.String(), control.RouteDirect
	}
	if at, _, ok := n.relaying.conn.Resolve(a); ok {
		return at.String(), control.RouteRelayed
	}
	return "", control.RouteRelayed // it is lost, and a new way looked for
}

// passesRelays says what may come through a relay. The rest is about addresses, or is
// answered to anybody: from a virtual address it would spread where that means nothing.
func passesRelays(t seal.Type) bool { return t == seal.TypeKE || t == seal.TypeProbe }

// relayCandidates are the relays we may use: super peers, then helpers. Which first is
// another question for each machine, and always the same as long as it runs. Nobody knows
// the answer beforehand, so that nobody makes itself a key that is a victim's first relay.
func (n *Node) relayCandidates() (all []id.ID) {
	now := n.now().Unix()
	for _, sp := range n.trust().Descriptor.SuperPeers {
		if sp.Has(service.RoleRelay) && now < sp.Expires {
			all = append(all, sp.PID())
		}
	}
	slices.SortFunc(all, n.relaying.order)
	supers := len(all)
	for _, h := range n.helperView().proved {
		if h.Roles.Has(directory.HelperRelay) && !slices.Contains(all, h.PID) {
			all = append(all, h.PID)
		}
	}
	slices.SortFunc(all[supers:], n.relaying.order)
	return all
}

// order compares relays.
func (r *relaying) order(a, b id.ID) int {
	return cmp.Compare(maphash.Comparable(r.seed, a), maphash.Comparable(r.seed, b))
}

// relayAddr returns where a relay is, by the descriptor, or as a helper that has proved its
// address; false for somebody who is none. Of several addresses others are tried in turn.
func (n *Node) relayAddr(pid id.ID) (netip.AddrPort, bool) {
	if sp, ok := n.trust().Descriptor.SuperPeer(pid); ok {
		if !sp.Has(service.RoleRelay) || n.now().Unix() >= sp.Expires {
			return netip.AddrPort{}, false
		}
		known := n.relaying.supers[pid]
		if known == nil || !slices.Equal(known.endpoints, sp.Endpoints) {
			known = &relaySuper{sp.Endpoints, port.NewResolver(sp.Endpoints)}
			n.relaying.supers[pid] = known
		}
		addrs := n.ofOurFamilies(n.usable(known.resolver.Addrs()))
		if _, held, ok := n.relaying.holdings.Held(pid); ok && slices.Contains(addrs, held) {
			return held, true
		}
		if len(addrs) == 0 {
			return netip.AddrPort{}, false
		}
		turn := 0
		if rested := n.relaying.rests[pid]; rested != nil {
			turn = rested.count
		}
		return addrs[turn%len(addrs)], true
	}
	for _, h := range n.helperView().proved {
		if h.PID == pid && h.Roles.Has(directory.HelperRelay) {
			return h.Addr, true
		}
	}
	return netip.AddrPort{}, false
}

// ofOurFamilies leaves out addresses of a family in which nobody has seen us, unless that
// leaves none.
func (n *Node) ofOurFamilies(all []netip.AddrPort) []netip.AddrPort {
	seen := n.observed.all()
	ours := slices.DeleteFunc(slices.Clone(all), func(a netip.AddrPort) bool {
		return !slices.ContainsFunc(seen, func(s netip.AddrPort) bool { return s.Addr().Is4() == a.Addr().Is4() })
	})
	if len(ours) == 0 {
		return all
	}
	return ours
}

// wantRelay asks for an allocation, or keeps the one that there is, unless the relay rests.
func (n *Node) wantRelay(pid id.ID, now time.Time, kept time.Duration) bool {
	if rested := n.relaying.rests[pid]; rested != nil && now.Before(rested.until) {
		return false
	}
	addr, ok := n.relayAddr(pid)
	if !ok {
		return false
	}
	n.onRelays(n.relaying.holdings.Want(now, pid, addr, now.Add(kept)))
	rested := n.relaying.rests[pid] // now, if there are too many already
	return rested == nil || !now.Before(rested.until)
}

// tendHomes sees to our own relays: behind a NAT two, else none. Control loop only.
func (n *Node) tendHomes(now time.Time) {
	r := &n.relaying
	maps.DeleteFunc(r.rests, func(_ id.ID, rested *relayRested) bool { return now.Sub(rested.until) > relayRests })
	if n.leaving || !n.behindNAT() {
		r.homes = nil
		n.nameHomes()
		return
	}
	candidates := n.relayCandidates()
	r.homes = slices.DeleteFunc(r.homes, func(pid id.ID) bool { return !slices.Contains(candidates, pid) })
	for _, pid := range slices.Clone(r.homes) {
		n.wantRelay(pid, now, homeKept)
	}
	for _, pid := range candidates {
		if len(r.homes) >= homeRelays {
			break
		}
		if !slices.Contains(r.homes, pid) && n.wantRelay(pid, now, homeKept) {
			r.homes = append(r.homes, pid)
		}
	}
	n.nameHomes()
}

// nameHomes has our relays written into the contact record, if they are others than stand
// there.
func (n *Node) nameHomes() {
	var named []service.ContactRelay
	for _, pid := range n.relaying.homes {
		if name, _, ok := n.relaying.holdings.Held(pid); ok {
			named = append(named, service.ContactRelay{PID: pid, Allocation: name[:]})
		}
	}
	same := func(a, b service.ContactRelay) bool {
		return a.PID == b.PID && slices.Equal(a.Allocation, b.Allocation)
	}
	if slices.EqualFunc(named, n.contactRelays(), same) {
		return
	}
	n.relaying.named.Store(&named)
	select {
	case n.contactNow <- struct{}{}:
	default:
	}
}

// homeAddrs are where our relays are, for people. Control loop only.
func (n *Node) homeAddrs() (all []string) {
	for _, pid := range n.relaying.homes {
		if _, addr, ok := n.relaying.holdings.Held(pid); ok {
			all = append(all, addr.String())
		}
	}
	return all
}

// contactRelays are those to name in the contact record.
func (n *Node) contactRelays() []service.ContactRelay {
	if named := n.relaying.named.Load(); named != nil {
		return *named
	}
	return nil
}

// onRelays does what the holdings want. Control loop only.
func (n *Node) onRelays(out relay.Output) {
	for _, q := range out.Send {
		if err := n.port.SendControl(n.ring, seal.TypeRelay, seal.Newest, q.Payload, seal.PadQuery, q.To); err != nil {
			n.log.Debug("relay not asked", "addr", q.To, "err", err)
		}
	}
	for _, pid := range out.Held {
		delete(n.relaying.rests, pid)
		n.log.Info("allocation at a relay", "pid", pid.Short())
		n.nameHomes()
		for t := range n.active {
			n.extend(t, pid)
		}
	}
	for _, pid := range out.Lost {
		n.onRelayLost(pid, time.Now())
	}
}

// onRelayLost leaves a relay alone for a while, takes another one, and looks for other ways
// for the tunnels that led through it.
func (n *Node) onRelayLost(pid id.ID, now time.Time) {
	r := &n.relaying
	rested := r.rests[pid]
	if rested == nil {
		rested = &relayRested{}
		r.rests[pid] = rested
	}
	rested.count++
	rested.wait = min(max(relayRest, 2*rested.wait), relayRests)
	rested.until = now.Add(rested.wait)
	n.log.Info("relay does not answer, or has no place", "pid", pid.Short(), "dur", rested.wait)
	if at := slices.Index(r.homes, pid); at >= 0 {
		r.homes = slices.Delete(r.homes, at, at+1)
		n.signal(func() { n.tendHomes(time.Now()) }) // not from within it
	}
	for t := range n.active {
		p := t.current()
		if p == nil || !relay.IsVirtual(p.path) || t.rekeying || n.leaving || now.Before(t.retryAt) {
			continue
		}
		if _, ok := n.keyexPath(p.path); !ok {
			t.rekeying = true
			n.lookup(t)
		}
	}
}

// onRelayed forwards between allocations. Called by the port's readers.
func (n *Node) onRelayed(ms []underlay.Message) {
	n.relaying.table.Forward(time.Now(), ms, n.port.WriteESP)
}

// onRelayQuery answers a member that wants an allocation, if we are a helper that relays.
// Called by the port's readers.
func (n *Node) onRelayQuery(o seal.Opened, from netip.AddrPort) {
	if roles, _ := n.helps(); !n.mayHelp() || !roles.Has(directory.HelperRelay) {
		n.stats.notHelping.Add(1)
		return
	}
	answer := n.relaying.desk.Answer(time.Now(), o.Payload, from)
	if answer == nil || len(answer) > o.Room {
		return
	}
	if err := n.port.SendControl(n.ring, seal.TypeRelay, o.Epoch, answer, 0, from); err != nil {
		n.log.Debug("relay's answer not sent", "addr", from, "err", err)
	}
}
