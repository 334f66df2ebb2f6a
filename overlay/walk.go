package overlay

import (
	"net/netip"
	"slices"

	"icvpn/internal/id"
)

// walkSpec is a walk towards a target.
type walkSpec struct {
	q      method // findNode or get
	target id.ID
	// direct are asked in any case, beside the paths; what they name goes to the
	// first path.
	direct []netip.AddrPort
	// oneOf are asked like direct, but each only when the one before is silent.
	oneOf []netip.AddrPort
	// answered is called for each answer and may abandon the walk; may be nil.
	// depth is the length of the path to the node, 0 for those asked directly.
	answered func(r reply, depth int)
	done     func(*walk)
}

// walk asks nodes ever nearer to a target until the nearest k that answer have
// been asked (Kademlia, Section 2.3), over paths that share no node (S/Kademlia,
// Section 4.4): each begins at other contacts, and asks only nodes that its own
// nodes named and no other path has asked. So one who names nothing but friends of
// his leads one path astray and no other.
//
//	contacts ─┬─> path 0: list ──ask──> answer ──names──> list ...
//	          └─> path 1: list ...                                 ──all over──> done
//
// Invariant: a node is asked once in a walk, by one path.
type walk struct {
	walkSpec
	m       *Machine
	paths   []path
	all     map[netip.AddrPort]*candidate
	budget  int // nodes that a path may ask
	flying  int // direct queries in flight
	replies int
	timer   *timer
	over    bool
}

// path has its candidates by distance. They may be other paths' as well: then
// whoever comes first asks, and the answer counts for both, but what it names does
// not.
type path struct {
	list   []*candidate
	asked  int
	flying int // of those, in flight and not silent so far
}

// fresh ──ask──> asking ──Resend──> slow ──> failed
//
//	└──────────────────┴──answer──> answered
type standing uint8

const (
	isFresh standing = iota
	isAsking
	isSlow // silent for once: no longer counted on
	isFailed
	hasAnswered
)

type candidate struct {
	Node     // without an ID until a bootstrap address answers
	standing standing
	depth    int    // 1 for those we knew, 0 for those asked directly
	path     *path  // that asked; nil for those asked directly
	in       uint64 // paths whose list it is in, a bit each
	token    [maxToken]byte
	tokenLen int
	question *question
}

// holder is a node near a target, with the token it takes a put for.
type holder struct {
	Node
	token []byte
}

// walk begins a walk. It goes on by itself, for walkTimeout at most.
func (m *Machine) walk(spec walkSpec) *walk {
	w := &walk{walkSpec: spec, m: m, all: make(map[netip.AddrPort]*candidate), paths: make([]path, m.cfg.Paths)}
	w.timer = m.after(walkTimeout, w.finish)
	m.table.touch(m.now, spec.target)
	w.seed()
	for _, a := range spec.direct {
		w.askDirectly(a)
	}
	w.askNext()
	w.advance()
	return w
}

// seed deals out what is known: the contacts that answer, the others if those are
// few, and then also the super peers to begin at, whose IDs nobody knows. Other
// bootstrap addresses, whoever named them, get pings until one has answered.
func (w *walk) seed() {
	m := w.m
	seeds := m.table.nearest(nil, w.target, maxWalk, true)
	if len(seeds) < bucketSize {
		seeds = m.table.nearest(nil, w.target, maxWalk, false)
		if len(seeds) < bucketSize {
			for _, a := range m.bootstrapAddrs() {
				if m.isSuper(a) && !slices.ContainsFunc(seeds, func(n Node) bool { return n.Addr == a }) {
					seeds = append(seeds, Node{Addr: a})
				}
			}
		}
	}
	for i, n := range seeds {
		w.learn(i%len(w.paths), n, 1)
	}
	w.paths = w.paths[:max(1, min(len(w.paths), len(seeds)))]
	w.budget = maxWalk / len(w.paths)
}

// learn puts a node into the list of path i.
func (w *walk) learn(i int, n Node, depth int) {
	c := w.all[n.Addr]
	if c == nil {
		c = &candidate{Node: n, depth: depth}
		w.all[n.Addr] = c
	}
	w.enlist(i, c)
}

func (w *walk) enlist(i int, c *candidate) {
	if c.in&(1<<i) != 0 {
		return
	}
	c.in |= 1 << i
	p := &w.paths[i]
	at, _ := slices.BinarySearchFunc(p.list, c, w.compare)
	p.list = slices.Insert(p.list, at, c)
}

// compare orders candidates by distance; those without an ID come first.
func (w *walk) compare(a, b *candidate) int {
	switch {
	case a.ID.IsZero() && b.ID.IsZero():
		return a.Addr.Compare(b.Addr)
	case a.ID.IsZero():
		return -1
	case b.ID.IsZero():
		return 1
	case nearer(&a.ID, &b.ID, &w.target):
		return -1
	case nearer(&b.ID, &a.ID, &w.target):
		return 1
	}
	return 0
}

