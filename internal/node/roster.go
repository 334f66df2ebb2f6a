package node

import (
	"crypto/ed25519"
	"maps"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/datapath"
	"icvpn/internal/directory"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// Who is in the service, as far as we know. Every super peer lists the members
// that it admitted, in a compact table; a member proves its credential in a key
// exchange. A tunnel is made for those we have to do with.
//
//	directory of super peer S ─> table ─┐
//	directory of super peer T ─> table ─┼─> holder's word: labels, name, address
//	key exchange (credential) ─> proof of its issuer, which becomes the holder
//
// Two super peers may list one key: the machine has moved, or one of them lies.
// The first that did is the holder and stays it until the member's own proof,
// or its silence, says otherwise; so no super peer can give another's member
// new labels. Addresses of all listings lead to the machine, since each lies in
// its issuer's own block and the key exchange shows who answers there.

// word is what one super peer says of a member, or what a credential of its
// signature proved.
type word struct {
	issuer id.ID
	member *service.Member
}

// ways are the tunnels there are, for the data path and the overlay.
type ways struct {
	byAddr map[netip.Addr]*tunnel
	pids   map[id.ID]bool
}

// learn takes in members that issuer vouches for, some of all. Control loop, or
// New.
func (n *Node) learn(issuer id.ID, members []service.Member) {
	n.watchClone(issuer, members)
	n.onDiff(n.table.Learn(issuer, members))
}

// onShard takes in all that issuer has to say of 64 hosts: who is not there any
// more is forgotten. Control loop only.
func (n *Node) onShard(issuer id.ID, s *directory.Shard) {
	n.watchClone(issuer, s.Members)
	n.listed.Store(true)
	n.onDiff(n.table.Replace(issuer, s))
}

// onDiff brings tunnels up to what the table says now. Machines without a tunnel
// cost nothing.
func (n *Node) onDiff(d directory.Diff) {
	if d.Empty() {
		return
	}
	touched := map[*tunnel]bool{}
	for _, e := range slices.Concat(d.Joined, d.Changed) {
		if t := n.tunnels[e.PID()]; t != nil {
			touched[t] = true
			t.retryWait, t.retryAt = 0, time.Time{} // admitted anew: it is there
		}
	}
	for _, e := range d.Gone {
		if t := n.tunnels[e.PID()]; t != nil {
			touched[t] = true
		}
	}
	for _, v := range d.Void {
		if t := n.tunnels[v.PID]; t != nil {
			touched[t] = true
		}
	}
	for t := range touched {
		n.refresh(t)
	}
	if len(touched) > 0 {
		n.reroute()
	}
}

// refresh holds a tunnel against the table: proofs that count no more go, and
// with the last word about an idle machine the tunnel.
func (n *Node) refresh(t *tunnel) {
	if c := t.credential; c != nil && len(t.pairs) > 0 {
		if v, over := n.table.Tombstone(c.Issuer, t.pid, c.NotBefore); over && v.Void() {
			n.log.Info("tunnel deleted: the credential is void", "peer", t.name(), "reason", v.Reason)
			n.deleteTunnel(t)
		}
	}
	t.proofs = slices.DeleteFunc(t.proofs, func(w word) bool { return n.isOver(t, w) })
	if len(t.proofs) == 0 && len(t.pairs) == 0 && t.state == tunnelIdle && !n.table.Has(t.pid) {
		delete(n.tunnels, t.pid)
		return
	}
	n.settle(t)
}

// proofGrace is how long a machine may take to appear in its super peer's
// directory.
const proofGrace = time.Minute

// isOver says whether what a member proved has ended: by its date, by its super
// peer's word, or because that does not list it any more and no tunnel is up.
func (n *Node) isOver(t *tunnel, w word) bool {
	if n.now().Unix() >= w.member.NotAfter {
		return true
	}
	if _, over := n.table.Tombstone(w.issuer, t.pid, w.member.Issued); over {
		return len(t.pairs) == 0
	}
	if len(t.pairs) > 0 || n.listedBy(t.pid, w.issuer) != nil {
		return false
	}
	f := n.follower(w.issuer)
	return f != nil && f.CompleteSince(time.Unix(w.member.Issued, 0).Add(proofGrace))
}

// listedBy returns what issuer lists of a machine, nil for nothing.
func (n *Node) listedBy(pid, issuer id.ID) *directory.Entry {
	for _, e := range n.table.Entries(pid, n.now()) {
		if e.Issuer() == issuer {
			return e
		}
	}
	return nil
}

// settleRoster does what every reading of a directory is followed by: what has
// ended is forgotten, packets that waited are routed. Control loop only.
func (n *Node) settleRoster() {
	n.noteReading()
	n.expire()
	n.retryUnrouted(time.Now())
	if n.trust().Policy.Mesh == service.MeshFull {
		n.meshAll()
	}
}

// meshAll sees to a tunnel to everybody.
func (n *Node) meshAll() {
	made := false
	all := n.table.Members(n.now())
	for _, e := range all {
		if n.tunnels[e.PID()] == nil {
			n.settle(n.newTunnel(e.PID()))
			made = true
		}
	}
	if made {
		n.reroute()
	}
	for _, e := range all {
		n.connect(n.tunnels[e.PID()])
	}
}

// tunnelOf returns the tunnel of a machine that is listed, made if there is none.
func (n *Node) tunnelOf(pid id.ID) *tunnel {
	t := n.tunnels[pid]
	if t == nil {
		t = n.newTunnel(pid)
		n.settle(t)
		n.reroute()
	}
	return t
}

func (n *Node) newTunnel(pid id.ID) *tunnel {
	t := &tunnel{node: n, pid: pid, address6: n.address6(pid)}
	t.path = n.path.NewTunnel(t, datapath.Policy{})
	n.tunnels[pid] = t
	return t
}

// learnProved takes in the credential of a key exchange. Control loop only.
func (n *Node) learnProved(c *service.Credential) *tunnel {
	m := c.Member()
	pid := c.PID()
	t := n.tunnels[pid]
	if t == nil {
		t = n.newTunnel(pid)
	}
	if i := slices.IndexFunc(t.proofs, func(w word) bool { return w.issuer == c.Issuer }); i >= 0 {
		t.proofs = slices.Delete(t.proofs, i, i+1)
	}
	t.proofs = append(t.proofs, word{c.Issuer, &m})
	t.holder = c.Issuer
	n.table.Prefer(pid, c.Issuer)
	n.settle(t)
	n.reroute()
	return t
}

// words are what is said of a machine now, one for each super peer: what it has
// proved, unless the super peer says something newer and no tunnel is up, or
// nothing else; then listings in the table's order.
func (n *Node) words(t *tunnel) (all []word) {
	now := n.now()
	listed := n.table.Entries(t.pid, now)
	for _, w := range t.proofs {
		if now.Unix() >= w.member.NotAfter {
			continue
		}
		for _, e := range listed {
			if e.Issuer() == w.issuer && e.NotAfter() >= w.member.NotAfter {
				if m := e.Member(); len(t.pairs) == 0 || sameMember(w.member, &m) {
					w.member = &m
				}
				break
			}
		}
		all = append(all, w)
	}
	for _, e := range listed {
		if !slices.ContainsFunc(all, func(w word) bool { return w.issuer == e.Issuer() }) {
			m := e.Member()
			all = append(all, word{e.Issuer(), &m})
		}
	}
	return all
}

// settle puts the holder's word in force. The holder loses its place when it has
// nothing to say any more, or when it has fallen silent and another super peer
// has not.
func (n *Node) settle(t *tunnel) {
	all := n.words(t)
	held := slices.IndexFunc(all, func(w word) bool { return w.issuer == t.holder })
	if len(t.proofs) == 0 && len(t.pairs) == 0 {
		held = min(0, len(all)-1) // the table knows
	}
	if silent := func(w word) bool { return n.table.Silent(w.issuer, n.now()) }; held < 0 || silent(all[held]) && len(t.pairs) == 0 {
		if other := slices.IndexFunc(all, func(w word) bool { return !silent(w) }); other >= 0 {
			held = other
		}
	}
	switch {
	case len(all) > 0:
		held = max(held, 0)
	case t.member.Load() != nil || len(t.proofs) == 0:
		return // whatever was in force stays, for the logs
	default:
		all, held = t.proofs, len(t.proofs)-1 // nobody is without a name
	}
	t.holder = all[held].issuer
	old := t.member.Swap(all[held].member)
	if old == nil || !sameLabels(old.Labels, all[held].member.Labels) {
		n.judge(t)
	}
}

// expire forgets machines of which nobody says anything that still holds.
func (n *Node) expire() {
	n.onDiff(n.table.Expire(n.now()))
	for _, t := range slices.Collect(maps.Values(n.tunnels)) {
		n.refresh(t)
	}
	n.reroute()
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

func sameLabels(a, b map[string]string) bool { return maps.Equal(a, b) }

// reroute makes the table of tunnels anew; machines without one are found by the
// control loop. An address that two machines claim belongs to one super peer's
// block; the lease that ends later is the younger one. IPv6 addresses come from
// PIDs; of two whose first 64 bits are equal, which takes 2^64 keys to make, the
// smaller PID has it everywhere.
func (n *Node) reroute() {
	w := &ways{byAddr: make(map[netip.Addr]*tunnel, 2*len(n.tunnels)), pids: make(map[id.ID]bool, len(n.tunnels))}
	leases := make(map[netip.Addr]int64, len(n.tunnels))
	for pid, t := range n.tunnels {
		w.pids[pid] = true
		for _, said := range n.words(t) {
			a := said.member.Addr4()
			if until, taken := leases[a]; !taken || said.member.NotAfter > until {
				w.byAddr[a], leases[a] = t, said.member.NotAfter
			}
		}
		if other := w.byAddr[t.address6]; other == nil || pid.Compare(other.pid) < 0 {
			w.byAddr[t.address6] = t
		}
	}
	n.ways.Store(w)
}

// mayJoinOverlay says whether a node may be a contact of ours in the overlay: a
// super peer of the descriptor, or a member that a super peer vouches for.
// Called for every answer.
func (n *Node) mayJoinOverlay(pid id.ID, _ netip.AddrPort) bool {
	if n.isMember(pid) {
		return true
	}
	_, ok := n.trust().Descriptor.SuperPeer(pid)
	return ok || n.comesBack(pid)
}

// isMember says whether a super peer vouches for a node, in its directory or in the
// credential that a tunnel was made with.
func (n *Node) isMember(pid id.ID) bool { return n.table.Has(pid) || n.ways.Load().pids[pid] }

// classOf ranks a key whose items we are asked to store.
func (n *Node) classOf(key ed25519.PublicKey) overlay.Class {
	pid := id.FromKey(key)
	if _, ok := n.trust().Descriptor.SuperPeer(pid); ok {
		return overlay.ClassSuper
	}
	if n.isMember(pid) {
		return overlay.ClassMember
	}
	return overlay.ClassStranger
}

// way returns the tunnel to an overlay address, nil if there is none yet.
func (n *Node) way(a netip.Addr) *tunnel { return n.ways.Load().byAddr[a] }

// peer returns the tunnel to an overlay address, made if the machine is listed
// and has none; nil if nobody is known there. Control loop only.
func (n *Node) peer(a netip.Addr) *tunnel {
	if t := n.way(a); t != nil {
		return t
	}
	e := n.listedAt(a)
	if e == nil || n.tunnels[e.PID()] != nil { // its own word is that it is elsewhere
		return nil
	}
	n.tunnelOf(e.PID())
	return n.way(a)
}

// listedAt returns who is listed at an overlay address, nil for nobody.
func (n *Node) listedAt(a netip.Addr) *directory.Entry {
	var e *directory.Entry
	switch {
	case n.prefix4.Contains(a):
		e, _, _, _ = n.table.At(a)
	case n.prefix6.Contains(a):
		e = n.table.ByPrefix(service.PIDPrefix(a))
	}
	if e == nil || n.now().Unix() >= e.NotAfter() {
		return nil
	}
	return e
}
