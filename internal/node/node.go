package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"icvpn/abe"
	"icvpn/esp"
	"icvpn/internal/control"
	"icvpn/internal/datapath"
	"icvpn/internal/directory"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/port"
	"icvpn/internal/release"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/keyex"
	"icvpn/overlay"
	"icvpn/tun"
)

// Config is what a Node runs with.
type Config struct {
	// Join says how to be admitted again; its Dial is also used for renewals.
	Join JoinConfig
	// Membership is the first one. Required.
	Membership *Membership
	// Save keeps a renewed membership. May be nil.
	Save func(*Membership) error
	// Nodes is what a former process gave to SaveNodes: where to enter the overlay
	// beside the super peers. May be nil; what is bad in it is left out.
	Nodes []byte
	// SaveNodes keeps nodes of the overlay, now and then. May be nil.
	SaveNodes func([]byte) error
	// Release is what a former process gave to SaveRelease: the newest release
	// manifest. May be nil; what does not count any more is left out.
	Release []byte
	// SaveRelease keeps a newer one. May be nil.
	SaveRelease func([]byte) error
	// Readdress gives the device the addresses of a membership that has others
	// than the one before. May be nil.
	Readdress func(*Membership) error
	// Device carries inner packets; Run closes it. Required.
	Device tun.Device
	// UDP is the shared socket pair; Run closes it. Required.
	UDP port.Conn
	// Endpoints returns this machine's own addresses, for the contact record.
	// Called now and then; may be nil.
	Endpoints func() []netip.AddrPort
	// Advertise are endpoints the operator named, put first.
	Advertise []netip.AddrPort
	// NeverHelp refuses to be a helper of the service.
	NeverHelp bool
	// Elapsed is the time since some moment, that of a suspended machine included
	// (CLOCK_BOOTTIME): it tells a clock that was set from time that has passed.
	// Default: the runtime's monotonic clock.
	Elapsed func() time.Duration
	// Began is when the process started to join, for the join log.
	Began time.Time
	Log   *slog.Logger
	// Steps are those of the join so far.
	Steps []control.JoinStep
}

// Node is a running member. Make it with New; Run starts it.
type Node struct {
	// set at start
	cfg       Config
	log       *slog.Logger
	self      id.ID
	key       ed25519.PrivateKey
	service   id.ID
	prefix4   netip.Prefix
	prefix6   netip.Prefix
	device    tun.Device
	path      *datapath.Datapath
	deviceMTU int // of inner packets
	port      *port.Port
	ring      *seal.Ring
	reflector *port.Reflector
	overlay   *overlay.Overlay
	releases  *release.Shelf
	sad       *esp.SAD
	esp       *esp.Stats
	started   time.Time

	// replaced as a whole
	membership atomic.Pointer[Membership]
	keys       atomic.Pointer[discovery.Keys]
	ways       atomic.Pointer[ways]
	followers  atomic.Pointer[map[id.ID]*directory.Follower] // of the super peers' directories
	left       atomic.Pointer[control.Leave]                 // how the leave went

	// owned by controlLoop
	machine      *keyex.Machine
	tunnels      map[id.ID]*tunnel
	active       map[*tunnel]bool // those with pairs or a connection under way
	upkeepAt     time.Time
	leaving      bool
	unrouted     unrouted
	pings        pings
	observed     observed
	helping      helping
	proofs       helperProofs
	relaying     relaying
	known        knownNodes
	strays       *strays     // what we say of SPIs that no SA has
	listed       atomic.Bool // a directory, or part of one, was read
	reading      atomic.Bool // one is being read for the first time
	stats        stats
	ctx          context.Context // of Run, for lookups
	loops        sync.WaitGroup  // lookups, and proofs of helpers
	controlIn    chan datagram
	posts        chan func()
	documentsNow chan struct{} // capacity 1: look for a newer descriptor
	renewNow     chan struct{} // capacity 1: be admitted again
	refreshNow   chan struct{} // capacity 1: read the directory
	bulkNow      chan struct{} // capacity 1: many shards are lacked
	contactNow   chan struct{} // capacity 1: write the contact
	lookups      chan struct{} // semaphore
	awake        chan struct{} // capacity 1: there are signals
	signals      signals
	steps        steps
	refused      rate.Sometimes // key exchanges, for the log
	contact      contactRecord
	superPeers   *port.Resolver
	table        *directory.Table // who is listed
	wants        wants
	watch        *directory.Watcher
	retrying     atomic.Bool      // the control loop was told of packets without a tunnel
	cloned       chan *CloneError // capacity 1
	clock        clockWatch
	keeping      keeping
	epochNews    chan struct{}           // capacity 1: epochs have changed
	heardAt      atomic.Int64            // Unix ns of the last authentic control datagram
	lostAt       atomic.Int64            // Unix ns when we last had reason to think that the group key is over
	renewing     atomic.Pointer[briefly] // nil: nobody waits for an answer
	saving       sync.Mutex              // held while the membership is written
	stop         context.CancelFunc
	stopped      chan struct{} // closed when Run has returned
}