// advance asks whom to ask next and ends the walk when there is nobody.
func (w *walk) advance() {
	if w.over {
		return
	}
	active := 0
	for i := range w.paths {
		if w.next(&w.paths[i], 0) {
			active++
		}
	}
	if active == 0 && w.flying == 0 {
		w.finish()
		return
	}
	for i := range w.paths {
		w.next(&w.paths[i], alpha/max(1, active))
	}
}

// next asks the next candidates of a path, so that room are in flight, and says
// whether it goes on: as long as one that is nearer than the k-th to answer may
// still answer.
func (w *walk) next(p *path, room int) (goesOn bool) {
	settled, counted := 0, 0 // those that answered, and those in flight we count on
	for _, c := range p.list {
		if settled == bucketSize {
			break
		}
		switch c.standing {
		case hasAnswered:
			if w.q == findNode || c.tokenLen > 0 {
				settled++ // storing nodes must have given a token
			}
		case isAsking:
			goesOn = true
			counted++
		case isSlow:
			goesOn = true
		case isFresh:
			if p.asked >= w.budget {
				continue
			}
			goesOn = true
			if p.flying < room && settled+counted < bucketSize {
				w.ask(p, c)
				counted++
			}
		case isFailed:
		}
	}
	return goesOn
}

func (w *walk) ask(p *path, c *candidate) {
	c.path = p
	p.asked++
	p.flying++
	w.send(c)
}

func (w *walk) askDirectly(addr netip.AddrPort) {
	c := w.all[addr]
	if c == nil {
		c = &candidate{Node: Node{Addr: addr}}
		w.all[addr] = c
	}
	if c.standing != isFresh {
		return
	}
	c.depth = 0
	w.flying++
	w.send(c)
}

// askNext asks the next of oneOf.
func (w *walk) askNext() {
	for before := w.flying; len(w.oneOf) > 0 && w.flying == before; {
		w.askDirectly(w.oneOf[0])
		w.oneOf = w.oneOf[1:]
	}
}

func (w *walk) send(c *candidate) {
	c.standing = isAsking
	c.question = w.m.ask(c.Addr, message{q: w.q, target: w.target}, queryTries, func(r reply, err error) { w.onReply(c, r, err) })
	c.question.slow = func() {
		c.standing = isSlow
		if c.path != nil {
			c.path.flying--
		} else {
			w.askNext()
		}
		w.advance()
	}
}

// onReply is called once for each node that was asked.
func (w *walk) onReply(c *candidate, r reply, err error) {
	switch {
	case c.path == nil:
		w.flying--
		if err != nil && c.standing == isAsking { // refused, and not silent
			w.askNext()
		}
	case c.standing == isAsking:
		c.path.flying--
	}
	c.question = nil
	if c.standing = isFailed; err == nil {
		w.take(c, r)
	}
	w.advance()
}

func (w *walk) take(c *candidate, r reply) {
	c.standing = hasAnswered
	c.tokenLen = copy(c.token[:], r.msg.token)
	w.replies++
	if c.ID != r.from.ID {
		c.ID = r.from.ID
		for i := range w.paths {
			slices.SortStableFunc(w.paths[i].list, w.compare)
		}
	}
	if w.answered != nil {
		w.answered(r, c.depth)
	}
	if w.over {
		return
	}
	i := 0
	if c.path == nil {
		w.enlist(0, c)
	} else {
		for &w.paths[i] != c.path {
			i++
		}
	}
	for _, n := range r.nodes {
		w.learn(i, n, c.depth+1)
	}
}

// finish ends the walk and says so.
func (w *walk) finish() {
	if !w.over {
		w.abandon()
		w.done(w)
	}
}

// abandon ends the walk.
func (w *walk) abandon() {
	w.over = true
	w.m.timers.stop(w.timer)
	for _, c := range w.all {
		w.m.forget(c.question)
	}
}

// holders returns the nodes that answered with a token: the k nearest, and the
// nearest half of k on each path, so that a path full of somebody's friends does
// not take all the copies. Nodes asked directly are among them in any case.
func (w *walk) holders() (holders []holder) {
	var answered []*candidate
	for _, c := range w.all {
		if c.standing == hasAnswered && c.tokenLen > 0 {
			answered = append(answered, c)
		}
	}
	slices.SortFunc(answered, func(a, b *candidate) int {
		if c := w.compare(a, b); c != 0 {
			return c
		}
		return a.Addr.Compare(b.Addr)
	})
	taken := make([]int, len(w.paths))
	for i, c := range answered {
		wanted := i < bucketSize || c.path == nil
		for j := range w.paths {
			if c.in&(1<<j) != 0 {
				taken[j]++
				wanted = wanted || taken[j] <= bucketSize/2
			}
		}
		if wanted {
			holders = append(holders, holder{c.Node, c.token[:c.tokenLen]})
		}
	}
	return holders
}
