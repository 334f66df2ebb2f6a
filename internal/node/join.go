package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/control"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// JoinConfig is what a machine brings to admission.
type JoinConfig struct {
	Token    service.Token
	Identity ed25519.PrivateKey
	// Prefer is the endpoint of the super peer that admitted us before: only it can
	// give the same IPv4 address again. The others are dialled a moment later.
	Prefer string
	// MinSeq is the highest descriptor sequence number seen before, 0 at first.
	MinSeq uint64
	// MinPolicy is the highest policy sequence number seen before: a super peer that
	// hands out an older one would undo revocations.
	MinPolicy uint64
	// MinRoot is the highest sequence number of a root document seen before: an
	// older chain would bring back owners that were put out.
	MinRoot uint64
	// Kept is what this machine has of a membership before. Its ticket is tried
	// first; the secret is for a super peer that refuses it. May be nil.
	Kept *Kept
	// Name, VM, Labels and Endpoints go into the request.
	Name, VM  string
	Labels    map[string]string
	Endpoints []netip.AddrPort
	Binary    string
	// Instance is this process, the same in all its admissions. Default: drawn by
	// Join, and for renewals that of the membership.
	Instance service.Instance
	// Dial opens the connection to a super peer. Required.
	Dial func(ctx context.Context, endpoint string) (net.Conn, error)
	// Accept is shown the owner-signed descriptor before this machine says who it
	// is: an error ends the join, and no super peer lists us. May be nil.
	Accept func(*service.Descriptor) error
	Log    *slog.Logger
	// Step is told of each finished step. May be nil.
	Step func(control.JoinStep)

	asked *int64 // Unix ms of the last claim; attempts of a join come one after the other
}

func (c *JoinConfig) seen() Seen {
	return Seen{Descriptor: c.MinSeq, Policy: c.MinPolicy, Root: c.MinRoot}
}

// Membership is what a join yields: the verified chain, our credential and
// keys. It is replaced as a whole by a renewal.
type Membership struct {
	Trust      *service.Trust
	Documents  service.Documents
	Credential *service.Credential
	Claim      service.Claim // that we asked for Credential with; nil if it was kept
	Grant      provision.Grant
	Epochs     *service.Epochs // of Grant; nil: the owners have not spoken of any
	Key        *abe.Key
	Members    []service.Member
	Session    admission.Session // for key continuity
	SuperPeer  string            // endpoint that admitted us
	Offset     time.Duration     // the super peer's clock minus ours
	// Unconfirmed says that it was kept from before this process, and no super
	// peer has been met since: the clock's offset is of then.
	Unconfirmed bool
}

// RefusedError is a super peer's final no. One that lies must not keep a
// machine out, so another is asked before it is believed.
type RefusedError struct {
	SuperPeer string // endpoint
	By        id.ID  // whose key that was
	Refusal   *admission.Refusal
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("super peer %s refused this machine: %v", e.SuperPeer, e.Refusal)
}

// Unwrap returns the refusal.
func (e *RefusedError) Unwrap() error { return e.Refusal }

// ClockError says that this machine's clock is too wrong to go on.
type ClockError struct {
	SuperPeer string
	Offset    time.Duration // positive: ours is behind
}

func (e *ClockError) Error() string {
	way := "behind"
	if e.Offset < 0 {
		way = "ahead of"
	}
	return fmt.Sprintf("this machine's clock is %v %s that of super peer %s; set it (chronyc makestep, or timedatectl set-ntp true) and start again", e.Offset.Abs().Round(time.Second), way, e.SuperPeer)
}

