package superpeer

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/port"
	"icvpn/internal/provision"
	"icvpn/internal/relay"
	"icvpn/internal/release"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// We chose:
const (
	// replayEntries is sixteen times a peer's nonce set, 4300 datagrams a second:
	// everybody asks super peers, and a thousand machines that start at once read ten
	// thousand members in 400,000 questions to each of four. Full, it takes some
	// 40 MiB; what is not used takes none.
	replayEntries = 1 << 20
	// ephemerals is how many SRP pairs are kept ready.
	ephemerals = 64
	// storeItems and storeBytes are what each overlay keeps for others: the contact
	// records of 16,000 members are a quarter of it.
	storeItems = 1 << 16
	storeBytes = 64 << 20
	// contactsPerDistance is more than a member knows: everybody begins at super
	// peers, and would be sent to the same few.
	contactsPerDistance = 128
	// maxPrepared bounds the tables of verifiers' powers: 16 MiB for 2048 bits.
	maxPrepared = 64
	// maxEntries is how many overlay nodes a newcomer is told.
	maxEntries = 16
)

// Config is what a super peer runs with.
type Config struct {
	// HandOver is the owner's. Required.
	HandOver service.HandOver
	// Ledger is where members, leases and prepared keys are kept, and documents
	// beside them. Required.
	Ledger ledger.Home
	// UDP is the shared socket pair; New takes it. Required there, and not by
	// Host.Add.
	UDP port.Conn
	// TCP accepts admissions; New takes it. Required there, and not by Host.Add.
	TCP net.Listener
	// Binary and Process are the version and the process number that the status
	// shows.
	Binary  string
	Process int
	// Labels are what the super peer says of itself in universal overlays: cloud and
	// zone. Optional.
	Labels map[string]string
	// Log takes state changes. Required.
	Log *slog.Logger
	// Slots is how many attribute keys are kept ready for each role, whatever the
	// demand. Default: 4 at least, 16 where others make them, and up to 64 while as
	// many are taken. With 1 there is no cohort slot for a storm (abe.Pool).
	Slots int
	// Dial connects to an authority, for keys. Default: net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ABE opens the ABE master key of a hand-over. Default: abe.NewAuthority. Tests
	// have one that makes each key once for all of them.
	ABE func(seed abe.Secret, service id.ID) (KeyMaker, error)
}

// KeyMaker is what a super peer does with the ABE master key: *abe.Authority.
type KeyMaker interface {
	Params() *abe.Params
	PolicySeed(t abe.Target) (abe.Secret, error)
	NewSlot(random io.Reader, labels map[string]string, generation uint32) (*abe.Slot, error)
	Envelope(random io.Reader, key ed25519.PrivateKey, t abe.Target, seq uint64, expiry time.Time) ([]byte, error)
}

var _ KeyMaker = (*abe.Authority)(nil)

// SuperPeer is one super peer of one service. Make it with New; Run starts it.
type SuperPeer struct {
	// set at start
	cfg       Config
	log       *slog.Logger
	authority *authority
	host      *Host
	desk      *desk
	cert      certificate
	documents ed25519.PrivateKey // signs what the owners signed, for the other super peers
	port      *port.Port
	rings     *seal.Rings
	service   *tier
	universe  *tier
	admission *admission.Service
	renewer   *admission.Renewer
	renewals  chan asking   // by datagram
	offers    *port.Buckets // for them
	pool      *admission.EphemeralPool
	door      *door
	promotion *promotion
	relay     *relay.Relay
	recall    *recall
	releases  *release.Shelf
	started   time.Time

	admissions admissions // counted

	news     chan struct{} // documents that came meanwhile; capacity 1
	learning sync.Mutex    // held while newer documents are put in force

	mu    sync.Mutex
	ready bool // slots of every role are there
}

// tier is a super peer's part in one overlay.
type tier struct {
	ring     *seal.Ring
	standing atomic.Pointer[standing]
	overlay  *overlay.Overlay
	reflects *port.Reflector
}

// New makes a super peer that has a host of its own. It starts nothing.
func New(cfg Config) (*SuperPeer, error) {
	return NewHost(cfg.UDP, cfg.TCP, cfg.Log).Add(cfg)
}

