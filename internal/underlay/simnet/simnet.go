package simnet

import (
	"container/heap"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"icvpn/internal/underlay"
)

// Link says what happens to datagrams from one address to another. The zero
// value delivers each of them at once.
type Link struct {
	Latency   time.Duration // added to every datagram
	Jitter    time.Duration // up to this much more, chosen evenly
	Loss      float64       // share of datagrams lost, 0 to 1
	Duplicate float64       // share delivered twice
	Reorder   float64       // share held back so that later ones overtake them
	MTU       int           // longest datagram that passes, others are lost silently; 0: any length
	Interface int           // longest datagram the sender's interface takes, others are refused with ErrTooLong; 0: any length
	Congested bool          // ECN-capable datagrams are marked CE (RFC 3168, Section 5)
	Down      bool          // nothing passes
}

// maxDatagram is the longest payload of UDP over IPv4.
const maxDatagram = 1<<16 - 1 - 20 - 8

// reorderDelay holds a datagram back where the link has no latency of its own.
const reorderDelay = 10 * time.Millisecond

// Config of a Network. The zero value is a perfect network.
type Config struct {
	// Seed makes runs differ; two runs with one seed agree.
	Seed uint64
	// Link applies where SetLink has not been called.
	Link Link
	// Trains makes readers with buffers of underlay.TrainBuffer bytes receive
	// what waits for them in trains, as UDP_GRO does.
	Trains bool
	// Intercept, if not nil, sees each datagram before the link does, may
	// change b in place, and drops it by returning false. It is called with the
	// network locked: it must not call back.
	Intercept func(from, to netip.AddrPort, b []byte) bool
}

// Network joins Conns. Make one with New.
type Network struct {
	cfg Config

	mu    sync.Mutex // guards what follows
	conns map[netip.AddrPort]*inbox
	links map[path]*link
	queue delivery
	seq   uint64
	ports uint16 // last port given to a Listen on port 0
}

// path is one direction between two hosts.
type path struct{ from, to netip.Addr }

// link is the state of a path.
type link struct {
	Link
	rng  *rand.Rand
	last time.Time // Invariant: no datagram in order arrives before this
}

// New returns an empty network.
func New(cfg Config) *Network {
	return &Network{
		cfg:   cfg,
		conns: make(map[netip.AddrPort]*inbox),
		links: make(map[path]*link),
		ports: 32767,
	}
}

// SetLink changes the link from one address to another, in that direction
// only, for datagrams sent from now on.
func (n *Network) SetLink(from, to netip.Addr, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.linkLocked(path{from, to}).Link = l
}

// linkLocked returns the state of p, made on first use.
func (n *Network) linkLocked(p path) *link {
	l := n.links[p]
	if l == nil {
		h := fnv.New64a()
		from, to := p.from.As16(), p.to.As16()
		h.Write(from[:])
		h.Write(to[:])
		l = &link{Link: n.cfg.Link, rng: rand.New(rand.NewPCG(n.cfg.Seed, h.Sum64()))}
		n.links[p] = l
	}
	return l
}

// send passes one datagram through its link. It borrows p.data.
func (n *Network) send(p packet) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.linkLocked(path{p.from.Addr(), p.to.Addr()})
	if len(p.data) > maxDatagram || l.Interface > 0 && len(p.data) > l.Interface {
		return underlay.ErrTooLong
	}
	p.data = append([]byte(nil), p.data...)
	if n.cfg.Intercept != nil && !n.cfg.Intercept(p.from, p.to, p.data) {
		return nil
	}
	if l.Congested && p.tos&underlay.ECNMask != 0 {
		p.tos |= underlay.ECNMask
	}
	for _, delay := range l.fate(len(p.data)) {
		n.scheduleLocked(p, delay)
	}
	return nil
}

// fate decides what happens to a datagram: the delays after which copies of it
// arrive. It draws the same number of random values each time, so that
// changing one probability leaves the other choices of a run alone.
func (l *link) fate(size int) []time.Duration {
	lost, dup, late, jit := l.rng.Float64(), l.rng.Float64(), l.rng.Float64(), l.rng.Float64()
	if l.Down || lost < l.Loss || l.MTU > 0 && size > l.MTU {
		return nil
	}
	now := time.Now()
	delay := l.Latency + time.Duration(jit*float64(l.Jitter))
	switch {
	case late < l.Reorder:
		delay += max(l.Latency, reorderDelay)
	case now.Add(delay).Before(l.last):
		delay = l.last.Sub(now)
		fallthrough
	default:
		l.last = now.Add(delay)
	}
	if dup < l.Duplicate {
		return []time.Duration{delay, delay}
	}
	return []time.Duration{delay}
}

// scheduleLocked delivers p after delay.
func (n *Network) scheduleLocked(p packet, delay time.Duration) {
	n.seq++
	p.due, p.seq = time.Now().Add(delay), n.seq
	heap.Push(&n.queue, p)
	if delay <= 0 {
		n.deliverLocked()
		return
	}
	time.AfterFunc(delay, n.deliver)
}

// deliver is called by timers. Each delivers all that is due, in order, since
// timers that expire together run in any order.
func (n *Network) deliver() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deliverLocked()
}

func (n *Network) deliverLocked() {
	now := time.Now()
	for len(n.queue) > 0 && !n.queue[0].due.After(now) {
		p := heap.Pop(&n.queue).(packet)
		if in := n.conns[p.to]; in != nil {
			in.put(p)
		}
	}
}

// packet is a datagram under way.
type packet struct {
	from, to netip.AddrPort
	data     []byte
	tos      uint8
	due      time.Time
	seq      uint64
}

// delivery is a heap of packets by due time, then by order of sending.
type delivery []packet

func (d delivery) Len() int { return len(d) }
func (d delivery) Less(i, j int) bool {
	if d[i].due.Equal(d[j].due) {
		return d[i].seq < d[j].seq
	}
	return d[i].due.Before(d[j].due)
}
func (d delivery) Swap(i, j int) { d[i], d[j] = d[j], d[i] }
func (d *delivery) Push(x any)   { *d = append(*d, x.(packet)) }
func (d *delivery) Pop() any {
	last := len(*d) - 1
	p := (*d)[last]
	(*d)[last] = packet{}
	*d = (*d)[:last]
	return p
}