// Join is admitted by the first super peer that can: those of the token are
// dialled together, the quickest is tried first. A refusal for good, or a clock
// that is far off, is believed when a second super peer agrees or none is left.
func Join(ctx context.Context, cfg JoinConfig) (*Membership, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cfg.Instance.IsZero() {
		rand.Read(cfg.Instance[:])
	}
	if cfg.asked == nil {
		cfg.asked = new(int64)
	}
	conns := dialAll(ctx, cfg)
	var failures []string
	var clock *ClockError
	var refused *RefusedError
	var second <-chan time.Time // ends the wait for a second opinion
	for range cfg.Token.SuperPeers {
		var d dialled
		select {
		case d = <-conns:
		case <-second:
			return nil, refused
		}
		m, err := attempt(ctx, cfg, d)
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var un *unacceptableError
		if errors.As(err, &un) {
			return nil, un.reason
		}
		if cfg.final(err) {
			if refused != nil {
				return nil, refused
			}
			errors.As(err, &refused)
			second = time.After(secondOpinion)
		}
		if before := clock != nil; errors.As(err, &clock) && before {
			return nil, clock
		}
		failures = append(failures, fmt.Sprintf("%s: %v", d.endpoint, reason(err)))
		if len(failures) < len(cfg.Token.SuperPeers) {
			cfg.Log.Warn("super peer did not admit us, trying the next", "addr", d.endpoint, "err", reason(err))
		} else {
			cfg.Log.Warn("super peer did not admit us", "addr", d.endpoint, "err", reason(err))
		}
	}
	switch {
	case refused != nil:
		return nil, refused
	case clock != nil:
		return nil, clock
	}
	return nil, &UnreachableError{Failures: failures}
}

// attempt tries to be admitted on a connection, if there is one.
func attempt(ctx context.Context, cfg JoinConfig, d dialled) (*Membership, error) {
	if d.err == nil && time.Since(d.at) > staleConn {
		d.conn.Close()
		d = dial(ctx, cfg, d.endpoint)
	}
	if d.err != nil {
		return nil, d.err
	}
	m, err := enter(ctx, cfg, d)
	for hop := 0; hop < maxHops; hop++ {
		other, ok := elsewhere(cfg.Token, d.endpoint, err)
		// Whoever else was sent away in this moment does not come with us.
		if !ok || !sleep(ctx, mrand.N(hopJitter)) {
			return m, err
		}
		cfg.Log.Info("super peer is busy, going to the one it names", "addr", d.endpoint, "super_peer", other)
		next := dial(ctx, cfg, other)
		if next.err != nil {
			return nil, err
		}
		d = next
		m, err = enter(ctx, cfg, d)
	}
	return m, err
}

// elsewhere returns the super peer that a busy one names, if the token knows it.
func elsewhere(t service.Token, asked string, err error) (endpoint string, ok bool) {
	var r *RefusedError
	if !errors.As(err, &r) || r.Refusal.Code != admission.CodeBusy || r.Refusal.Other == asked {
		return "", false
	}
	ok = slices.ContainsFunc(t.SuperPeers, func(sp service.TokenSuperPeer) bool { return sp.Endpoint == r.Refusal.Other })
	return r.Refusal.Other, ok
}

// enter is admitted with the ticket of before, or with the secret where the
// super peer wants that.
func enter(ctx context.Context, cfg JoinConfig, d dialled) (*Membership, error) {
	if !cfg.Kept.serves(cfg.Token, time.Now()) {
		return admit(ctx, cfg, d)
	}
	m, err := admit(ctx, cfg, d)
	if !needsSecret(err) {
		return m, err
	}
	cfg.Log.Info("super peer wants the enrolment secret instead of the ticket", "addr", d.endpoint, "err", reason(err))
	cfg.Kept = nil
	if d = dial(ctx, cfg, d.endpoint); d.err != nil {
		return nil, d.err
	}
	return admit(ctx, cfg, d)
}

// UnreachableError says that no super peer of the token admitted us, and why.
type UnreachableError struct{ Failures []string }

func (e *UnreachableError) Error() string {
	return "no super peer could be used (" + strings.Join(e.Failures, "; ") + "); check that they run and that this machine reaches them, or ask the service owner for a newer token"
}

// unacceptableError is what JoinConfig.Accept has against the service. Every
// super peer serves the same one.
type unacceptableError struct{ reason error }

func (e *unacceptableError) Error() string { return e.reason.Error() }

// final says whether other super peers should answer the same. That there is a
// later process with our identity counts only from the super peer that issued
// what we keep of a membership: any other would have to show that process's
// claim, which a refusal does not carry. So nobody can say it of a machine that
// was not admitted before.
func (c *JoinConfig) final(err error) bool {
	var r *RefusedError
	if !errors.As(err, &r) {
		return false
	}
	switch r.Refusal.Code {
	case admission.CodeBusy, admission.CodeAddresses, admission.CodeInternal, admission.CodeServiceUnknown, admission.CodeTicket:
		return false
	case admission.CodeClone:
		return c.Kept != nil && !r.By.IsZero() && r.By == c.Kept.Issuer
	}
	return true
}

