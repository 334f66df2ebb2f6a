package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/rand/v2"
	"net/netip"
	"time"

	"icvpn/overlay"
)

// epoch is when every run begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is the clock and the network between the nodes.
type world struct {
	cfg    Config
	rand   *rand.Rand
	now    time.Duration // since epoch
	events events
	nodes  []*node
	supers []netip.AddrPort
	spare  [][]byte // buffers of datagrams that have arrived

	digest    hash.Hash // over every datagram that was sent
	header    [32]byte
	datagrams uint64
	lost      uint64 // by the network
	void      uint64 // to nodes that are dead, or never were
}

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0)), digest: sha256.New()} //nolint:gosec // a simulation is to be repeatable
	for i := range cfg.SuperPeers {
		w.supers = append(w.supers, addrOf(i))
	}
	return w
}

// event is something that happens at a time: a datagram arrives, a node wakes up or
// the scenario goes on.
type event struct {
	at    time.Duration
	order uint64 // of two at one time the one that was planned first
	node  *node
	pkt   []byte // nil: wake up
	from  netip.AddrPort
	then  func()
}

// events is a binary heap of values: a run has some hundred million of them.
type events struct {
	heap    []event
	planned uint64
}

func (e *events) less(i, j int) bool {
	a, b := &e.heap[i], &e.heap[j]
	return a.at < b.at || a.at == b.at && a.order < b.order
}

func (e *events) push(x event) {
	e.planned++
	x.order = e.planned
	e.heap = append(e.heap, x)
	for i := len(e.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !e.less(i, up) {
			return
		}
		e.heap[i], e.heap[up] = e.heap[up], e.heap[i]
		i = up
	}
}

func (e *events) pop() event {
	top, last := e.heap[0], len(e.heap)-1
	e.heap[0], e.heap[last] = e.heap[last], event{}
	e.heap = e.heap[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			return top
		}
		if down+1 < last && e.less(down+1, down) {
			down++
		}
		if !e.less(down, i) {
			return top
		}
		e.heap[i], e.heap[down] = e.heap[down], e.heap[i]
		i = down
	}
}

// plan has the scenario go on at a time.
func (w *world) plan(at time.Duration, then func()) { w.events.push(event{at: at, then: then}) }

// runUntil lets everything happen that happens before end.
func (w *world) runUntil(end time.Duration) {
	for len(w.events.heap) > 0 && w.events.heap[0].at < end {
		e := w.events.pop()
		w.now = e.at
		switch {
		case e.then != nil:
			e.then()
		case e.pkt != nil:
			w.arrive(e)
		case e.node.alive && e.node.wakes == e.at:
			e.node.wakes = 0
			e.node.machine.Tick(w.time())
			w.settle(e.node)
		}
	}
	w.now = end
}

func (w *world) time() time.Time { return epoch.Add(w.now) }

func (w *world) arrive(e event) {
	if e.node.alive {
		e.node.machine.Receive(w.time(), e.pkt, e.from, nil)
		w.settle(e.node)
	} else {
		w.void++
	}
	w.spare = append(w.spare, e.pkt)
}

// settle sends what a node has to send and plans its waking up. A node has one
// event for that at a time, unless it wants to be woken earlier.
func (w *world) settle(n *node) {
	n.machine.Flush(n.send)
	n.note(w.now)
	wake := n.machine.Wake()
	if wake.IsZero() {
		return
	}
	at := max(wake.Sub(epoch), w.now)
	if n.wakes == 0 || at < n.wakes {
		n.wakes = at
		w.events.push(event{at: at, node: n})
	}
}

// transmit sends a datagram from n on its way. It borrows d.
func (w *world) transmit(n *node, d overlay.Datagram) error {
	w.datagrams++
	to := indexOf(d.To)
	binary.BigEndian.PutUint64(w.header[:], uint64(w.now))
	binary.BigEndian.PutUint64(w.header[8:], uint64(n.index))
	binary.BigEndian.PutUint64(w.header[16:], uint64(to))
	binary.BigEndian.PutUint64(w.header[24:], uint64(len(d.Pkt)))
	w.digest.Write(w.header[:])
	w.digest.Write(d.Pkt)
	if to < 0 || to >= len(w.nodes) {
		w.void++ // like UDP, nobody says so
		return nil
	}
	if w.cfg.Loss > 0 && w.rand.Float64() < w.cfg.Loss {
		w.lost++
		return nil
	}
	w.events.push(event{at: w.now + w.latency(n.index, to), node: w.nodes[to], pkt: w.copy(d.Pkt), from: n.addr})
	return nil
}

// latency is one way between two nodes: the same both ways and always, and a tenth
// of it at random.
func (w *world) latency(a, b int) time.Duration {
	if a > b {
		a, b = b, a
	}
	pair := mix(mix(w.cfg.Seed^uint64(a)) ^ uint64(b))
	share := 0.5 + float64(pair>>11)/(1<<53)
	share += share * 0.1 * (w.rand.Float64() - 0.5)
	return max(time.Microsecond, time.Duration(share*float64(w.cfg.RTT)/2))
}

// mix is the finisher of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (w *world) copy(pkt []byte) []byte {
	var buf []byte
	if n := len(w.spare); n > 0 {
		buf, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		buf = make([]byte, 0, overlay.MaxPayload)
	}
	return append(buf[:0], pkt...)
}

// addrOf is the address of the i-th node, each in a /24 of its own.
func addrOf(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10 + byte(i>>16), byte(i >> 8), byte(i), 1}), 4500)
}

func indexOf(a netip.AddrPort) int {
	if !a.Addr().Is4() {
		return -1
	}
	b := a.Addr().As4()
	return int(b[0]-10)<<16 | int(b[1])<<8 | int(b[2])
}