// signals are what the data path has to tell the control loop.
type signals struct {
	mu   sync.Mutex
	list []func()
}

// datagram is a control datagram on its way to the control loop.
type datagram struct {
	typ     seal.Type
	epoch   uint32
	plain   int
	payload []byte
	from    netip.AddrPort
}

// New makes a node of its first membership. It starts nothing.
func New(cfg Config) (*Node, error) {
	m := cfg.Membership
	n := &Node{
		cfg: cfg, log: cfg.Log, key: cfg.Join.Identity, service: m.Credential.Service,
		prefix6: service.Prefix6(m.Credential.Service), device: cfg.Device, sad: new(esp.SAD), esp: new(esp.Stats),
		started: time.Now(), tunnels: map[id.ID]*tunnel{}, active: map[*tunnel]bool{},
		controlIn: make(chan datagram, controlQueue), posts: make(chan func(), controlQueue),
		documentsNow: make(chan struct{}, 1), renewNow: make(chan struct{}, 1), refreshNow: make(chan struct{}, 1), bulkNow: make(chan struct{}, 1), contactNow: make(chan struct{}, 1),
		epochNews: make(chan struct{}, 1),
		refused:   rate.Sometimes{First: 3, Interval: 10 * time.Second},
		lookups:   make(chan struct{}, maxLookups), awake: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
	if !cfg.Began.IsZero() {
		n.started = cfg.Began
	}
	if cfg.Elapsed == nil {
		n.cfg.Elapsed = func() time.Duration { return time.Since(n.started) }
	}
	if n.cfg.Join.Instance.IsZero() {
		n.cfg.Join.Instance = m.Credential.Instance
	}
	n.self = id.FromKey(n.key.Public().(ed25519.PublicKey))
	n.steps.all = cfg.Steps
	n.releases = release.NewShelf(cfg.Release, cfg.SaveRelease)
	n.ways.Store(&ways{})
	n.table = directory.NewTable(n.service, n.self)
	n.watch = n.newWatch()
	n.cloned = make(chan *CloneError, 1)
	n.strays = newStrays()
	n.membership.Store(m)
	var err error
	if n.prefix4, err = netip.ParsePrefix(m.Trust.Descriptor.Prefix4); err != nil {
		return nil, fmt.Errorf("node: prefix of the service: %w", err)
	}
	if err := n.newControl(m); err != nil {
		return nil, err
	}
	if n.deviceMTU, err = n.device.MTU(); err != nil {
		return nil, err
	}
	n.path, err = datapath.New(datapath.Config{
		Device: n.device, Send: n.port.WriteESP, SAD: n.sad, Route: n.routeTo, Unrouted: n.onUnrouted, Stray: n.onStray, MaxMTU: n.deviceMTU,
	})
	if err != nil {
		return nil, err
	}
	if err := n.installEpochs(m); err != nil {
		return nil, err
	}
	n.heardAt.Store(time.Now().UnixNano())
	n.adopt(m)
	if cfg.Nodes != nil {
		if err := n.known.load(cfg.Nodes, time.Now(), n.usable); err != nil {
			n.log.Warn("known nodes not read; entering the overlay at super peers alone", "err", err)
		}
	}
	return n, nil
}

// newControl makes what speaks on the port: sealing, overlay, key exchange.
func (n *Node) newControl(m *Membership) error {
	n.ring = seal.NewRing(seal.Config{Service: n.service, IsAnswer: port.IsAnswer})
	rings := new(seal.Rings)
	rings.Add(n.ring)
	n.newRelaying()
	n.port = port.New(n.relaying.conn, rings)
	n.reflector = port.NewReflector(n.port, n.ring)
	var endpoints []string
	for _, sp := range m.Trust.Descriptor.SuperPeers {
		endpoints = append(endpoints, sp.Endpoints...)
	}
	n.superPeers = port.NewResolver(endpoints)
	var err error
	n.overlay, err = overlay.New(overlay.Config{
		Self: n.self, Transport: port.DHT{Port: n.port, Ring: n.ring},
		Bootstrap: n.entryPoints, Replicas: n.replicas, Supers: n.superPeers.Addrs, Admit: n.mayJoinOverlay, Class: n.classOf, Logger: n.log,
		StoreItems: storeItems, StoreBytes: storeBytes,
	})
	if err != nil {
		return err
	}
	n.machine, err = n.newMachine(m)
	return err
}

// entryPoints are where to enter the overlay: nodes that we knew before, super
// peers, helpers, and the nodes that the super peer which admitted us knew.
func (n *Node) entryPoints() []netip.AddrPort {
	all := append(n.knownEntries(), n.replicas()...)
	for _, e := range n.membership.Load().Grant.Entries {
		all = append(all, n.usable(e.Endpoints)...)
	}
	return all
}

// adopt puts a membership in force, the first or a renewed one, whose epoch is
// installed. In a running node only the control loop calls it.
func (n *Node) adopt(m *Membership) {
	n.setClock(m.Offset)
	old := n.membership.Load()
	n.membership.Store(m)
	if n.keys.Load() == nil || m.Key != old.Key || !slices.EqualFunc(m.Grant.Envelopes, old.Grant.Envelopes, bytes.Equal) {
		n.openEnvelopes(m)
	}
	n.newFollowers(m.Trust)
	n.learn(m.Credential.Issuer, m.Members)
}

// openEnvelopes makes the keys of the policies that we satisfy, some 10 ms each.
func (n *Node) openEnvelopes(m *Membership) {
	keys := discovery.NewKeys(n.service, m.Key, n.authorityKey, n.epochSecret)
	n.keys.Store(keys)
	for _, e := range m.Grant.Envelopes {
		if _, err := keys.AddEnvelope(e, n.now()); err != nil {
			n.log.Warn("envelope from the super peer does not open", "err", err)
		}
	}
}

// now is the service's clock: ours and the offset learnt at admission.
func (n *Node) now() time.Time { return time.Now().Add(n.ring.ClockOffset()) }

func (n *Node) trust() *service.Trust { return n.membership.Load().Trust }

func (n *Node) authorityKey(issuer id.ID) (ed25519.PublicKey, bool) {
	return n.trust().AuthorityKey(issuer, n.now())
}

func (n *Node) epochSecret(epoch uint32) (abe.Secret, bool) {
	k, ok := n.ring.Key(time.Now(), epoch)
	if !ok {
		return abe.Secret{}, false
	}
	return abe.Secret(k.Bytes()), true
}

func (n *Node) address6(pid id.ID) netip.Addr { return service.Address6(n.service, pid) }

// isOwn says whether an inner destination is this machine.
func (n *Node) isOwn(a netip.Addr) bool {
	return a == n.membership.Load().Credential.Addr4() || a == n.address6(n.self)
}

// Run carries traffic until ctx ends or Down is called, then leaves: the
// contact is withdrawn, tunnels are deleted at both ends, the device is gone.
func (n *Node) Run(ctx context.Context) error {
	defer close(n.stopped)
	// Leaving still needs port and overlay, so they outlive ctx.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	ctx, n.stop = context.WithCancel(ctx)
	defer n.stop()
	g, gctx := errgroup.WithContext(life)
	n.ctx = gctx // ends also when a loop fails, so that nothing waits for it then
	g.Go(func() error {
		return n.port.Run(gctx, port.Handlers{ESP: n.path.Receive, Control: n.onControl, Relayed: n.onRelayed, Unknown: n.onUnknown})
	})
	g.Go(func() error { return n.overlay.Run(gctx) })
	g.Go(func() error { return n.deviceLoop(gctx) })
	g.Go(func() error { return n.controlLoop(gctx) })
	g.Go(func() error { return n.membershipLoop(gctx) })
	g.Go(func() error { return n.leaveLoop(ctx, gctx, end) })
	context.AfterFunc(gctx, func() { n.device.Close() })
	err := g.Wait()
	n.loops.Wait()
	n.path.Wait()
	return err
}

// Down starts a clean leave; Run returns when it is over. It implements
// control.Handler.
func (n *Node) Down(context.Context) error {
	n.stop()
	return nil
}

// Stopped is closed when Run has returned.
func (n *Node) Stopped() <-chan struct{} { return n.stopped }

// leaveLoop waits for the end of ctx, says goodbye and ends everything else. A
// loop that failed ends gctx first: then there is nothing to say.
func (n *Node) leaveLoop(ctx, gctx context.Context, end context.CancelFunc) error {
	select {
	case <-gctx.Done():
		return nil
	case <-ctx.Done():
	}
	defer end()
	lctx, cancel := context.WithTimeout(gctx, leaveTimeout)
	defer cancel()
	n.leave(lctx)
	return nil
}

// post runs f on the control loop, later. It never blocks for long: when the
// queue is full the loop is behind, and waiting is backpressure.
func (n *Node) post(f func()) {
	select {
	case n.posts <- f:
	case <-n.ctx.Done():
	}
}

// call runs f on the control loop and waits for it.
func (n *Node) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case n.posts <- func() { f(); close(done) }:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopped:
		return net.ErrClosed
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopped:
		return net.ErrClosed
	}
}