// reason shortens what net and admit add to an error: the endpoint is named
// already.
func reason(err error) error {
	var r *RefusedError
	if errors.As(err, &r) {
		return r.Refusal
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return fmt.Errorf("its name cannot be looked up: %s", dns.Err)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		if op.Timeout() {
			return errors.New("no answer to the connection")
		}
		return op.Err
	}
	return err
}

// admission's steps, as a user sees them.
const (
	stepConnect    = "connect"
	stepDescriptor = "descriptor"
	stepSecret     = "secret"
	stepProvision  = "provision"
	stepUnlock     = "unlock"
	stepList       = "peer list"
	stepOverlay    = "overlay"
	stepContact    = "contact"
	stepInterface  = "interface"
)

// admit runs one admission on an open connection, which it closes.
func admit(ctx context.Context, cfg JoinConfig, d dialled) (*Membership, error) {
	defer d.conn.Close()
	ctx, cancel := context.WithTimeout(ctx, admission.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { d.conn.Close() })
	defer stop()
	a := &admittance{cfg: cfg, endpoint: d.endpoint, began: time.Now().Add(-d.took), m: &Membership{SuperPeer: d.endpoint}}
	a.step(stepConnect, "super peer "+d.endpoint)

	config := admission.ClientTLS
	client := admission.ClientConfig{
		ServiceID: cfg.Token.Service, Identity: cfg.Identity,
		CheckDescriptor: a.checkDescriptor, SecretID: cfg.Token.SecretID, Secret: cfg.Token.Secret,
	}
	if cfg.Kept.serves(cfg.Token, time.Now()) {
		config = admission.TicketTLS
		client.Session, client.Request = &cfg.Kept.Session, a.renewal
	}
	key := expectedKey(cfg.Token, d.endpoint)
	tc := tls.Client(d.conn, named(key, config(cfg.Token.Pins())))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, a.fail(explainHandshake(key, err))
	}
	var err error
	if client.Binding, err = admission.BindClient(tc.ConnectionState()); err != nil {
		return nil, a.fail(err)
	}
	a.serverKey = client.Binding.ServerKey
	if a.client, err = admission.NewClient(client); err != nil {
		return nil, a.fail(err)
	}
	defer a.client.Wipe()
	if err := a.run(tc); err != nil {
		return nil, a.fail(err)
	}
	return a.m, nil
}

// admittance is one admission under way.
type admittance struct {
	cfg       JoinConfig
	endpoint  string
	serverKey ed25519.PublicKey
	client    *admission.Client
	m         *Membership
	heard     time.Time // when the descriptor came
	began     time.Time // of the current step
}

// run feeds the machine until it is done: with the list, or with the grant of a
// ticket.
func (a *admittance) run(tc *tls.Conn) error {
	next := []admission.Frame{a.client.Begin()}
	for {
		for _, f := range next {
			if err := admission.WriteFrame(tc, f); err != nil {
				return err
			}
		}
		f, err := admission.ReadFrame(tc, a.client.Limit())
		if err != nil {
			return fmt.Errorf("it closed the connection (%w); it may be busy", err)
		}
		now := time.Now()
		if f.Type == admission.TypeDescriptor {
			a.heard = now
		}
		out, err := a.client.Step(now, f)
		if err != nil {
			return err
		}
		if next = out.Send; out.Event == admission.EventListed {
			return a.onListed(out.Data)
		}
		if out.Event == admission.EventGranted && a.client.Continued() {
			session, _ := a.client.Session()
			return a.onRenewed(out.Data, session)
		}
		f, ok, err := a.onEvent(out)
		if err != nil {
			return err
		}
		if ok {
			next = append(next, f)
		}
	}
}

func (a *admittance) onEvent(out admission.ClientOutput) (f admission.Frame, ok bool, err error) {
	switch out.Event {
	case admission.EventAccepted:
		a.step(stepSecret, "SRP-6a, secret "+a.cfg.Token.SecretID)
		f, err = a.onAccepted(out.Data)
		return f, true, err
	case admission.EventGranted:
		if err := a.onGranted(out.Data); err != nil {
			return f, false, err
		}
		a.m.Session, _ = a.client.Session()
		f, err = a.client.List(nil)
		return f, true, err
	}
	return f, false, nil
}

