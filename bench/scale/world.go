//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/bench/internal/measure"
	"icvpn/internal/control"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/node"
	"icvpn/internal/owner"
	"icvpn/internal/port"
	"icvpn/internal/service"
	"icvpn/internal/superpeer"
	"icvpn/internal/underlay"
)

// The service of every world: web may reach app, app may reach db.
var (
	roles = []string{"web", "app", "db"}
	rules = []filter.Rule{
		{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}},
		{From: filter.Selector{"role": "app"}, To: filter.Selector{"role": "db"}},
	}
	prefix4 = netip.MustParsePrefix("10.64.0.0/10")
)

// portNumber is the one port of every machine.
const portNumber = 4500

// mayReach says what the rules say, in the words of this file.
func mayReach(from, to string) bool {
	return from == "web" && to == "app" || from == "app" && to == "db"
}

// world is a service and its machines, as far as they are in this process.
//
//	super peers 172.20.0.1, .2 ... ── network ── peers 172.21.0.1, 172.21.1.1 ...
type world struct {
	ctx   context.Context
	net   *network // nil: sockets of the kernel, in a namespace
	svc   *owner.Service
	log   *slog.Logger
	book  book
	gates map[string]*gate

	mu     sync.Mutex
	supers []*super
	peers  []*peer
	failed error // of what ran
	wg     sync.WaitGroup
	end    context.CancelFunc
}

// super is one super peer.
type super struct {
	*superpeer.SuperPeer
	endpoint string
	addr     netip.Addr
	host     *host
	listener *listener
	store    *ledger.Memory
	cancel   context.CancelFunc
	done     chan struct{}
}

// peer is one machine with its node.
type peer struct {
	*node.Node
	world *world
	name  string
	role  string
	key   ed25519.PrivateKey
	addr  netip.Addr
	host  *host     // on a network in memory
	conn  port.Conn // the same, or a socket of the kernel
	dev   *device
	join  node.JoinConfig

	pid    id.ID
	addr4  netip.Addr
	cancel context.CancelFunc
	done   chan struct{}
}

func superAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 20, 0, byte(i + 1)}) }

// peerAddr spreads machines over networks: a super peer bounds what begins in
// one /24.
func peerAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, byte(21 + i/50000), byte(i % 250), byte(i/250%200 + 1)})
}

// newWorld starts super peers and waits until they are ready.
func (b *bench) newWorld(rec *recorder, supers int) (*world, error) {
	w, err := b.newService(supers)
	if err != nil {
		return nil, err
	}
	w.net = newNetwork()
	w.wg.Go(func() { w.net.deliverLoop(w.ctx) })
	for i := range supers {
		if err := w.startSuper(i, new(ledger.Memory)); err != nil {
			w.close(rec)
			return nil, err
		}
	}
	if _, err := b.stage(rec, "super peers ready", readyLimit, supers, func(st *stage) {
		st.until(func() int { return count(w.supers, func(s *super) bool { return s.Ready() }) })
	}); err != nil {
		w.close(rec)
		return nil, err
	}
	return w, nil
}

// count is how many of all are as f says.
func count[T any](all []T, f func(T) bool) (n int) {
	for _, x := range all {
		if f(x) {
			n++
		}
	}
	return n
}

// newService makes a service of which nothing runs yet.
func (b *bench) newService(supers int) (*world, error) {
	var endpoints []string
	for i := range supers {
		endpoints = append(endpoints, netip.AddrPortFrom(superAddr(i), portNumber).String())
	}
	svc, err := owner.Create(owner.Options{Name: "scale", Prefix4: prefix4, Roles: roles, Rules: rules, SuperPeers: endpoints, Now: time.Now()})
	if err != nil {
		return nil, err
	}
	w := &world{svc: svc, log: b.out, gates: map[string]*gate{}}
	w.ctx, w.end = context.WithCancel(b.ctx)
	for _, t := range svc.Tokens {
		w.gates[t.Role] = newGate(t.Token)
	}
	return w, nil
}

// endTimeout is how long a machine may take to end, and what has a context may
// take after the context's end; a clean leave has three seconds.
const endTimeout = 15 * time.Second

// endEach is the further time for each of a fleet that ends at once.
const endEach = 30 * time.Millisecond

