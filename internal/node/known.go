package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// A machine that starts again while no super peer is there enters the overlay at
// nodes that it knew before (docs/protocol/state.md). They are a hint: each gets a
// ping, and counts when it has answered as who it was.
//
//	contacts that answer ──knownLoop──> known ──SaveNodes──> disk
//	Config.Nodes ──parse──> known ──while nobody has answered──> entryPoints

// We chose:
const (
	// maxKnownNodes are kept, those first that have been there longest: who was
	// there long will be there long (Kademlia, Section 2.2).
	maxKnownNodes = 32
	// knownLife is how long one is kept that was not heard of: as a ticket.
	knownLife = 7 * 24 * time.Hour
	// They are written when others are known than were written, knownFirst after the
	// start, each knownEvery and at the end; the same ones once in knownRenew.
	knownFirst, knownEvery, knownRenew = time.Minute, 30 * time.Minute, 24 * time.Hour
	// knownAsked are asked at a time.
	knownAsked = 8
	// knownGrace is how long others are believed to be members until the directories say
	// so: those from before, and all while a directory is read for the first time.
	knownGrace = 30 * time.Minute

	knownVersion = 1
	maxKnownFile = 4 << 10
)

// knownNode is a node at a time.
type knownNode struct {
	_    struct{} `cbor:",toarray"`
	PID  id.ID
	Addr netip.AddrPort
	Seen int64 // Unix seconds of our own clock
}

type knownFile struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Nodes   []knownNode
}

// knownNodes are the nodes to enter at. The zero value is ready.
type knownNodes struct {
	mu     sync.Mutex
	nodes  []knownNode    // known longest first
	before map[id.ID]bool // as load left it
	wrote  time.Time
}

// load takes in what a former process saved; what is not of use is left out.
func (k *knownNodes) load(b []byte, now time.Time, usable func([]netip.AddrPort) []netip.AddrPort) error {
	var f knownFile
	if err := wire.Unmarshal(b, &f, maxKnownFile); err != nil {
		return fmt.Errorf("node: kept nodes: %w", err)
	}
	if f.Version != knownVersion || len(f.Nodes) > maxKnownNodes {
		return fmt.Errorf("node: kept nodes have version %d, this binary knows %d", f.Version, knownVersion)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.before = map[id.ID]bool{}
	for _, n := range f.Nodes {
		if !n.PID.IsZero() && !old(n, now) && len(usable([]netip.AddrPort{n.Addr})) > 0 {
			k.nodes = append(k.nodes, n)
			k.before[n.PID] = true
		}
	}
	return nil
}

func old(n knownNode, now time.Time) bool { return now.Sub(time.Unix(n.Seen, 0)) > knownLife }

// some returns a few addresses, others each time.
func (k *knownNodes) some() (addrs []netip.AddrPort) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, i := range rand.Perm(len(k.nodes))[:min(knownAsked, len(k.nodes))] {
		addrs = append(addrs, k.nodes[i].Addr)
	}
	return addrs
}

// had says whether a former process knew a node. It takes no lock: see asks it.
func (k *knownNodes) had(pid id.ID) bool { return k.before[pid] }

// see takes in who answers now and returns what is to be written, nil for nothing.
// Nodes known already keep their places; who is silent loses his to others, and to
// nobody if he is not believed any more.
func (k *knownNodes) see(answering []knownNode, believed func(id.ID) bool, now time.Time) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	var next, silent []knownNode
	for _, n := range k.nodes {
		if i := slices.IndexFunc(answering, func(a knownNode) bool { return a.PID == n.PID }); i >= 0 {
			next = append(next, answering[i])
		} else if !old(n, now) && believed(n.PID) {
			silent = append(silent, n)
		}
	}
	for _, a := range answering {
		if !slices.ContainsFunc(next, func(n knownNode) bool { return n.PID == a.PID }) {
			next = append(next, a)
		}
	}
	next = append(next, silent...)
	next = next[:min(len(next), maxKnownNodes)]
	same := slices.EqualFunc(next, k.nodes, func(a, b knownNode) bool { return a.PID == b.PID && a.Addr == b.Addr })
	k.nodes = next
	if same && (len(next) == 0 || now.Sub(k.wrote) < knownRenew) {
		return nil
	}
	k.wrote = now
	return wire.Marshal(knownFile{Version: knownVersion, Nodes: next})
}

// knownLoop keeps the nodes to enter at.
func (n *Node) knownLoop(ctx context.Context) {
	if n.cfg.SaveNodes == nil {
		return
	}
	for wait := knownFirst; ; wait = knownEvery {
		if !sleep(ctx, wait) {
			n.saveNodes()
			return
		}
		n.saveNodes()
	}
}

// saveNodes writes them if they are others than before. Once a directory was read they
// are members: who got in while there was none, having the group key, does not get in
// by the file the next time. Silent ones of before have knownGrace to be listed.
func (n *Node) saveNodes() {
	now := time.Now()
	var answering []knownNode
	supers, listed := n.superPeers.Addrs(), n.listed.Load()
	believed := func(pid id.ID) bool { return !listed || n.mayJoinOverlay(pid, netip.AddrPort{}) }
	for _, c := range n.overlay.Nodes() {
		// Super peers stand in the descriptor.
		if !slices.Contains(supers, c.Addr) && (!listed || n.isMember(c.ID)) {
			answering = append(answering, knownNode{PID: c.ID, Addr: c.Addr, Seen: now.Unix()})
		}
	}
	// The nearest would all be of one corner of the overlay.
	rand.Shuffle(len(answering), func(i, j int) { answering[i], answering[j] = answering[j], answering[i] })
	if b := n.known.see(answering, believed, now); b != nil {
		if err := n.cfg.SaveNodes(b); err != nil {
			n.log.Warn("known nodes not saved", "err", err)
		}
	}
}

// knownEntries are where to enter the overlay when nobody has answered.
func (n *Node) knownEntries() []netip.AddrPort {
	if len(n.overlay.Nodes()) > 0 {
		return nil
	}
	return n.known.some()
}

// comesBack says whether a node may be a contact although no directory lists it:
// while directories are being read for the first time, and who was known before for as
// long as that may take. Who has the group key may so become a contact, and can be
// silent or name friends; what he serves is verified.
func (n *Node) comesBack(pid id.ID) bool {
	return n.table.Len() == 0 && !n.listed.Load() || n.reading.Load() ||
		time.Since(n.started) < knownGrace && n.known.had(pid)
}