// newSuperPeer makes what is a service's own.
func newSuperPeer(cfg Config, host *Host, key ed25519.PrivateKey) (*SuperPeer, error) {
	h, now := cfg.HandOver, time.Now()
	s := &SuperPeer{
		cfg: cfg, log: cfg.Log, host: host, port: host.port, rings: host.rings, door: host.door,
		cert: certificate{key: key}, started: now, news: make(chan struct{}, 1),
	}
	var err error
	if s.documents, err = documentsKey(h); err != nil {
		return nil, err
	}
	if s.releases, err = openReleases(cfg.Ledger); err != nil {
		return nil, err
	}
	if s.service, err = s.newTier(h.Service, fileDocuments, key, now); err != nil {
		return nil, err
	}
	groups, err := s.openEpochs(s.service.ring, s.service.trust(), now)
	if err != nil {
		return nil, err
	}
	if s.universe, err = s.newTier(h.Universe, fileUniverseDocuments, key, now); err != nil {
		return nil, fmt.Errorf("universal overlay: %w", err)
	}
	if err := installEpoch(s.universe.ring, h.Universe); err != nil {
		return nil, fmt.Errorf("universal overlay: %w", err)
	}
	if s.authority, err = s.newAuthority(h, key, groups, now); err != nil {
		return nil, err
	}
	s.promotion = newPromotion(s)
	s.relay = host.relay.Relay(h.Service.ID, key, s.authority.isMember)
	s.recall = s.newRecall()
	d := s.service.trust().Descriptor
	s.pool = admission.NewEphemeralPool(admission.Group(d.SRPGroup), ephemerals)
	return s, s.newAdmission(h, now)
}

// newTier verifies an overlay's documents and makes our node of it, whose ring is
// empty yet.
func (s *SuperPeer) newTier(m service.Membership, file string, key ed25519.PrivateKey, now time.Time) (*tier, error) {
	docs, trust, err := s.newest(m, file, now)
	if err != nil {
		return nil, err
	}
	pid := id.FromKey(key.Public().(ed25519.PublicKey))
	if _, ok := trust.Descriptor.SuperPeer(pid); !ok {
		return nil, fmt.Errorf("superpeer: the descriptor of %s does not list this super peer (%s); ask the owner for a new hand-over", trust.Descriptor.Name, pid.Short())
	}
	t := new(tier)
	t.standing.Store(newStanding(trust, docs, service.Signed{}, key.Public().(ed25519.PublicKey)))
	ring := seal.NewRing(seal.Config{Service: m.ID, IsAnswer: port.IsAnswer, ReplayEntries: replayEntries})
	s.rings.Add(ring)
	replicas := t.bootstrap
	if m.ID == s.cfg.HandOver.Service.ID {
		replicas = s.replicas
	}
	ov, err := overlay.New(overlay.Config{
		Self: pid, Transport: port.DHT{Port: s.port, Ring: ring}, Bootstrap: t.bootstrap, Replicas: replicas, Supers: t.bootstrap, Admit: s.admits(t), Class: s.classOf(t),
		Logger: s.log.With("overlay", trust.Descriptor.Name), StoreItems: storeItems, StoreBytes: storeBytes, Bucket: contactsPerDistance,
	})
	if err != nil {
		return nil, err
	}
	t.ring, t.overlay, t.reflects = ring, ov, port.NewReflector(s.port, ring)
	return t, nil
}

// admits says whether a node may be a contact in an overlay: its super peers,
// and in the service's the members that a super peer lists.
func (s *SuperPeer) admits(t *tier) func(id.ID, netip.AddrPort) bool {
	return func(pid id.ID, _ netip.AddrPort) bool {
		if _, ok := t.trust().Descriptor.SuperPeer(pid); ok {
			return true
		}
		return s.authority != nil && t == s.authority.tier && s.authority.isMember(pid)
	}
}

// classOf ranks the keys whose items we are asked to store, by the same lists.
func (s *SuperPeer) classOf(t *tier) func(ed25519.PublicKey) overlay.Class {
	return func(key ed25519.PublicKey) overlay.Class {
		pid := id.FromKey(key)
		if _, ok := t.trust().Descriptor.SuperPeer(pid); ok || key.Equal(s.documents.Public()) {
			return overlay.ClassSuper
		}
		if s.admits(t)(pid, netip.AddrPort{}) {
			return overlay.ClassMember
		}
		return overlay.ClassStranger
	}
}

// endpoints returns the addresses of a descriptor's super peers but one.
func endpoints(d *service.Descriptor, except id.ID) (all []string) {
	for _, sp := range d.SuperPeers {
		if sp.PID() != except {
			all = append(all, sp.Endpoints...)
		}
	}
	return all
}

