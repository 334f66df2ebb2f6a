package process

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"icvpn/esp"
	"icvpn/internal/config"
	"icvpn/internal/control"
	"icvpn/internal/netcfg"
	"icvpn/internal/node"
	"icvpn/internal/port"
	"icvpn/internal/service"
	"icvpn/internal/state"
	"icvpn/internal/underlay"
	"icvpn/tun"
)

// Names in a peer's state directory.
const (
	fileIdentity   = "identity"   // Ed25519 seed, 32 bytes
	fileMembership = "membership" // node.Membership.Encode
	fileNodes      = "nodes"      // what node.Config.SaveNodes is given
	fileRelease    = "release"    // what node.Config.SaveRelease is given
	counterSeq     = "descriptor" // highest descriptor sequence number seen
	counterPolicy  = "policy"     // highest policy sequence number seen
	counterRoot    = "root"       // highest root document's sequence number seen
)

// defaultMTU is the inner MTU that fits a 1500-byte path over IPv6 with every
// suite.
const defaultMTU = 1400

// Peer joins a service and carries its traffic until ctx ends or it is told to
// leave. It borrows token.
func Peer(ctx context.Context, c config.Peer, token []byte, binary string, log *slog.Logger) error {
	began := time.Now()
	tok, err := service.ParseToken(token)
	if err != nil {
		return &config.Error{Where: cmp.Or(c.TokenFile, "environment variable ICVPN_TOKEN"), Problem: err.Error()}
	}
	dir, err := state.Open(c.StateDir, state.Options{KeyFile: c.SealKeyFile})
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := checkService(dir, tok); err != nil {
		return err
	}
	if err := checkClone(dir, c.TakeOver); err != nil {
		return err
	}
	key, err := identity(dir)
	if err != nil {
		return err
	}
	udp, err := openUDP(ctx, c.Listen)
	if err != nil {
		return err
	}
	device, err := openTUN(c)
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	if device.Backend() == tun.Plain {
		log.Info("the interface takes single packets only, which is slower", "name", device.Name())
	}
	// Every tunnel finds its path's MTU; fragments would only hide it.
	if err := udp.SetDontFragment(true); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return errors.Join(err, udp.Close(), device.Close())
	}
	p := &peer{cfg: c, token: tok, dir: dir, key: key, udp: udp, device: device, binary: binary, log: log, began: began}
	if err := p.run(ctx); err != nil {
		return errors.Join(err, udp.Close(), device.Close())
	}
	return nil
}

// peer is what Peer has opened.
type peer struct {
	cfg    config.Peer
	token  service.Token
	dir    *state.Dir
	key    ed25519.PrivateKey
	udp    *underlay.Conn
	device *tun.Linux
	binary string
	log    *slog.Logger
	began  time.Time

	applied netcfg.Interface // what the interface has now
}

func (p *peer) run(ctx context.Context) error {
	// The control socket answers from the start, so that somebody who waits for
	// the join can ask how far it is.
	h := &handler{peer: p, leave: make(chan struct{}), left: make(chan struct{})}
	return serve(ctx, p.cfg.Process, h, func(ctx context.Context) error { return p.live(ctx, h) }, p.log)
}

// live joins and runs.
func (p *peer) live(ctx context.Context, h *handler) error {
	defer close(h.left)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-h.leave:
			cancel()
		case <-ctx.Done():
		}
	}()
	advertise, err := resolveAll(ctx, p.cfg.Advertise)
	if err != nil {
		return err
	}
	join := p.joinConfig(h)
	first := join
	first.Kept, first.Prefer = p.kept()
	join.Prefer = first.Prefer
	first.Accept = p.collides // not of renewals: what collides by then came after us
	m, err := p.join(ctx, first)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := p.configure(m); err != nil {
		return err
	}
	h.step(p.log, "interface", p.device.Name()+" is up", began)
	n, err := node.New(node.Config{
		Join: join, Membership: m, Save: p.save, Nodes: p.hint(fileNodes), SaveNodes: p.saver(fileNodes), Release: p.hint(fileRelease), SaveRelease: p.saver(fileRelease), Readdress: p.readdress, Device: p.device, UDP: p.udp, Endpoints: p.endpoints,
		Advertise: advertise, NeverHelp: p.cfg.Helper == "never", Elapsed: sinceBoot, Began: p.began, Log: p.log, Steps: h.joinSteps(),
	})
	if err != nil {
		return err
	}
	h.set(n)
	// A join needs memory that an idle peer does not: give it back.
	time.AfterFunc(5*time.Second, debug.FreeOSMemory)
	return markClone(p.dir, n.Run(ctx))
}

