package node

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"icvpn/internal/directory"
	"icvpn/internal/port"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

// Reflection: super peers and helpers say from where our datagrams come. A super
// peer's word is taken. A helper is a member like others: its word about a new
// address counts when another one says the same.

const (
	// maxObserved keeps room for addresses of other kinds in a contact record.
	maxObserved = 4
	// helpersAsked are asked in a round beside the super peers.
	helpersAsked = 2
)

// observed are our addresses as others see them. The zero value is ready.
type observed struct {
	open atomic.Bool // others see one of our own addresses: there is no NAT

	mu    sync.Mutex
	asked map[[8]byte]reflector             // in this round, not answered yet
	said  map[netip.AddrPort]netip.AddrPort // in this round: who, which
	round int
	seen  []netip.AddrPort
}

// reflector is whom we ask.
type reflector struct {
	addr   netip.AddrPort
	helper bool
}

func (o *observed) all() []netip.AddrPort {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.seen)
}

// askReflection asks under which address others see us. Behind a NAT all super
// peers are asked: the question keeps the mapping towards each.
func (n *Node) askReflection() {
	n.judgeReach()
	n.tendHelping()
	for _, who := range n.reflectors() {
		tx := n.observed.expect(who)
		if err := n.port.SendControl(n.ring, seal.TypeReflect, seal.Newest, port.ReflectQuery(tx), seal.PadQuery, who.addr); err != nil {
			n.log.Debug("reflection not asked for", "addr", who.addr, "err", err)
		}
	}
}

// expect notes a question.
func (o *observed) expect(who reflector) (tx [8]byte) {
	rand.Read(tx[:])
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked[tx] = who
	return tx
}

// reflectors begins a round: all super peers and a few helpers. Where there is no
// NAT to keep open and two answers have agreed, two are asked.
func (n *Node) reflectors() (all []reflector) {
	supers := n.superPeers.Addrs()
	var helpers []netip.AddrPort
	for _, h := range n.helperView().proved {
		if h.Roles.Has(directory.HelperReflect) && !slices.Contains(supers, h.Addr) {
			helpers = append(helpers, h.Addr)
		}
	}
	steady, round := n.observed.begin()
	asked := min(helpersAsked, len(helpers))
	if few := helpersAsked - 1; steady && n.observed.open.Load() && len(supers)+min(few, asked) >= 2 {
		asked = min(few, asked)
		supers = turn(supers, round, 2-asked)
	}
	for _, a := range supers {
		all = append(all, reflector{addr: a})
	}
	for _, a := range turn(helpers, round, asked) {
		all = append(all, reflector{addr: a, helper: true})
	}
	return all
}

// turn returns n of all, others each round.
func turn(all []netip.AddrPort, round, n int) (some []netip.AddrPort) {
	for i := range min(n, len(all)) {
		some = append(some, all[(round*n+i)%len(all)])
	}
	return some
}

// begin starts a round. The mapping is steady if at least two have answered in the
// last one, nobody was silent, and all of an address family said the same, which
// we knew.
func (o *observed) begin() (steady bool, round int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	steady = len(o.said) >= 2 && len(o.asked) == 0
	by := map[bool]netip.AddrPort{}
	for _, a := range o.said {
		first, ok := by[a.Addr().Is4()]
		if !ok {
			by[a.Addr().Is4()] = a
		}
		steady = steady && (!ok || first == a) && slices.Contains(o.seen, a)
	}
	o.asked, o.said = map[[8]byte]reflector{}, map[netip.AddrPort]netip.AddrPort{}
	o.round++
	return steady, o.round
}

// onReflected takes an answer to a question of ours. A new address makes a new
// contact record.
func (n *Node) onReflected(tx [8]byte, from, addr netip.AddrPort) {
	addr = unmap(addr)
	if !service.UsableEndpoint(addr) || !n.observed.learn(tx, unmap(from), addr) {
		return
	}
	n.judgeReach()
	n.tendHomes(time.Now())
	select {
	case n.contactNow <- struct{}{}:
	default:
	}
}

// learn takes in what was said, and says whether we did not know.
func (o *observed) learn(tx [8]byte, from, addr netip.AddrPort) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	who, ok := o.asked[tx]
	if !ok || who.helper && from != who.addr {
		return false
	}
	delete(o.asked, tx)
	o.said[who.addr] = addr
	if slices.Contains(o.seen, addr) {
		return false
	}
	if who.helper {
		agree := 0
		for _, said := range o.said {
			if said == addr {
				agree++
			}
		}
		if agree < 2 {
			return false
		}
	}
	o.seen = append([]netip.AddrPort{addr}, o.seen[:min(len(o.seen), maxObserved-1)]...)
	return true
}

// judgeReach sees whether others see us under an address that is our own, or that
// the operator named: then they can reach us, too.
func (n *Node) judgeReach() {
	own := slices.Clone(n.cfg.Advertise)
	if n.cfg.Endpoints != nil {
		own = append(own, n.cfg.Endpoints()...)
	}
	n.observed.open.Store(slices.ContainsFunc(n.observed.all(), func(a netip.AddrPort) bool { return slices.Contains(own, a) }))
}

// unmap returns the one form of an address that lists and contacts have.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
