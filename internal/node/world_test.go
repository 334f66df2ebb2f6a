package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"icvpn/abe"
	"icvpn/internal/directory"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/owner/ownertest"
	"icvpn/internal/service"
	"icvpn/internal/superpeer"
	"icvpn/internal/underlay/simnet"
	"icvpn/tun/tuntest"
)

// world is a service in memory: real super peers and nodes on a simulated
// network, with pipes for TCP. Inside a synctest bubble its time is simulated.
//
//	super peers 192.0.2.1, .2 ... ── simnet ── nodes 198.51.100.1, .2 ...
type world struct {
	t      *testing.T
	ctx    context.Context
	net    *simnet.Network
	svc    *owner.Service
	supers []*superProc
	nodes  []*nodeProc
	log    *slog.Logger
	wg     sync.WaitGroup
	change func(h *service.HandOver) // of super peers that are started from now on
	node   func(c *Config)           // of nodes that are started from now on
	at     netip.Addr                // where they are; zero: an address of their own
	watch  atomic.Pointer[watcher]   // sees each datagram, and drops it by returning false; must not send any
	mu     sync.Mutex                // held by super peers that read supers, and while it changes
}

type watcher func(from, to netip.AddrPort, b []byte) bool

type superProc struct {
	sp       *superpeer.SuperPeer
	endpoint string
	listener *pipeListener
	store    *ledger.Memory
	cancel   context.CancelFunc
	done     chan struct{}
}

type nodeProc struct {
	*Node
	dev    *tuntest.Device
	addr   netip.Addr
	udp    *simnet.Conn
	cancel context.CancelFunc
	done   chan struct{}
	got    chan []byte // inner packets that are not ICMP echo
	err    error       // of Run, once done is closed
}

// tiers are the rules of the demo: web may reach app, app may reach db.
var tiers = []filter.Rule{
	{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}},
	{From: filter.Selector{"role": "app"}, To: filter.Selector{"role": "db"}},
}

func newWorld(t *testing.T, supers int, policy string) *world {
	t.Helper()
	return newWorldOf(t, supers, func(o *owner.Options) {
		if policy != "" {
			o.Policy = []byte(policy)
		}
	})
}

// newWorldOf makes a world of a service with other options.
func newWorldOf(t *testing.T, supers int, change func(*owner.Options)) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, ctx: ctx, log: slog.New(slog.DiscardHandler)}
	w.net = simnet.New(simnet.Config{Seed: 1, Link: simnet.Link{Latency: time.Millisecond}, Intercept: func(from, to netip.AddrPort, b []byte) bool {
		watch := w.watch.Load()
		return watch == nil || (*watch)(from, to, b)
	}})
	if os.Getenv("ICVPN_TEST_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	o := owner.Options{Name: "shop", Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"web", "app", "db"}, Rules: tiers, Now: time.Now()}
	change(&o)
	for i := range supers {
		o.SuperPeers = append(o.SuperPeers, fmt.Sprintf("192.0.2.%d:4500", i+1))
	}
	w.svc = ownertest.Service(t, o)
	t.Cleanup(func() {
		cancel()
		w.wg.Wait()
	})
	for i := range supers {
		w.startSuper(i, new(ledger.Memory))
	}
	return w
}