func (p *peer) joinConfig(h *handler) node.JoinConfig {
	seen := func(name string) uint64 {
		counter, err := p.dir.Counter(name)
		if err != nil {
			return 0
		}
		v, err := counter.Value()
		if err != nil {
			p.log.Warn("a counter of the state directory cannot be read; rollback to before it goes unnoticed", "name", name, "err", err)
		}
		return v
	}
	var d net.Dialer
	var instance service.Instance
	rand.Read(instance[:])
	return node.JoinConfig{
		Instance: instance,
		Token:    p.token, Identity: p.key, MinSeq: seen(counterSeq), MinPolicy: seen(counterPolicy), MinRoot: seen(counterRoot), Name: p.cfg.Name, VM: vmID(p.token.Service), Labels: p.cfg.Labels,
		Endpoints: p.endpoints(), Binary: p.binary, Log: p.log, Step: h.addStep,
		Dial: func(ctx context.Context, endpoint string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", endpoint)
		},
	}
}

// join is admitted; where no super peer can be reached, a membership that was
// kept and is still valid serves.
func (p *peer) join(ctx context.Context, cfg node.JoinConfig) (*node.Membership, error) {
	m, err := node.Join(ctx, cfg)
	if err == nil {
		return m, p.save(m)
	}
	var unreachable *node.UnreachableError
	if !errors.As(err, &unreachable) {
		return nil, err
	}
	b, kerr := p.dir.Get(fileMembership)
	if errors.Is(kerr, state.ErrNotExist) {
		return nil, err
	}
	if kerr == nil {
		defer clear(b)
		m, kerr = node.DecodeMembership(b, p.token.Service, p.key, node.Seen{Descriptor: max(cfg.MinSeq, p.token.MinSeq), Policy: cfg.MinPolicy, Root: cfg.MinRoot}, moment())
	}
	if kerr != nil {
		return nil, fmt.Errorf("%w; the membership kept from before serves no more (%v)", err, kerr)
	}
	p.log.Warn("no super peer admits now; going on with the membership kept from before", "expires", m.Credential.Expires(), "err", err)
	return m, nil
}

// kept is what a former process of this machine left for coming back with, and
// the super peer that admitted it.
func (p *peer) kept() (*node.Kept, string) {
	b, err := p.dir.Get(fileMembership)
	if err != nil {
		return nil, ""
	}
	defer clear(b)
	k, superPeer, err := node.DecodeKept(b)
	if err != nil {
		p.log.Warn("the membership kept from before cannot be read; the enrolment secret serves instead", "err", err)
		return nil, ""
	}
	return k, superPeer
}

// hint is what a former process kept in a file that one can do without, nil for
// nothing.
func (p *peer) hint(name string) []byte {
	b, err := p.dir.Get(name)
	if err != nil && !errors.Is(err, state.ErrNotExist) {
		p.log.Warn("a file of the state directory cannot be read; going on without it", "name", name, "err", err)
	}
	return b
}

func (p *peer) saver(name string) func([]byte) error {
	return func(b []byte) error { return p.dir.Put(name, b) }
}

// openTUN makes the interface and names the flag that helps where a name is
// taken.
func openTUN(c config.Peer) (*tun.Linux, error) {
	backend, err := tun.ParseBackend(cmp.Or(c.TUN.Backend, tun.Auto.String()))
	if err != nil {
		return nil, err
	}
	device, err := tun.Open(tun.Config{
		Name: c.TUN.Name, MTU: mtu(c), Backend: backend,
		// The data path lets in packets from the peer's own addresses only, so no
		// router was between its stack and its seal.
		AssumeValid: true,
	})
	var failed *tun.CreateError
	if errors.As(err, &failed) && failed.Reason == tun.NameTaken {
		return nil, fmt.Errorf("%w with --tun-name", err)
	}
	return device, err
}

