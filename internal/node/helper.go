package node

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/id"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// Helpers are members that super peers have promoted: they keep a copy of every
// item, and tell others from where their datagrams come (docs/protocol/helpers.md).
//
//	root of super peer S ─> list[S] ─┐            ┌─> replicas, entry points, reflection
//	root of super peer T ─> list[T] ─┴─> current ─┤
//	descriptor, table of members ─────────┘       └─> what we are ourselves
//
// A list counts only from a super peer of the descriptor, and in it only those
// that are members, until the time it says, and once they have answered where it
// says (helper_proof.go). A helper learns nothing that every node of the overlay
// cannot learn.

// We chose:
const (
	// maxReplicas helpers get each item beside the super peers: the same ones for
	// everybody, so that what one writes another finds.
	maxReplicas = 4
	// storeItems and storeBytes are what a member keeps for others, helperItems and
	// helperBytes what a helper does: 16,000 members' contacts are a quarter of it.
	storeItems, storeBytes   = 8192, 8 << 20
	helperItems, helperBytes = 1 << 16, 64 << 20
	// helpersFor is how long a view of the lists is used.
	helpersFor = 5 * time.Second
)

// helping is what we know of helpers, and what we are. The zero value is ready.
type helping struct {
	mu    sync.Mutex
	lists map[id.ID][]directory.Helper // by super peer, of its newest root
	view  helperView
	role  directory.HelperRoles // put in force
	since time.Time             // of role
}

// helperView is what the lists say at a time.
type helperView struct {
	ends     time.Time
	others   []directory.Helper // in the order in which everybody has them
	proved   []directory.Helper // those of them that are where they are said to be
	replicas []netip.AddrPort
	self     directory.Helper // Roles is 0 if we are none
}

// onHelpers takes in the helpers of a super peer's newest root.
func (n *Node) onHelpers(issuer id.ID, all []directory.Helper) {
	n.helping.mu.Lock()
	if n.helping.lists == nil {
		n.helping.lists = map[id.ID][]directory.Helper{}
	}
	n.helping.lists[issuer] = slices.Clone(all)
	n.helping.view.ends = time.Time{}
	n.helping.mu.Unlock()
	n.tendHelping()
}

// helperView returns what counts now. Called for each put of others.
func (n *Node) helperView() helperView {
	n.helping.mu.Lock()
	defer n.helping.mu.Unlock()
	return n.helperViewLocked()
}

func (n *Node) helperViewLocked() helperView {
	if now := n.now(); !now.Before(n.helping.view.ends) {
		n.helping.view = n.viewOf(n.helping.lists, now)
	}
	return n.helping.view
}

// viewOf joins the lists: the first of each, then the second of each, so that no
// super peer's list comes before another's.
func (n *Node) viewOf(lists map[id.ID][]directory.Helper, now time.Time) helperView {
	v := helperView{ends: now.Add(helpersFor)}
	issuers := slices.SortedFunc(maps.Keys(lists), func(a, b id.ID) int { return bytes.Compare(a[:], b[:]) })
	places := map[id.ID]int{}
	for i := range directory.MaxHelpers {
		for _, issuer := range issuers {
			if i >= len(lists[issuer]) {
				continue
			}
			h := lists[issuer][i]
			at, known := places[h.PID]
			switch {
			case !n.mayName(issuer, now) || now.Unix() >= h.Until:
			case h.PID == n.self:
				v.self = joined(v.self, h)
			case known:
				v.others[at] = joined(v.others[at], h)
			case n.table.Has(h.PID) && len(n.usable([]netip.AddrPort{h.Addr})) > 0:
				places[h.PID] = len(v.others)
				v.others = append(v.others, h)
			}
		}
	}
	for _, h := range v.others {
		if !n.proofs.has(h, now) {
			continue
		}
		v.proved = append(v.proved, h)
		if h.Roles.Has(directory.HelperStore) && len(v.replicas) < maxReplicas {
			v.replicas = append(v.replicas, h.Addr)
		}
	}
	return v
}

// joined is what two super peers say of one helper; a may be nobody yet.
func joined(a, b directory.Helper) directory.Helper {
	if a.Roles == 0 {
		return b
	}
	a.Roles |= b.Roles
	a.Since, a.Until = min(a.Since, b.Since), max(a.Until, b.Until)
	return a
}

// mayName says whether a super peer may say who helps.
func (n *Node) mayName(issuer id.ID, now time.Time) bool {
	sp, ok := n.trust().Descriptor.SuperPeer(issuer)
	return ok && sp.Has(service.RoleAdmit) && now.Unix() < sp.Expires
}

// replicas are where every item is to be found: super peers, and helpers, which
// are there when those are not.
func (n *Node) replicas() []netip.AddrPort {
	return append(n.superPeers.Addrs(), n.helperView().replicas...)
}

// tendHelping puts in force what super peers made of us, and looks after the others.
func (n *Node) tendHelping() {
	n.proveHelpers()
	roles, changed := n.takeRole()
	if !changed {
		return
	}
	items, bytes := storeItems, storeBytes
	if roles.Has(directory.HelperStore) {
		items, bytes = helperItems, helperBytes
	}
	n.overlay.SetStore(items, bytes) // not with the lock held: the overlay asks for replicas
	if roles == 0 {
		n.log.Info("this machine is no helper of the service any more")
		return
	}
	n.log.Info("promoted: this machine is a helper of the service", "roles", strings.Join(roles.Names(), ","))
}

func (n *Node) takeRole() (roles directory.HelperRoles, changed bool) {
	n.helping.mu.Lock()
	defer n.helping.mu.Unlock()
	self := n.helperViewLocked().self
	if !n.mayHelp() {
		self.Roles = 0
	}
	changed = self.Roles != n.helping.role
	n.helping.role, n.helping.since = self.Roles, time.Unix(self.Since, 0)
	return self.Roles, changed
}

// helps says what we are, since when.
func (n *Node) helps() (directory.HelperRoles, time.Time) {
	n.helping.mu.Lock()
	defer n.helping.mu.Unlock()
	if n.helping.role != 0 && n.helperViewLocked().self.Roles == 0 {
		return 0, time.Time{} // not tended yet
	}
	return n.helping.role, n.helping.since
}

// mayHelp says whether this machine answers super peers that look for helpers: not
// if the operator refuses, and not behind a NAT, where others cannot reach it.
func (n *Node) mayHelp() bool { return !n.cfg.NeverHelp && n.observed.open.Load() }

// onReflectQuery answers a query: super peers' if we may help, that is how they
// measure us, everybody's if we do. Called by the port's readers.
func (n *Node) onReflectQuery(o seal.Opened, from netip.AddrPort) {
	roles, _ := n.helps()
	asks := slices.Contains(n.superPeers.Addrs(), unmap(from))
	if !n.mayHelp() || !asks && !roles.Has(directory.HelperReflect) {
		n.stats.notHelping.Add(1)
		return
	}
	answer := n.reflector.Answer
	if asks {
		answer = n.reflector.AnswerSuper
	}
	if err := answer(o, from); err != nil {
		n.log.Debug("reflection not sent", "addr", from, "err", err)
	}
}