// startSuper starts super peer i on what it had stored.
func (w *world) startSuper(i int, store *ledger.Memory) *superProc {
	w.t.Helper()
	f := w.svc.Supers[i]
	key, err := owner.ParseKey(f.Key)
	if err != nil {
		w.t.Fatal(err)
	}
	h, err := service.OpenHandOver(f.HandOver, key)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.change != nil {
		w.change(&h)
	}
	udp, err := w.net.Listen(4500, netip.MustParseAddrPort(f.Endpoint).Addr())
	if err != nil {
		w.t.Fatal(err)
	}
	p := &superProc{endpoint: f.Endpoint, listener: newPipeListener(f.Endpoint), store: store, done: make(chan struct{})}
	p.sp, err = superpeer.New(superpeer.Config{HandOver: h, Ledger: store, UDP: udp, TCP: p.listener, Log: w.log.With("super", i+1), Slots: 1, Dial: w.dialTCP, ABE: w.openABE})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	p.cancel = cancel
	w.wg.Go(func() {
		defer close(p.done)
		if err := p.sp.Run(ctx); err != nil {
			w.t.Errorf("super peer %d: %v", i+1, err)
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if i < len(w.supers) {
		w.supers[i] = p
	} else {
		w.supers = append(w.supers, p)
	}
	return p
}

func (w *world) openABE(seed abe.Secret, service id.ID) (superpeer.KeyMaker, error) {
	return ownertest.Open(w.t, seed, service)
}

func (p *superProc) kill() {
	p.cancel()
	<-p.done
}

func (w *world) token(role string) service.Token {
	for _, rt := range w.svc.Tokens {
		if rt.Role == role {
			return rt.Token
		}
	}
	w.t.Fatalf("no role %s", role)
	return service.Token{}
}

// dialTCP is dial for super peers.
func (w *world) dialTCP(ctx context.Context, _, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dial(ctx, address)
}

func (w *world) dial(ctx context.Context, endpoint string) (net.Conn, error) {
	for _, p := range w.supers {
		if p.endpoint == endpoint {
			return p.listener.dial(ctx)
		}
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
}

func (w *world) joinConfig(role, name string, key ed25519.PrivateKey) JoinConfig {
	return JoinConfig{Token: w.token(role), Identity: key, Name: name, VM: name, Binary: "test", Dial: w.dial, Log: w.log.With("node", name)}
}

func newIdentity(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// start joins a machine and runs it.
func (w *world) start(role, name string) *nodeProc {
	w.t.Helper()
	return w.startAs(role, name, newIdentity(w.t))
}

func (w *world) startAs(role, name string, key ed25519.PrivateKey) *nodeProc {
	w.t.Helper()
	return w.startWith(w.joinConfig(role, name, key))
}

func (w *world) startWith(cfg JoinConfig) *nodeProc {
	w.t.Helper()
	name := cfg.Name
	m, err := Join(w.ctx, cfg)
	if err != nil {
		w.t.Fatalf("join %s: %v", name, err)
	}
	p := &nodeProc{dev: tuntest.New("icvpn0", 1400), done: make(chan struct{}), got: make(chan []byte, 4096)}
	if p.addr = w.at; !p.addr.IsValid() {
		p.addr = netip.AddrFrom4([4]byte{198, 51, 100, byte(len(w.nodes) + 1)})
	}
	udp, err := w.net.Listen(4500, p.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	p.udp = udp
	own := netip.AddrPortFrom(p.addr, 4500)
	nc := Config{Join: cfg, Membership: m, Device: p.dev, UDP: udp, Log: cfg.Log, Endpoints: func() []netip.AddrPort { return []netip.AddrPort{own} }}
	if w.node != nil {
		w.node(&nc)
	}
	p.Node, err = New(nc)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	p.cancel = cancel
	w.wg.Go(func() {
		defer close(p.done)
		if p.err = p.Run(ctx); p.err != nil && !errors.Is(p.err, ErrClone) {
			w.t.Errorf("%s: %v", name, p.err)
		}
	})
	w.wg.Go(func() { p.kernel(w.ctx) })
	w.nodes = append(w.nodes, p)
	return p
}

// stop leaves cleanly.
func (p *nodeProc) stop() {
	p.cancel()
	<-p.done
}

// kill ends the machine as kill -9 does: not a datagram more leaves it.
func (p *nodeProc) kill() {
	p.udp.Close()
	p.stop()
}

func (p *nodeProc) addr4() netip.Addr { return p.membership.Load().Credential.Addr4() }

// kernel stands for the machine behind the TUN device: it answers echo
// requests and keeps everything else.
func (p *nodeProc) kernel(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.done:
			return
		case pkt := <-p.dev.Packets():
			if reply := echoAnswer(pkt); reply != nil {
				_ = p.dev.Inject(reply)
				continue
			}
			select {
			case p.got <- pkt:
			default:
			}
		}
	}
}

// echoAnswer turns an ICMP echo request around, nil for anything else.
func echoAnswer(pkt []byte) []byte {
	if len(pkt) < 28 || pkt[0] != 0x45 || pkt[9] != protoICMP || pkt[20] != 8 {
		return nil
	}
	out := append([]byte(nil), pkt...)
	copy(out[12:16], pkt[16:20])
	copy(out[16:20], pkt[12:16])
	out[20] = 0
	out[22], out[23] = 0, 0
	body := out[20:]
	if len(body)%2 == 1 {
		body = append(append([]byte(nil), body...), 0)
	}
	sum := checksum(body)
	out[22], out[23] = byte(sum>>8), byte(sum)
	return out
}

// eventually waits for a condition on the world's clock.
func (w *world) eventually(what string, limit time.Duration, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// pipeListener accepts in-memory connections.
type pipeListener struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener(endpoint string) *pipeListener {
	return &pipeListener{addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(endpoint)), conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- addressed{far, net.TCPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.200:40000"))}:
		return near, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return l.addr }

// addressed gives a pipe the remote address of a TCP connection.
type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }

// directoryHeard is how long until everybody has heard of a newcomer: a poll of the
// directories, and reading them.
const directoryHeard = directory.PollEvery + 10*time.Second
