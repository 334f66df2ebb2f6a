package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/anacrolix/dht/v2"
	knn "github.com/anacrolix/dht/v2/k-nearest-nodes"
	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/dht/v2/traversal"
	"github.com/anacrolix/dht/v2/types"

	"icvpn/internal/id"
)

// Errors of a single query; callers of the package see them only from Ping.
var (
	errOwn         = errors.New("overlay: the address is our own")
	errNotAdmitted = errors.New("overlay: the node is not admitted")
)

// reply is what a node answered to a query of ours.
type reply struct {
	from  Node
	nodes []Node
	token string
	msg   message // key, seq, sig and value, as far as has says
}

// ask sends one query and waits for the answer. A silent node is noted in the
// table.
func (o *Overlay) ask(ctx context.Context, to netip.AddrPort, m *message, tries int) (reply, error) {
	o.mu.Lock()
	wait := o.queries.take(o.cfg.Now(), host(to.Addr()), true)
	o.mu.Unlock()
	if wait > 0 && !sleep(ctx, wait) {
		return reply{}, ctx.Err()
	}
	o.stats.Asked.Add(1)
	res := o.server.Query(ctx, labelled{dht.NewAddr(udpAddr(to)), m}, string(m.q), dht.QueryInput{
		MsgArgs:      m.libraryArgs(),
		RateLimiting: dht.QueryRateLimiting{NotAny: true},
		NumTries:     tries,
	})
	if res.Err != nil {
		if ctx.Err() != nil {
			return reply{}, ctx.Err()
		}
		o.onSilence(to)
		return reply{}, fmt.Errorf("%w: %v", ErrUnreachable, to)
	}
	if res.Reply.E != nil {
		return reply{}, refusedError(res.Reply.E.Code)
	}
	return o.readReply(to, res.Reply.R)
}

// refusedError is the code of a refusal.
type refusedError int

func (e refusedError) Error() string { return fmt.Sprintf("overlay: refused with code %d", int(e)) }

// libraryArgs returns the arguments of query m for the library to encode; conn
// re-encodes them.
func (m *message) libraryArgs() krpc.MsgArgs {
	a := krpc.MsgArgs{Target: krpc.ID(m.target), Token: string(m.token)}
	if m.all(hasKey) {
		a.K, a.Sig, a.Seq, a.Salt = m.key, m.sig, &m.seq, m.salt
	}
	if m.all(hasValue) {
		a.V = m.value
	}
	return a
}

func (o *Overlay) readReply(from netip.AddrPort, r *krpc.Return) (reply, error) {
	if r == nil {
		return reply{}, fmt.Errorf("%w: %v", ErrUnreachable, from)
	}
	out := reply{from: Node{id.ID(r.ID), from}}
	if out.from.ID == o.cfg.Self {
		return reply{}, errOwn
	}
	if !o.cfg.Admit(out.from.ID, from) {
		return reply{}, errNotAdmitted
	}
	if r.Token != nil {
		out.token = *r.Token
	}
	for _, n := range r.Nodes6 {
		var compact [nodeSize]byte
		for _, n := range readNodes(appendNode(compact[:0], nodeOf(n))) {
			if n.ID != o.cfg.Self && o.askable(n.Addr, from) {
				out.nodes = append(out.nodes, n)
			}
		}
	}
	// The bytes were written by message.append, a byte string and nothing else.
	in := reader{r.V}
	if v, ok := in.str(MaxValue); ok {
		out.msg.value, out.msg.has = v, hasValue
		if r.Seq != nil && r.K != [len(r.K)]byte{} {
			out.msg.key, out.msg.seq, out.msg.sig = r.K, *r.Seq, r.Sig
			out.msg.has |= hasKey | hasSeq | hasSig
		}
	}
	return out, nil
}

func nodeOf(n krpc.NodeInfo) Node {
	a := n.Addr.ToNodeAddrPort().AddrPort
	return Node{id.ID(n.ID), unmap(a)}
}

func libraryNode(n Node) krpc.NodeInfo {
	u := udpAddr(n.Addr)
	return krpc.NodeInfo{ID: krpc.ID(n.ID), Addr: krpc.NodeAddr{IP: u.IP, Port: u.Port}}
}

