package node

import (
	"crypto/ed25519"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/datapath"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// Who is in the service, as far as we know. Every super peer lists the members
// that it admitted; a member proves its credential in a key exchange.
//
//	directory of super peer S ─> entries[S] ┐
//	directory of super peer T ─> entries[T] ├─> holder's entry: labels, name, address
//	key exchange (credential) ─> entries[its issuer], which becomes the holder
//
// Two super peers may list one key: the machine has moved, or one of them lies.
// The first that did is the holder and stays it until the member's own proof,
// or its silence, says otherwise; so no super peer can give another's member
// new labels. Addresses of all entries lead to the machine, since each lies in
// its issuer's own block and the key exchange shows who answers there.

// entry is what one super peer says of a member, or what a credential of its
// signature proved.
type entry struct {
	issuer id.ID
	member *service.Member
	proved bool
}

// issuance is what we know of one super peer's directory.
type issuance struct {
	seq     int64     // of the last one read
	expires time.Time // of the last one read: later it says nothing about now
}

// learn takes in members that issuer vouches for, some of all. Control loop, or
// New.
func (n *Node) learn(issuer id.ID, members []service.Member) {
	changed := false
	for i := range members {
		m := &members[i]
		if m.PID() != n.self {
			_, moved := n.enter(entry{issuer: issuer, member: m})
			changed = changed || moved
		}
	}
	if changed {
		n.reroute()
	}
}

// onDirectory takes in all that issuer has to say: who is not in it any more is
// forgotten. Control loop only.
func (n *Node) onDirectory(issuer id.ID, d service.Directory) {
	if d.Seq > n.issuers[issuer].seq {
		n.issuers[issuer] = issuance{seq: d.Seq, expires: time.Unix(d.Expires, 0)}
		n.learn(issuer, d.Members)
		n.forget(issuer, d.Members)
	}
	n.settleRoster()
}

// settleRoster does what every reading of a directory is followed by: what has
// ended is forgotten, packets that waited are routed. Control loop only.
func (n *Node) settleRoster() {
	n.expire()
	n.retryUnrouted(time.Now())
	if n.trust().Policy.Mesh == service.MeshFull {
		for _, t := range n.tunnels {
			n.connect(t)
		}
	}
}

// learnProved takes in the credential of a key exchange. Control loop only.
func (n *Node) learnProved(c *service.Credential) *tunnel {
	m := c.Member()
	t, changed := n.enter(entry{issuer: c.Issuer, member: &m, proved: true})
	if changed {
		n.reroute()
	}
	return t
}

// enter adds or replaces an entry and says whether routes change.
func (n *Node) enter(e entry) (t *tunnel, changed bool) {
	pid, proved := e.member.PID(), e.proved
	if !proved && n.now().Unix() >= e.member.NotAfter {
		return nil, false // it ended while it was under way
	}
	if t = n.tunnels[pid]; t == nil {
		t = &tunnel{node: n, pid: pid, address6: n.address6(pid)}
		t.path = n.path.NewTunnel(t, datapath.Policy{})
		n.tunnels[pid] = t
	}
	i := slices.IndexFunc(t.entries, func(old entry) bool { return old.issuer == e.issuer })
	switch {
	case i < 0:
		t.entries = append(t.entries, e)
		changed = true
	case !proved && t.entries[i].proved && t.entries[i].member.NotAfter > e.member.NotAfter:
		return t, false // older than what the member has shown
	case !proved && t.entries[i].proved && len(t.pairs) > 0 && !sameMember(t.entries[i].member, e.member):
		return t, false // what its credential says, it says itself
	default:
		old := t.entries[i]
		if e.member.NotAfter > old.member.NotAfter { // it was admitted again: it is there
			t.retryWait, t.retryAt = 0, time.Time{}
		}
		e.proved = proved || old.proved && sameMember(old.member, e.member)
		t.entries[i] = e
		changed = old.member.Addr4() != e.member.Addr4()
	}
	if proved {
		t.holder = e.issuer
	}
	return t, n.settle(t) || changed
}

// settle puts the holder's entry in force and says whether that changed the
// address. The holder loses its place when its entry is gone or past its end,
// or when it has fallen silent and another super peer has not.
func (n *Node) settle(t *tunnel) (moved bool) {
	now := n.now()
	valid := func(e entry) bool { return now.Unix() < e.member.NotAfter }
	silent := func(issuer id.ID) bool {
		i, read := n.issuers[issuer]
		return read && !now.Before(i.expires)
	}
	held := slices.IndexFunc(t.entries, func(e entry) bool { return e.issuer == t.holder && valid(e) })
	if held < 0 || silent(t.holder) && len(t.pairs) == 0 {
		for i, e := range t.entries {
			if !valid(e) || held >= 0 && silent(e.issuer) {
				continue
			}
			if held < 0 || silent(t.entries[held].issuer) || e.member.NotAfter > t.entries[held].member.NotAfter {
				held = i
			}
		}
	}
	if held < 0 && (t.member.Load() != nil || len(t.entries) == 0) {
		return false // whatever was in force stays, for the logs
	}
	held = max(held, 0) // nobody is without a name
	e := t.entries[held]
	t.holder = e.issuer
	old := t.member.Swap(e.member)
	if old == nil || !sameLabels(old.Labels, e.member.Labels) {
		n.judge(t)
	}
	return old == nil || old.Addr4() != e.member.Addr4()
}

// forget drops what issuer said of machines that it no longer lists. A tunnel
// that is up keeps what its peer has proved.
func (n *Node) forget(issuer id.ID, listed []service.Member) {
	now := make(map[id.ID]bool, len(listed))
	for i := range listed {
		now[listed[i].PID()] = true
	}
	changed := false
	for pid, t := range n.tunnels {
		if now[pid] {
			continue
		}
		before := len(t.entries)
		t.entries = slices.DeleteFunc(t.entries, func(e entry) bool {
			return e.issuer == issuer && (!e.proved || len(t.pairs) == 0)
		})
		if len(t.entries) != before {
			n.settle(t)
			changed = true
		}
	}
	if changed {
		n.reroute()
	}
}

// expire forgets machines of which nobody says anything that still holds.
func (n *Node) expire() {
	unix := n.now().Unix()
	changed := false
	for pid, t := range n.tunnels {
		before := len(t.entries)
		t.entries = slices.DeleteFunc(t.entries, func(e entry) bool { return unix >= e.member.NotAfter })
		if len(t.entries) != before {
			changed = true
			n.settle(t)
		}
		if len(t.entries) == 0 && len(t.pairs) == 0 && t.state == tunnelIdle {
			delete(n.tunnels, pid)
			changed = true
		}
	}
	if changed {
		n.reroute()
	}
}

// judge compiles the rules for a peer. Flows that are still allowed go on.
func (n *Node) judge(t *tunnel) {
	pair := filter.Compile(n.trust().Policy.Rules, n.membership.Load().Credential.Labels, t.member.Load().Labels)
	if old := t.pair.Load(); old != nil {
		pair.Inherit(old)
	}
	t.pair.Store(pair)
}

// sameMember says whether two entries of a key differ in nothing but their end.
func sameMember(a, b *service.Member) bool {
	return a.Name == b.Name && a.Addr4() == b.Addr4() && sameLabels(a.Labels, b.Labels)
}

func sameLabels(a, b map[string]string) bool {
	return service.LabelText(a) == service.LabelText(b)
}

// reroute makes the table of destinations anew. An address that two machines
// claim belongs to one super peer's block; the lease that ends later is the
// younger one. IPv6 addresses come from PIDs; of two whose first 64 bits are
// equal, which takes 2^64 keys to make, the smaller PID has it everywhere.
func (n *Node) reroute() {
	routes := make(map[netip.Addr]*tunnel, 2*len(n.tunnels))
	leases := make(map[netip.Addr]int64, len(n.tunnels))
	members := make(map[id.ID]bool, len(n.tunnels))
	for pid, t := range n.tunnels {
		members[pid] = true
		for _, e := range t.entries {
			a := e.member.Addr4()
			if until, taken := leases[a]; !taken || e.member.NotAfter > until {
				routes[a], leases[a] = t, e.member.NotAfter
			}
		}
		a := t.address6
		if other := routes[a]; other == nil || pid.Compare(other.pid) < 0 {
			routes[a] = t
		}
	}
	n.routes.Store(&routes)
	n.members.Store(&members)
}

// mayJoinOverlay says whether a node may be a contact of ours in the overlay: a
// super peer of the descriptor, or a member that a super peer vouches for.
// Called for every answer.
func (n *Node) mayJoinOverlay(pid id.ID, _ netip.AddrPort) bool {
	if (*n.members.Load())[pid] {
		return true
	}
	_, ok := n.trust().Descriptor.SuperPeer(pid)
	return ok
}

// classOf ranks a key whose items we are asked to store.
func (n *Node) classOf(key ed25519.PublicKey) overlay.Class {
	pid := id.FromKey(key)
	if _, ok := n.trust().Descriptor.SuperPeer(pid); ok {
		return overlay.ClassSuper
	}
	if (*n.members.Load())[pid] {
		return overlay.ClassMember
	}
	return overlay.ClassStranger
}

// peer returns the tunnel of an overlay address, nil if nobody is known there.
func (n *Node) peer(a netip.Addr) *tunnel { return (*n.routes.Load())[a] }