// save keeps a membership, the sequence numbers of its documents, and whose all
// that is.
func (p *peer) save(m *node.Membership) error {
	if err := keepService(p.dir, p.token); err != nil {
		return err
	}
	for name, seq := range map[string]uint64{
		counterSeq: m.Trust.Descriptor.Seq, counterPolicy: m.Trust.Policy.Sequence, counterRoot: m.Trust.Root.Seq,
	} {
		counter, err := p.dir.Counter(name)
		if err != nil {
			return err
		}
		if err := counter.Raise(seq); err != nil {
			return err
		}
	}
	b := m.Encode(moment())
	defer clear(b)
	return p.dir.Put(fileMembership, b)
}

// configure gives the interface its addresses and routes, after making sure
// that they collide with nothing.
func (p *peer) configure(m *node.Membership) error {
	c := m.Credential
	if err := p.collides(m.Trust.Descriptor); err != nil {
		return err // the membership may be one kept from before
	}
	prefix4, err := netip.ParsePrefix(m.Trust.Descriptor.Prefix4)
	if err != nil {
		return err
	}
	prefix6 := service.Prefix6(c.Service)
	p.applied = netcfg.Interface{
		Name:   p.device.Name(),
		Addrs:  []netip.Prefix{netip.PrefixFrom(c.Addr4(), 32), netip.PrefixFrom(c.Addr6(), 128)},
		Routes: []netip.Prefix{prefix4, prefix6}, MTU: mtu(p.cfg), Segments: underlay.TrainLength(esp.DefaultSuite.SealedLen(mtu(p.cfg))),
	}
	err = netcfg.Apply(p.applied)
	if errors.Is(err, netcfg.ErrNoIPv6) {
		p.log.Warn("the interface has IPv4 only", "err", err)
		return nil
	}
	return err
}

// collides looks for routes of this machine into the addresses of a service. It
// is asked before admission: a machine that cannot use what it was given would
// stay listed until its lease ends.
func (p *peer) collides(d *service.Descriptor) error {
	prefix4, err := netip.ParsePrefix(d.Prefix4)
	if err != nil {
		return err
	}
	for _, prefix := range []netip.Prefix{prefix4, service.Prefix6(d.Service)} {
		if err := netcfg.Collides(prefix, p.device.Name()); err != nil {
			return explainCollision(err)
		}
	}
	return nil
}

// explainCollision says so where the other network is that of another icvpn,
// whose interface has the default name or one like it.
func explainCollision(err error) error {
	var c *netcfg.CollisionError
	if errors.As(err, &c) && strings.HasPrefix(c.Interface, "icvpn") {
		return fmt.Errorf("another icvpn already runs here: the address range %v overlaps %v on its interface %s; stop it with icvpn down, run one of the two in a network namespace of its own, or choose another range for one of the services", c.Prefix, c.With, c.Interface)
	}
	return err
}

// readdress puts the addresses of m in the place of the interface's.
func (p *peer) readdress(m *node.Membership) error {
	old := p.applied
	if err := p.configure(m); err != nil {
		return err
	}
	return netcfg.RemoveAddrs(old.Name, gone(old.Addrs, p.applied.Addrs))
}

// gone returns the prefixes of old that are not in current.
func gone(old, current []netip.Prefix) (out []netip.Prefix) {
	for _, a := range old {
		if !slices.Contains(current, a) {
			out = append(out, a)
		}
	}
	return out
}

// endpoints are the machine's own addresses with our port.
func (p *peer) endpoints() (out []netip.AddrPort) {
	addrs, err := netcfg.Candidates(p.device.Name(), []netip.Prefix{service.Prefix6(p.token.Service)})
	if err != nil {
		p.log.Debug("own addresses", "err", err)
	}
	for _, a := range addrs[:min(len(addrs), 8)] {
		out = append(out, netip.AddrPortFrom(a, p.udp.Port()))
	}
	return out
}