func (s *SuperPeer) newAuthority(h service.HandOver, key ed25519.PrivateKey, groups *epochs, now time.Time) (*authority, error) {
	trust, policy, err := s.newestPolicy(h.Policy, now)
	if err != nil {
		return nil, err
	}
	self := s.service.standing.Load().self
	s.service.standing.Store(newStanding(trust, s.service.standing.Load().docs, policy, self.Key))
	if !self.Has(service.RoleAdmit) {
		return nil, errors.New("superpeer: the descriptor does not let this super peer admit; this version serves with that role only")
	}
	if now.Unix() >= self.Expires {
		return nil, fmt.Errorf("superpeer: the owner's grant to this super peer expired on %s; ask the owner for a new hand-over", time.Unix(self.Expires, 0).UTC().Format(time.RFC3339))
	}
	block, err := netip.ParsePrefix(self.Block4)
	if err != nil {
		return nil, fmt.Errorf("superpeer: address block %q: %w", self.Block4, err)
	}
	au, params, err := s.openMaster(h, trust, self, now)
	if err != nil {
		return nil, err
	}
	least := slotDepth
	if au == nil {
		least = handedDepth
	}
	least = cmp.Or(s.cfg.Slots, least)
	a := &authority{
		tier: s.service, key: key, abe: au, least: least, ring: s.service.ring, epochs: groups, handed: newHanded(),
		secrets: map[string]service.EnrolmentSecret{}, verifiers: map[string]admission.Verifier{},
		block: block, roster: newRoster(), others: newOthers(trust, self),
		slots: abe.NewPool(least, cmp.Or(s.cfg.Slots, maxSlotDepth), trust.Descriptor.Generation), log: s.log,
		targets: targets{byPolicy: map[string]*target{}, params: params, wanted: map[string]map[string]string{}}, changed: make(chan struct{}, 1), leaves: make(chan service.Leave, leaveQueue),
	}
	a.keys = discovery.NewKeys(trust.Service, nil, nil, a.epochKey)
	a.entries = s.entries
	a.keepPolicies = func(b []byte) error { return s.cfg.Ledger.Put(fileKeypool, b) }
	a.keptPolicies = func() ([]byte, error) { return s.cfg.Ledger.Get(fileKeypool) }
	for _, es := range h.Secrets {
		v, err := admission.ParseVerifier(es.Verifier)
		if err == nil && preparesVerifiers(h) {
			v, err = v.Prepared()
		}
		if err != nil {
			return nil, err
		}
		a.secrets[es.ID], a.verifiers[es.ID] = es, v
	}
	return a, a.openLedger(s.cfg.Ledger, now)
}

// openMaster returns the ABE master key, and the parameters that belong to it, if
// the owners made us an authority and gave us the key.
func (s *SuperPeer) openMaster(h service.HandOver, trust *service.Trust, self service.SuperPeer, now time.Time) (KeyMaker, []byte, error) {
	may := self.Has(service.RoleAuthority)
	if !may || len(h.ABESeed) == 0 {
		switch {
		case len(authorities(trust, self.PID(), now)) == 0:
			return nil, nil, errors.New("superpeer: this super peer has no ABE master key, and the descriptor names no other that has one; ask the owner for a new hand-over")
		case may:
			s.log.Warn("the owner made this super peer an authority, but its hand-over has no ABE master key; give it its new hand-over")
		case len(h.ABESeed) > 0:
			s.log.Warn("the hand-over has an ABE master key that this super peer is not to have any more; give it its new hand-over")
		}
		return nil, nil, nil
	}
	open := s.cfg.ABE
	if open == nil {
		open = func(seed abe.Secret, service id.ID) (KeyMaker, error) { return abe.NewAuthority(seed, service) }
	}
	au, err := open(abe.Secret(h.ABESeed), trust.Service)
	if err != nil {
		return nil, nil, err
	}
	if hash := au.Params().Hash(); string(hash[:]) != string(trust.Descriptor.ABEHash) {
		return nil, nil, errors.New("superpeer: the ABE parameters made from the hand-over's seed are not those in the descriptor; create the service again with this binary")
	}
	return au, au.Params().Bytes(), nil
}

// preparesVerifiers says whether tables of the verifiers' powers are kept: for all
// of them or for none.
func preparesVerifiers(h service.HandOver) bool { return len(h.Secrets) <= maxPrepared }

// openLedger reads what earlier processes have kept.
func (a *authority) openLedger(home ledger.Home, now time.Time) (err error) {
	a.ledger, err = ledger.Open(home, ledger.Config{
		Service: a.trust().Service, SuperPeer: a.self().PID(), Block: a.block, Life: credentialLife, Grace: leaseGrace,
	}, now)
	if err != nil {
		return err
	}
	for _, e := range a.ledger.Members() {
		a.roster.own(e)
	}
	a.dropRevoked() // by a policy that came with a new hand-over
	if until := a.ledger.Restored(now); !until.IsZero() {
		a.log.Warn("restored from a backup: members go on, new machines get no address before", "expires", until)
	}
	return nil
}