// checkDescriptor is the client's only reason to go on: the owner signed this
// descriptor, and it lists the TLS key of who sent it.
func (a *admittance) checkDescriptor(roots, descriptor []byte, key ed25519.PublicKey) (admission.Params, error) {
	docs := service.Documents{}
	if err := wire.Unmarshal(roots, &docs.Roots, service.MaxSigned); err != nil {
		return admission.Params{}, err
	}
	if err := wire.Unmarshal(descriptor, &docs.Descriptor, service.MaxSigned); err != nil {
		return admission.Params{}, err
	}
	now := time.Now()
	trust, err := service.Open(docs, a.cfg.Token.Service, max(a.cfg.MinSeq, a.cfg.Token.MinSeq), now)
	if err != nil {
		return admission.Params{}, err
	}
	if err := checkSeen(trust, a.cfg.seen()); err != nil {
		return admission.Params{}, err
	}
	sp, listed := trust.Descriptor.SuperPeer(id.FromKey(key))
	if !listed || !sp.Has(service.RoleAdmit) || now.Unix() >= sp.Expires {
		return admission.Params{}, fmt.Errorf("its key %s is not that of a super peer that may admit to %s", admission.Fingerprint(key), trust.Descriptor.Name)
	}
	if a.cfg.Accept != nil {
		if err := a.cfg.Accept(trust.Descriptor); err != nil {
			return admission.Params{}, &unacceptableError{err}
		}
	}
	a.m.Trust, a.m.Documents = trust, docs
	a.step(stepDescriptor, fmt.Sprintf("%s, sequence %d, signed by its owner", trust.Descriptor.Name, trust.Descriptor.Seq))
	return admission.Params{Group: admission.Group(trust.Descriptor.SRPGroup), KDF: admission.KDF(trust.Descriptor.KDF)}, nil
}

// onAccepted checks the clock and the ABE parameters and makes the request.
func (a *admittance) onAccepted(data []byte) (admission.Frame, error) {
	if err := a.learnClock(a.client.ServerTime()); err != nil {
		return admission.Frame{}, err
	}
	info, err := provision.ParseInfo(data)
	if err != nil {
		return admission.Frame{}, err
	}
	if h := abe.HashParams(info.ABEParams); string(h[:]) != string(a.m.Trust.Descriptor.ABEHash) {
		return admission.Frame{}, errors.New("its ABE parameters are not those of the descriptor")
	}
	st, err := abe.VerifyStatement(info.Statement, a.cfg.Token.Service, a.verifyKey, a.now())
	if err != nil {
		return admission.Frame{}, err
	}
	if want := abe.ForSuperPeer(id.FromKey(a.serverKey)); !st.Target.Policy.Equal(want) {
		return admission.Frame{}, fmt.Errorf("it offers the key of policy %.80q for requests", st.Target.Policy.String())
	}
	pub := a.cfg.Identity.Public().(ed25519.PublicKey)
	sealed, err := discovery.Seal(st, "request", pub, a.request().Encode())
	if err != nil {
		return admission.Frame{}, err
	}
	return a.client.Provision(sealed)
}

// request is what we ask for, by secret or by ticket.
func (a *admittance) request() provision.Request {
	pub := a.cfg.Identity.Public().(ed25519.PublicKey)
	req := provision.Request{PID: id.FromKey(pub), Name: a.cfg.Name, VM: a.cfg.VM, Labels: a.cfg.Labels, Endpoints: a.cfg.Endpoints, Binary: a.cfg.Binary, Instance: a.cfg.Instance}
	*a.cfg.asked = max(a.now().UnixMilli(), *a.cfg.asked+1) // super peers' clocks differ; the order must show
	req.Claim = service.SignClaim(a.cfg.Identity, a.cfg.Token.Service, id.FromKey(a.serverKey), a.cfg.Instance, time.UnixMilli(*a.cfg.asked))
	a.m.Claim = req.Claim
	return req
}

// learnClock compares clocks. The super peer's stood in the descriptor frame;
// half a round trip of error is far below the window of docs/protocol/control.md.
func (a *admittance) learnClock(theirs time.Time) error {
	a.m.Offset = theirs.Sub(a.heard).Round(time.Millisecond)
	if a.m.Offset > maxClockBehind || a.m.Offset < -maxClockOff {
		return &ClockError{SuperPeer: a.endpoint, Offset: a.m.Offset}
	}
	if a.m.Offset.Abs() > time.Minute {
		a.cfg.Log.Warn("this machine's clock is off; the difference is taken into account", "offset", a.m.Offset)
	}
	return nil
}

func (a *admittance) now() time.Time { return time.Now().Add(a.m.Offset) }