func mtu(c config.Peer) int {
	if c.TUN.MTU != 0 {
		return c.TUN.MTU
	}
	return defaultMTU
}

// identity returns the machine's key, made on first start.
func identity(dir *state.Dir) (ed25519.PrivateKey, error) {
	seed, err := dir.Get(fileIdentity)
	if errors.Is(err, state.ErrNotExist) {
		seed = make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		err = dir.Put(fileIdentity, seed)
	}
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the identity in %s is damaged; remove the file to join as a new machine", dir.Path())
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// resolveAll turns the operator's endpoints into addresses.
func resolveAll(ctx context.Context, endpoints []string) (out []netip.AddrPort, err error) {
	for _, e := range endpoints {
		found := port.Resolve(ctx, e)
		if len(found) == 0 {
			return nil, fmt.Errorf("advertise: %s has no IP address; check the name", e)
		}
		out = append(out, found...)
	}
	return out, nil
}

// handler answers the control socket: by itself while joining, by the node after.
type handler struct {
	peer  *peer
	leave chan struct{}
	once  sync.Once
	left  chan struct{} // closed when live has returned

	mu    sync.Mutex
	node  *node.Node
	steps []control.JoinStep
}

var (
	_ control.Handler = (*handler)(nil)
	_ control.Leaver  = (*handler)(nil)
)

func (h *handler) set(n *node.Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.node = n
}

// current returns the node, nil while joining.
func (h *handler) current() *node.Node {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.node
}

// running returns the node, or why there is none yet.
func (h *handler) running() (*node.Node, error) {
	n := h.current()
	if n == nil {
		return nil, &control.Error{Code: control.CodeNotReady, Message: "this machine is still joining; icvpn status shows how far it is"}
	}
	return n, nil
}

func (h *handler) addStep(s control.JoinStep) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.steps = append(h.steps, s)
}

func (h *handler) step(log *slog.Logger, name, detail string, began time.Time) {
	took := time.Since(began)
	log.Info("join step", "step", name, "dur", took.Round(100*time.Microsecond), "detail", detail)
	h.addStep(control.JoinStep{Name: name, Started: began, DurationMS: float64(took.Microseconds()) / 1000, Detail: detail})
}

func (h *handler) joinSteps() []control.JoinStep {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]control.JoinStep(nil), h.steps...)
}

// Status implements control.Handler.
func (h *handler) Status(ctx context.Context) (control.Status, error) {
	if n, err := h.running(); err == nil {
		s, err := n.Status(ctx)
		s.Software = h.peer.binary
		s.Process = os.Getpid()
		return s, err
	}
	return control.Status{
		Role: control.RolePeer, State: control.StateJoining, Started: h.peer.began, Since: h.peer.began, Name: h.peer.cfg.Name,
		Service: h.peer.token.Service.String(), ServiceName: h.peer.token.Name, Software: h.peer.binary, Process: os.Getpid(),
	}, nil
}

// Peers implements control.Handler.
func (h *handler) Peers(ctx context.Context) ([]control.Peer, error) {
	n, err := h.running()
	if err != nil {
		return nil, err
	}
	return n.Peers(ctx)
}

// JoinSteps implements control.Handler.
func (h *handler) JoinSteps(ctx context.Context) ([]control.JoinStep, error) {
	if n, err := h.running(); err == nil {
		return n.JoinSteps(ctx)
	}
	return h.joinSteps(), nil
}

// Ping implements control.Handler.
func (h *handler) Ping(ctx context.Context, target string, count int, emit func(control.PingReply) error) error {
	n, err := h.running()
	if err != nil {
		return err
	}
	return n.Ping(ctx, target, count, emit)
}

// Down implements control.Handler.
func (h *handler) Down(context.Context) error {
	h.once.Do(func() { close(h.leave) })
	return nil
}

// Left implements control.Leaver: nil where the leave came before the join.
func (h *handler) Left(ctx context.Context) *control.Leave {
	select {
	case <-h.left:
	case <-ctx.Done():
		return nil
	}
	if n := h.current(); n != nil {
		return n.Left()
	}
	return nil
}