// onSilence notes that nobody answered at addr. While nothing at all is heard the
// fault is taken to be ours, and the table kept, though not for ever.
func (o *Overlay) onSilence(addr netip.AddrPort) {
	o.stats.Silent.Add(1)
	now := o.cfg.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	online := now.Sub(o.lastHeard) < onlineWindow
	o.table.onSilence(addr, now.Add(-10*o.cfg.Revalidate), online)
}

// walkSpec is a walk towards a target.
type walkSpec struct {
	q        method // findNode or get
	target   id.ID
	answered func(reply)     // called for each answer, by several goroutines at once; may be nil
	enough   <-chan struct{} // ends the walk early; may be nil
}

// holder is a node near a target, with the token it takes a put for.
type holder struct {
	Node
	token string
}

// walk asks nodes ever nearer to the target until the nearest k that answer have
// been asked (Kademlia, Section 2.3), and returns those and how many answered in
// all. The library's traversal holds the order; the queries are ours.
func (o *Overlay) walk(ctx context.Context, spec walkSpec) (nearest []holder, answered int) {
	ctx, cancel := context.WithTimeout(ctx, walkTimeout)
	defer cancel()
	w := walker{o: o, spec: spec, asked: make(map[netip.AddrPort]bool)}
	op := traversal.Start(traversal.OperationInput{
		Target:  krpc.ID(spec.target),
		Alpha:   alpha,
		K:       bucketSize,
		DoQuery: w.query,
		// Storing nodes must have given a token; for find_node any node will do.
		DataFilter: func(data any) bool { return spec.q == findNode || data.(string) != "" },
	})
	op.AddNodes(w.seeds())
	select {
	case <-op.Stalled():
	case <-ctx.Done():
	case <-spec.enough:
	}
	op.Stop()
	<-op.Stopped()
	op.Closest().Range(func(e knn.Elem) {
		nearest = append(nearest, holder{Node{id.ID(e.ID), unmap(e.Addr.AddrPort)}, e.Data.(string)})
	})
	return nearest, int(w.answered.Load())
}

type walker struct {
	o        *Overlay
	spec     walkSpec
	answered atomic.Int32

	mu    sync.Mutex
	asked map[netip.AddrPort]bool
}

// seeds returns the whole table and, as long as that is small, the bootstrap
// addresses, whose IDs nobody knows.
func (w *walker) seeds() []types.AddrMaybeId {
	o := w.o
	o.mu.Lock()
	contacts := o.table.nearest(w.spec.target, maxWalk, false)
	o.mu.Unlock()
	var infos []krpc.NodeInfo
	known := make(map[netip.AddrPort]bool)
	for _, n := range contacts {
		infos = append(infos, libraryNode(n))
		known[n.Addr] = true
	}
	seeds := types.AddrMaybeIdSliceFromNodeInfoSlice(infos)
	if len(contacts) < bucketSize {
		for _, a := range first(o.bootstrapAddrs(), maxReplicas) {
			if !known[a] {
				n := libraryNode(Node{Addr: a})
				seeds = append(seeds, types.AddrMaybeId{Addr: n.Addr.ToNodeAddrPort()})
			}
		}
	}
	return seeds
}

// query is called by the traversal for each node in turn.
func (w *walker) query(ctx context.Context, lib krpc.NodeAddr) (res traversal.QueryResult) {
	addr := unmap(lib.ToNodeAddrPort().AddrPort)
	w.mu.Lock()
	skip := w.asked[addr] || len(w.asked) >= maxWalk
	w.asked[addr] = true
	w.mu.Unlock()
	if skip {
		return res
	}
	r, err := w.o.ask(ctx, addr, &message{q: w.spec.q, target: w.spec.target}, queryTries)
	if err != nil {
		return res
	}
	w.answered.Add(1)
	if w.spec.answered != nil {
		w.spec.answered(r)
	}
	from := libraryNode(r.from)
	res.ResponseFrom, res.ClosestData = &from, r.token
	for _, n := range r.nodes {
		res.Nodes6 = append(res.Nodes6, libraryNode(n))
	}
	return res
}