func (a *admittance) verifyKey(issuer id.ID) (ed25519.PublicKey, bool) {
	return a.m.Trust.AuthorityKey(issuer, a.now())
}

func (a *admittance) verifyKeyAt(t time.Time) abe.Verifier {
	return func(issuer id.ID) (ed25519.PublicKey, bool) { return a.m.Trust.AuthorityKey(issuer, t) }
}

// onGranted checks what we were given against the same chain that every other
// member will check it against.
func (a *admittance) onGranted(data []byte) error {
	g, err := provision.ParseGrant(data)
	if err != nil {
		return err
	}
	if err := a.take(g); err != nil {
		return err
	}
	a.m.Key, err = abe.ParseKey(g.AttributeKey)
	return err
}

// take verifies a grant.
func (a *admittance) take(g provision.Grant) (err error) {
	if a.m.Trust, err = a.m.Trust.WithPolicy(g.Policy, a.now()); err != nil {
		return err
	}
	if err := checkSeen(a.m.Trust, a.cfg.seen()); err != nil {
		return err
	}
	c, err := a.m.Trust.VerifyCredential(a.now(), g.Credential, g.Epoch)
	if err != nil {
		return err
	}
	if !c.Key.Equal(a.cfg.Identity.Public()) {
		return errors.New("the credential is for another key")
	}
	if c.Instance != a.cfg.Instance {
		return errors.New("the credential is for another process of this machine")
	}
	if c.Issuer != id.FromKey(a.serverKey) { // its word on members would pass for the issuer's
		return fmt.Errorf("the credential is from another super peer, %s", c.Issuer.Short())
	}
	if a.m.Epochs, err = openEpochs(a.m.Trust, g); err != nil {
		return err
	}
	a.m.Grant, a.m.Credential = g, c
	a.m.keepEpochs(a.cfg.Kept)
	a.step(stepProvision, fmt.Sprintf("%s and %s, %s, until %s", c.Addr4(), c.Addr6(), service.LabelText(c.Labels), c.Expires().UTC().Format("2006-01-02 15:04 UTC")))
	return nil
}

// onListed opens the peer list with the slot's secret: that it opens shows that
// the attribute key is the one of the credential's slot.
func (a *admittance) onListed(data []byte) error {
	c := a.m.Credential
	t := abe.Target{Service: c.Service, Generation: c.Generation, Policy: abe.ForSlot(abe.SlotID(c.Slot))}
	secret, err := a.m.Key.Unseal(t, a.m.Grant.SlotCiphertext)
	if err != nil {
		return fmt.Errorf("the attribute key does not open its slot: %w", err)
	}
	a.step(stepUnlock, "attribute key opens slot")
	epochKey := func(e uint32) (abe.Secret, bool) { return abe.Secret(a.m.Grant.EpochKey), e == a.m.Grant.Epoch }
	keys := discovery.NewKeys(c.Service, a.m.Key, a.verifyKey, epochKey)
	keys.AddSeed(t, secret)
	plain, err := keys.Open(data, "list", c.Key, provision.MaxList+256)
	if err != nil {
		return err
	}
	l, err := provision.ParseList(plain)
	if err != nil {
		return err
	}
	sp, _ := a.m.Trust.Descriptor.SuperPeer(id.FromKey(a.serverKey))
	a.m.Members = service.Vouched(sp, l.Members, a.now())
	a.step(stepList, fmt.Sprintf("%d members, %d of this super peer's", len(l.Members), len(a.m.Members)))
	return nil
}

// step reports that a step is done, and begins the next.
func (a *admittance) step(name, detail string) {
	now := time.Now()
	report(a.cfg.Log, a.cfg.Step, name, detail, a.began, now)
	a.began = now
}

func report(log *slog.Logger, tell func(control.JoinStep), name, detail string, began, now time.Time) {
	took := now.Sub(began)
	log.Info("join step", "step", name, "dur", took.Round(100*time.Microsecond), "detail", detail)
	if tell != nil {
		tell(control.JoinStep{Name: name, Started: began, DurationMS: float64(took.Microseconds()) / 1000, Detail: detail})
	}
}

// fail names the super peer in a refusal.
func (a *admittance) fail(err error) error {
	var r *admission.Refusal
	if errors.As(err, &r) {
		return &RefusedError{SuperPeer: a.endpoint, By: id.FromKey(a.serverKey), Refusal: r}
	}
	return err
}
