package overlay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

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
	res := o.server.Query(ctx, dht.NewAddr(udpAddr(to)), string(m.q), dht.QueryInput{
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

// collector gathers the copies of an item that answers carry and keeps the
// newest. accept returns the item in an answer if its proof holds.
type collector struct {
	o      *Overlay
	accept func(*message) (Item, bool)
	settle time.Duration // how long to wait for others after enough copies
	need   int           // copies that are enough
	enough chan struct{}

	mu     sync.Mutex
	best   Item
	found  bool
	copies int
	timer  *time.Timer
}

// itemCollector collects the item of key and salt.
func (o *Overlay) itemCollector(key, salt []byte) *collector {
	target := Item{Key: key, Salt: salt}
	return &collector{
		o: o, need: enoughCopies, settle: o.cfg.Resend, enough: make(chan struct{}),
		accept: func(m *message) (Item, bool) {
			it := m.item(salt)
			// BEP 44 has the reader compare the target; comparing key and salt also
			// leaves SHA-1 out of it.
			ok := m.all(hasKey) && target.Key.Equal(it.Key) && it.Verify()
			return it, ok
		},
	}
}

// chunkCollector collects the chunk of that name: one copy is enough.
func (o *Overlay) chunkCollector(name [sha256.Size]byte) *collector {
	return &collector{
		o: o, need: 1, enough: make(chan struct{}),
		accept: func(m *message) (Item, bool) {
			return Item{Value: m.value}, !m.any(hasKey) && chunk(m.value).name() == name
		},
	}
}

// offer takes an answer into account.
func (c *collector) offer(r reply) {
	if !r.msg.all(hasValue) {
		return
	}
	it, ok := c.accept(&r.msg)
	if !ok {
		c.o.stats.Contradicted.Add(1)
		return
	}
	c.add(it)
}

func (c *collector) add(it Item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.found || it.newer(c.best):
		c.best, c.found, c.copies = it, true, 1
	case it.equal(c.best):
		c.copies++
	}
	if c.copies < c.need {
		return
	}
	// Silent nodes are not waited for any longer; those that answer are.
	if c.timer == nil {
		c.timer = time.AfterFunc(c.settle, func() { close(c.enough) })
	} else if c.timer.Stop() {
		c.timer.Reset(c.settle)
	}
}

// result stops the collector's timer and returns the newest item.
func (c *collector) result() (Item, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	return c.best, c.found
}

// collect asks the nodes near target, one replica and the own store for what c
// accepts. answered is the number of nodes that answered.
func (o *Overlay) collect(ctx context.Context, target id.ID, c *collector) (it Item, found bool, answered int) {
	if it, ok := o.store.get(o.cfg.Now(), target); ok {
		m := message{has: hasValue, value: it.Value}
		if it.Key != nil {
			m.setItem(it)
		}
		c.offer(reply{msg: m})
	}
	var one sync.WaitGroup
	var replica atomic.Int32
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	if all, _ := o.contacts(); all >= bucketSize {
		// With fewer contacts the walk comes by the replicas anyway.
		if replicas := o.others(o.cfg.Replicas()); len(replicas) > 0 {
			to := replicas[rand.IntN(len(replicas))] //nolint:gosec // load balancing
			one.Go(func() { replica.Add(o.askCopy(asking, to, target, c)) })
		}
	}
	_, answered = o.walk(ctx, walkSpec{q: get, target: target, answered: c.offer, enough: c.enough})
	select {
	case <-c.enough:
		cancel()
	default:
	}
	one.Wait()
	it, found = c.result()
	return it, found, answered + int(replica.Load())
}

// askCopy asks one node and returns how many answered.
func (o *Overlay) askCopy(ctx context.Context, to netip.AddrPort, target id.ID, c *collector) int32 {
	r, err := o.ask(ctx, to, &message{q: get, target: target}, queryTries)
	if err != nil {
		return 0
	}
	c.offer(r)
	return 1
}