// newAdmission prepares what every admission reads.
func (s *SuperPeer) newAdmission(h service.HandOver, now time.Time) error {
	if err := s.authority.prepare(now); err != nil {
		return err
	}
	d := s.service.trust().Descriptor
	s.admission = &admission.Service{
		ID:      d.Service, // root and descriptor are those of the moment
		Params:  admission.Params{Group: admission.Group(d.SRPGroup), KDF: admission.KDF(d.KDF)},
		FakeKey: admission.Key(h.FakeKey), TicketKeys: []admission.Key{admission.Key(h.TicketKey)},
		Prepared: preparesVerifiers(h), Key: s.authority.key, Issuer: s.authority.ticketIssuer,
		Info: func() ([]byte, error) { return s.authority.info(time.Now()) }, // the statement in it ends some day
	}
	s.renewer, s.renewals, s.offers = admission.NewRenewer(s.admission), make(chan asking, maxRenewing), port.NewBuckets(offerRate, offerBurst)
	return nil
}

// entries are overlay nodes near us, for a newcomer to start from if the super
// peers of the descriptor do not answer.
func (s *SuperPeer) entries() (out []provision.Entry) {
	for _, n := range s.service.overlay.Nodes() {
		if len(out) == maxEntries {
			break
		}
		out = append(out, provision.Entry{PID: n.ID, Endpoints: []netip.AddrPort{n.Addr}})
	}
	return out
}

// Backup writes the ledger as it is at one moment, sealed as on disk. Admissions
// go on meanwhile.
func (s *SuperPeer) Backup(w io.Writer) error { return s.authority.ledger.Backup(w) }

// PID returns the super peer's node identifier.
func (s *SuperPeer) PID() id.ID { return s.authority.self().PID() }

// Run serves, with every other service of the host, until ctx ends. It closes
// both sockets.
func (s *SuperPeer) Run(ctx context.Context) error { return s.host.Run(ctx) }

// run does what is a service's own.
func (s *SuperPeer) run(ctx context.Context) error {
	s.log.Info("super peer up", "pid", s.PID().Short(), "addr", s.cfg.TCP.Addr(), "block", s.authority.self().Block4)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.service.overlay.Run(ctx) })
	g.Go(func() error { return s.universe.overlay.Run(ctx) })
	g.Go(func() error { return s.idleLoop(ctx) })
	g.Go(func() error { return s.keysLoop(ctx) })
	g.Go(func() error { return s.expireLoop(ctx) })
	g.Go(func() error { return s.recallLoop(ctx) })
	g.Go(func() error { return s.recall.after(ctx, s.publishLoop) })
	g.Go(func() error { return s.recall.after(ctx, s.readLoop) })
	g.Go(func() error { return s.promotion.run(ctx) })
	g.Go(func() error { return s.documentsLoop(ctx) })
	g.Go(func() error { return s.epochLoop(ctx) })
	g.Go(func() error { return s.renewalsLoop(ctx) })
	err := errors.Join(g.Wait(), s.authority.ledger.Close())
	s.log.Info("super peer down")
	return err
}

// onControl hands a datagram of one of our overlays to whom it is for.
func (s *SuperPeer) onControl(t *tier, o seal.Opened, from netip.AddrPort) {
	switch o.Type {
	case seal.TypeDHT:
		port.DHT{Port: s.port, Ring: t.ring}.Deliver(t.overlay, o, from)
	case seal.TypeReflect:
		s.reflect(t, o, from)
	case seal.TypeRelay:
		s.allocate(t, o, from)
	case seal.TypeRenewal:
		if t == s.service {
			s.onRenewal(o, from)
		}
	case seal.TypeProbe: // of tunnels, which we have none of, or a member's goodbye
		if t == s.service {
			s.authority.onLeave(o.Payload, time.Now())
		}
	}
}

// reflect tells a member under which address we see it, and takes what a member
// tells us: it may become a helper.
func (s *SuperPeer) reflect(t *tier, o seal.Opened, from netip.AddrPort) {
	if tx, _, answer := port.ParseReflected(o.Payload); answer {
		if t == s.service {
			s.promotion.onAnswer(tx, from)
		}
		return
	}
	if err := t.reflects.Answer(o, from); err != nil {
		s.log.Debug("reflection not sent", "addr", from, "err", err)
	}
}

// allocate answers a member that wants an allocation, if the owners let us relay.
func (s *SuperPeer) allocate(t *tier, o seal.Opened, from netip.AddrPort) {
	now := time.Now()
	self := s.authority.self()
	if t != s.service || !self.Has(service.RoleRelay) || now.Unix() >= self.Expires {
		return
	}
	answer := s.relay.Answer(now, o.Payload, from)
	if answer == nil || len(answer) > o.Room {
		return
	}
	if err := s.port.SendControl(t.ring, seal.TypeRelay, o.Epoch, answer, 0, from); err != nil {
		s.log.Debug("relay's answer not sent", "addr", from, "err", err)
	}
}

func (s *SuperPeer) becomeReady() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready {
		s.ready = true
		s.log.Info("keys made ahead for every role", "dur", time.Since(s.started).Round(time.Millisecond))
	}
}

// Ready says whether admissions wait for no key generation.
func (s *SuperPeer) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}