// close ends everything. The machines lose the network first: a thousand that
// say goodbye to each other would only take time.
func (w *world) close(rec *recorder) {
	for _, p := range w.peers {
		p.conn.Close()
	}
	w.end()
	ended := make(chan struct{})
	go func() {
		w.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endTimeout + time.Duration(len(w.peers))*endEach):
	}
	stuck := 0
	for _, p := range w.peers {
		stuck += running(p.done)
	}
	for _, s := range w.supers {
		stuck += running(s.done)
	}
	rec.must(stuck, 0, "machines that do not end")
}

// running is 1 for what has begun and not ended.
func running(done chan struct{}) int {
	if done == nil {
		return 0
	}
	select {
	case <-done:
		return 0
	default:
		return 1
	}
}

// fail keeps an error of something that ran.
func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = errors.Join(w.failed, err)
}

func (w *world) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// startSuper starts super peer i on what it had stored.
func (w *world) startSuper(i int, st *ledger.Memory) error {
	f := w.svc.Supers[i]
	key, err := owner.ParseKey(f.Key)
	if err != nil {
		return err
	}
	h, err := service.OpenHandOver(f.HandOver, key)
	if err != nil {
		return err
	}
	at := netip.MustParseAddrPort(f.Endpoint)
	s := &super{endpoint: f.Endpoint, addr: at.Addr(), host: w.net.attach(at, superQueue), listener: newListener(at), store: st, done: make(chan struct{})}
	if s.SuperPeer, err = superpeer.New(superpeer.Config{HandOver: h, Ledger: st, UDP: s.host, TCP: s.listener, Log: w.log.With("super", i+1)}); err != nil {
		return fmt.Errorf("super peer %d: %w", i+1, err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	s.cancel = cancel
	w.wg.Go(func() {
		defer close(s.done)
		if err := s.Run(ctx); err != nil && ctx.Err() == nil {
			w.fail(fmt.Errorf("super peer %d: %w", i+1, err))
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if i < len(w.supers) {
		w.supers[i] = s
	} else {
		w.supers = append(w.supers, s)
	}
	return nil
}

// kill ends a super peer as kill -9 does: nothing more leaves it, and what it
// had stored is all that is left.
func (s *super) kill() {
	s.store.Fail(errFrozen)
	s.host.Close()
	s.listener.Close()
	s.cancel()
	select {
	case <-s.done:
	case <-time.After(endTimeout):
	}
}

// dialFrom returns the dialler of a machine.
func (w *world) dialFrom(from netip.Addr) func(context.Context, string) (net.Conn, error) {
	if w.net == nil {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
		return func(ctx context.Context, endpoint string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", endpoint)
		}
	}
	return func(ctx context.Context, endpoint string) (net.Conn, error) {
		w.mu.Lock()
		supers := w.supers
		w.mu.Unlock()
		for _, s := range supers {
			if s.endpoint != endpoint {
				continue
			}
			if !w.net.connected(from, s.addr) {
				<-ctx.Done() // nobody says no
				return nil, ctx.Err()
			}
			return s.listener.dial(ctx, from)
		}
		return nil, errRefused
	}
}

func (w *world) token(role string) service.Token { return w.gates[role].token }

// newPeer makes machine i, which has not joined yet.
func (w *world) newPeer(i int) (*peer, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	p := &peer{world: w, role: roles[i%len(roles)], key: key, addr: peerAddr(i), pid: id.FromKey(key.Public().(ed25519.PublicKey))}
	p.name = fmt.Sprintf("%s-%d", p.role, i)
	p.join = node.JoinConfig{
		Token: w.token(p.role), Identity: key, Name: p.name, VM: p.name, Binary: "scale", Dial: w.dialFrom(p.addr), Log: w.log.With("node", p.name),
		Prefer: w.svc.Supers[i%len(w.svc.Supers)].Endpoint,
	}
	return p, p.plug()
}

// plug gives the machine a socket and a device.
func (p *peer) plug() (err error) {
	at := netip.AddrPortFrom(p.addr, portNumber)
	p.dev = newDevice()
	if p.world.net == nil {
		p.conn, err = underlay.Listen(p.world.ctx, at)
		return err
	}
	p.host = p.world.net.attach(at, peerQueue)
	p.conn = p.host
	return nil
}

// start joins, and runs until the world ends. A machine that is told "busy"
// tries again, as its service manager would have it.
func (p *peer) start(ctx context.Context) error {
	w := p.world
	var m *node.Membership
	if err := persist(ctx, func() (err error) { m, err = node.Join(ctx, p.join); return err }); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	w.book.enter(m.Credential)
	own := netip.AddrPortFrom(p.addr, portNumber)
	p.addr4 = m.Credential.Addr4()
	n, err := node.New(node.Config{
		Join: p.join, Membership: m, Device: p.dev, UDP: p.conn, Log: p.join.Log, Endpoints: func() []netip.AddrPort { return []netip.AddrPort{own} },
		Save: func(m *node.Membership) error { w.book.enter(m.Credential); return nil },
	})
	if err != nil {
		return err
	}
	life, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	p.Node, p.cancel, p.done = n, cancel, done
	w.wg.Go(func() {
		defer close(done)
		if err := n.Run(life); err != nil && life.Err() == nil {
			w.fail(fmt.Errorf("%s: %w", p.name, err))
		}
	})
	return nil
}

// persistLimit is how long a machine tries to be admitted.
const persistLimit = 2 * time.Minute

// persist tries until f succeeds, with growing waits.
func persist(ctx context.Context, f func() error) error {
	wait := 100 * time.Millisecond
	for end := time.Now().Add(persistLimit); ; {
		err := f()
		if err == nil || ctx.Err() != nil || time.Now().After(end) || !retryable(err) {
			return err
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// stop leaves cleanly.
func (p *peer) stop() {
	p.cancel()
	p.ended()
}

// ended waits for the end of the machine; one that does not end is counted when
// the world does.
func (p *peer) ended() {
	select {
	case <-p.done:
	case <-time.After(endTimeout):
	}
}

// vanish takes the machine off the network without a word.
func (p *peer) vanish() {
	p.conn.Close()
	p.cancel()
	p.ended()
}

// startPeers starts peers, some at a time. Those that have not joined when the
// stage ends are not of the world.
func (w *world) startPeers(st *stage, atOnce int, made []*peer) (j joins) {
	j.why = map[string]int{}
	var g errgroup.Group
	g.SetLimit(atOnce)
	var mu sync.Mutex
	for _, p := range made {
		g.Go(func() error {
			began := time.Now()
			err := st.Err()
			if err == nil {
				err = p.start(st)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				p.conn.Close()
				j.why[reason(err)]++
				return nil
			}
			j.took = append(j.took, measure.Milliseconds(time.Since(began)))
			j.up = append(j.up, p)
			st.done.Add(1)
			return nil
		})
	}
	_ = g.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.peers = append(w.peers, j.up...)
	return j
}

// joins are how peers began.
type joins struct {
	up   []*peer
	took []float64 // milliseconds
	why  map[string]int
}

// makePeers makes machines that have not joined.
func (w *world) makePeers(n int) (all []*peer, err error) {
	for i := range n {
		p, err := w.newPeer(i)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// admit admits n newcomers that will not run, some at a time, over the super
// peers in turn.
func (w *world) admit(st *stage, n, atOnce int) (why map[string]int) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	why = map[string]int{}
	var mu sync.Mutex
	var refused atomic.Int64
	for i := range n {
		g.Go(func() error {
			err := st.Err()
			if err == nil {
				err = w.admitOne(st, w.gates[roles[i%len(roles)]].newcomer(fmt.Sprintf("member-%d", i)), i, &refused)
			}
			if err == nil {
				st.done.Add(1)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			why[reason(err)]++
			return nil
		})
	}
	_ = g.Wait()
	return why
}

// dialTimeout is how long a newcomer waits for a super peer that says nothing.
const dialTimeout = 5 * time.Second

// admitOne tries the super peers in turn, from the i-th on, until one admits.
func (w *world) admitOne(ctx context.Context, n *newcomer, i int, refused *atomic.Int64) error {
	dial := w.dialFrom(peerAddr(100000 + i))
	turn := i
	err := persist(ctx, func() error {
		dialling, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		c, err := dial(dialling, w.svc.Supers[turn%len(w.svc.Supers)].Endpoint)
		turn++
		if err == nil {
			err = n.admit(ctx, c, false)
		}
		if err != nil {
			refused.Add(1)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	w.book.enter(n.credential)
	return nil
}

// up says whether a peer has published where it is.
func (p *peer) up() bool {
	s, err := p.Status(p.world.ctx)
	return err == nil && s.State == control.StateUp
}

// errFrozen is what a process that was killed writes to: nothing comes there.
var errFrozen = errors.New("the disk is gone")
