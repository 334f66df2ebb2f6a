package admission

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/bigmod"

	"icvpn/internal/id"
)

// Service is what a super peer knows of one service that it admits to. The
// machine only reads it, so one value may serve all connections.
type Service struct {
	ID id.ID
	// Root and Descriptor are the owner's signed bytes, at most 8 and 64 KiB.
	Root, Descriptor []byte
	// Params are those in Descriptor.
	Params Params
	// FakeKey is shared by all super peers of the service, so that an unknown
	// secret ID has the same salt everywhere.
	FakeKey Key
	// TicketKeys open tickets; the first one seals. Shared likewise.
	TicketKeys []Key
	// Prepared says that every verifier of the service is.
	Prepared bool
	// Key signs tickets. It is this super peer's own.
	Key ed25519.PrivateKey
	// Issuer returns the key of a super peer whose tickets are taken: one that may
	// admit now. Without it none are.
	Issuer func(pid id.ID, now time.Time) (ed25519.PublicKey, bool)
	// Info returns what goes to every peer that proved its secret: ABE public
	// parameters, provisioning key. May be nil.
	Info func() ([]byte, error)
}

func (s *Service) validate() error {
	if err := s.Params.validate(); err != nil {
		return err
	}
	if len(s.TicketKeys) == 0 {
		return errors.New("admission: Service.TicketKeys is empty")
	}
	if len(s.Key) != ed25519.PrivateKeySize {
		return errors.New("admission: Service.Key is missing")
	}
	if len(s.Root) > maxRoot || len(s.Descriptor) > maxDescriptor {
		return errors.New("admission: Service.Root or Service.Descriptor is too long")
	}
	return nil
}

// Authenticated is a peer that has proved an enrolment secret, or a session
// key, and its identity key.
type Authenticated struct {
	Service  id.ID
	SecretID string
	PID      id.ID
	IDKey    ed25519.PublicKey
	// Admitted is when the secret was proved: now, or the time in the ticket, if
	// the peer has Continued with one.
	Admitted  time.Time
	Continued bool
	// ByDatagram says that nothing has shown yet that the holder of IDKey has asked:
	// it is the Backend's to find that out, from the request.
	ByDatagram bool
	Key        Key // K_c: not to be kept
	Exporter   [32]byte
}

// Granted is a Provision hook's yes.
type Granted struct {
	Bytes   []byte    // for the peer, opaque here; at most 255 KiB
	Expires time.Time // of the session ticket made with it
	Memo    []byte    // comes back with that ticket; at most 256 B
}

func (g *Granted) check(now time.Time) error {
	if !g.Expires.After(now) || unixMs(g.Expires) > maxUnixMs || len(g.Memo) > limitMemo {
		return errors.New("admission: grant's memo too long, or its expiry out of range")
	}
	return nil
}

// Backend decides. Its methods are called from Step and may block; a *Refusal
// they return is sent, any other error becomes CodeInternal and is reported in
// ServerOutput.Cause only. Slices passed in are the callee's.
type Backend interface {
	// Service returns the service, if this super peer admits to it.
	Service(service id.ID) (*Service, bool)
	// Verifier returns the verifier of a secret ID, expired or exhausted ones
	// too: those are refused in Provision, after the proof. It must take as
	// long for unknown IDs.
	Verifier(service id.ID, secretID string) (Verifier, bool)
	// Provision grants what a request asks for. Revocation is checked here.
	Provision(who Authenticated, request []byte) (Granted, error)
	// Continue grants what the holder of a ticket asks for, after all proofs.
	// That the ticket is used once, that its issuer may grant as much, and
	// everything that Provision checks, is checked here. It borrows ticket.
	Continue(who Authenticated, ticket *Ticket, request []byte) (Granted, error)
	// List answers a peer-list request.
	List(who Authenticated, request []byte) ([]byte, error)
}

// ServerConfig is one connection's surroundings.
type ServerConfig struct {
	Backend Backend
	// Binding is of the TLS session, from BindServer.
	Binding Binding
	// Pool may be nil; then g^b is made when it is needed.
	Pool *EphemeralPool
	// Throttle bounds wrong proofs from Source, and all others together. May be
	// nil; then nothing does.
	Throttle *Throttle
	Source   Source
}

// ServerOutput is what to do after a step: send, then close if Done. Refused is
// the code of the refusal in Send, 0 without one; Cause says for the log why, and
// is not for the peer.
type ServerOutput struct {
	Send    []Frame
	Done    bool
	Refused Code
	Cause   error
}

type serverState uint8

//	wantRequest --> wantStart --Start--> wantProof --M1--> wantProvision
//	                    +------Continue-----+                     |
//	done <--List-- wantList <---------------+----Provision--------+
//
// done is also reached by every refusal and by a Continue that wants no list,
// failed by every error.
const (
	serverWantRequest serverState = iota
	serverWantStart
	serverWantProof
	serverWantProvision
	serverWantList
	serverDone
	serverFailed
)

var serverStateNames = [...]string{"wantRequest", "wantStart", "wantProof", "wantProvision", "wantList", "done", "failed"}

func (s serverState) String() string { return serverStateNames[s] }

// Server is a super peer's side of one admission. An error means that the peer
// broke the protocol: close, say nothing. It is not safe for concurrent use.
//
// The costly steps are those of TypeProof (two exponentiations) and whatever Provision does: bound how many run
// at once around Step.
type Server struct {
	cfg    ServerConfig
	random io.Reader
	state  serverState

	service  *Service
	verifier Verifier
	known    bool // verifier is a real one
	eph      ephemeral
	bPub     []byte // PAD(B)
	shown    *shown // by HoldsTicket
	who      Authenticated
}

// NewServer returns a machine that waits for the peer's first frame.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Backend == nil {
		return nil, errors.New("admission: ServerConfig.Backend is missing")
	}
	if len(cfg.Binding.ServerKey) != ed25519.PublicKeySize {
		return nil, errors.New("admission: ServerConfig.Binding is not from BindServer")
	}
	return &Server{cfg: cfg, random: rand.Reader}, nil
}

// Limit is what to pass to ReadFrame before the next Step.
func (s *Server) Limit() int {
	switch s.state {
	case serverWantStart:
		return limitContinue
	case serverWantProvision:
		return limitProvision
	case serverWantList:
		return limitList
	}
	return limitEarly
}

// Who returns the peer once it is authenticated; IDKey is set from the
// provisioning request on.
func (s *Server) Who() (Authenticated, bool) {
	return s.who, s.state == serverWantProvision || s.state == serverWantList
}

// Refuse ends the admission from outside, with CodeBusy when there is too much
// to do. Before the proof a client believes only CodeBusy, CodeClock,
// CodeServiceUnknown and CodeInternal.
func (s *Server) Refuse(r *Refusal) ServerOutput { return s.refuse(r, nil) }

// Wipe overwrites the secrets that the machine holds. Call it when the
// connection ends, however it ends.
func (s *Server) Wipe() {
	s.eph.wipe()
	s.who.Key.Wipe()
	if s.shown != nil {
		s.shown.ticket.Key.Wipe()
	}
	s.cfg.Binding.wipe()
	s.state = serverFailed
}

// Step takes the frame that came.
func (s *Server) Step(now time.Time, f Frame) (ServerOutput, error) {
	out, err := s.step(now, f)
	if err != nil {
		s.Wipe()
		return ServerOutput{Done: true}, err
	}
	return out, nil
}

func (s *Server) step(now time.Time, f Frame) (ServerOutput, error) {
	switch {
	case f.Type == TypeDescriptorRequest && s.state == serverWantRequest:
		return s.onDescriptorRequest(now, f)
	case f.Type == TypeStart && s.state == serverWantStart:
		return s.onStart(now, f)
	case f.Type == TypeContinue && s.state == serverWantStart:
		return s.onContinue(now, f)
	case f.Type == TypeProof && s.state == serverWantProof:
		return s.onProof(now, f)
	case f.Type == TypeProvision && s.state == serverWantProvision:
		return s.onProvision(now, f)
	case f.Type == TypeList && s.state == serverWantList:
		return s.onList(f)
	}
	return ServerOutput{}, fmt.Errorf("%w: %v while %v", ErrOrder, f.Type, s.state)
}

func (s *Server) onDescriptorRequest(now time.Time, f Frame) (ServerOutput, error) {
	var m descriptorRequest
	if err := decode(f, &m); err != nil {
		return ServerOutput{}, err
	}
	service, ok := s.cfg.Backend.Service(id.ID(m.Service))
	if !ok {
		return s.refuse(&Refusal{Code: CodeServiceUnknown}, nil), nil
	}
	if err := service.validate(); err != nil {
		return s.hookFailed(err), nil
	}
	s.service = service
	s.become(serverWantStart, serverWantRequest)
	return reply(encode(TypeDescriptor, &descriptor{
		Root: service.Root, Descriptor: service.Descriptor, Clock: unixMs(now),
	})), nil
}

// onStart challenges with B. Known and unknown IDs do the same work here and
// in onProof.
func (s *Server) onStart(now time.Time, f Frame) (ServerOutput, error) {
	var m start
	if err := decode(f, &m); err != nil {
		return ServerOutput{}, err
	}
	if !s.cfg.Binding.Hybrid { // a secret's admission is what later sessions build on
		return ServerOutput{}, fmt.Errorf("%w: Start over a key exchange without ML-KEM", ErrOrder)
	}
	if !s.cfg.Throttle.open(now, m.SecretID, s.cfg.Source) {
		return s.refuse(guessedTooOften(), nil), nil
	}
	fake := fakeVerifier(s.service.FakeKey, s.service.ID, m.SecretID, s.service.Params)
	s.verifier, s.known = s.cfg.Backend.Verifier(s.service.ID, m.SecretID)
	// A verifier of other parameters than the descriptor's cannot be proved
	// either: to the peer it is one more wrong secret.
	if s.known = s.known && s.verifier.fits(m.SecretID, s.service.Params); !s.known {
		s.verifier = fake
	}
	p := s.service.Params.Group.srp()
	v, err := p.element(s.verifier.V)
	if err != nil {
		return s.hookFailed(fmt.Errorf("admission: stored verifier of %q: %w", m.SecretID, err)), nil
	}
	for s.bPub == nil { // again with another b when B is zero: RFC 5054, Section 2.5.3
		if s.eph, err = s.cfg.Pool.take(s.service.Params.Group, s.random); err != nil {
			return s.hookFailed(err), nil
		}
		if s.bPub, err = p.challenge(v, s.eph.gb); err != nil {
			s.eph.wipe()
		}
	}
	s.become(serverWantProof, serverWantStart)
	return reply(encode(TypeChallenge, &challenge{Salt: s.verifier.Salt, B: s.bPub})), nil
}

// guessedTooOften is told for known and unknown IDs alike.
func guessedTooOften() *Refusal {
	return &Refusal{Code: CodeBusy, Detail: "too many wrong proofs for this secret of late"}
}

// fits says whether a stored verifier can answer for secretID under params.
func (v *Verifier) fits(secretID string, params Params) bool {
	return v.SecretID == secretID && v.Params == params &&
		len(v.Salt) == SaltSize && len(v.V) == params.Group.Size()
}

// onProof computes S only now that the peer has shown its proof.
func (s *Server) onProof(now time.Time, f Frame) (ServerOutput, error) {
	var m proof
	if err := decode(f, &m); err != nil {
		return ServerOutput{}, err
	}
	if !s.cfg.Throttle.take(now, s.verifier.SecretID, s.cfg.Source) {
		return s.refuse(guessedTooOften(), nil), nil
	}
	t := transcript{
		binding: &s.cfg.Binding, group: s.service.Params.Group.srp(),
		secretID: s.verifier.SecretID, salt: s.verifier.Salt,
		a: m.A, b: s.bPub, service: s.service.ID, pid: id.ID(m.PID),
	}
	kM, err := s.agree(&t)
	if err != nil {
		return ServerOutput{}, err
	}
	defer kM.Wipe()
	right := equal(m.M1, t.clientProof(&kM))
	if !right || !s.known {
		return s.refuse(&Refusal{Code: CodeWrongSecret}, nil), nil
	}
	s.cfg.Throttle.giveBack(s.verifier.SecretID, s.cfg.Source)
	s.who = Authenticated{
		Service: s.service.ID, SecretID: s.verifier.SecretID, PID: t.pid, Admitted: now,
		Key: t.sessionKey(&kM), Exporter: s.cfg.Binding.Exporter,
	}
	var info []byte
	if s.service.Info != nil {
		if info, err = s.service.Info(); err != nil {
			return s.hookFailed(err), nil
		}
	}
	s.become(serverWantProvision, serverWantProof)
	return reply(encode(TypeAccept, &accept{M2: t.serverProof(&kM, m.M1), Info: info})), nil
}

// agree returns kM from the verifier.
func (s *Server) agree(t *transcript) (Key, error) {
	defer s.eph.wipe()
	if _, err := t.group.element(t.a); err != nil { // before u hashes it
		return Key{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	u, err := t.group.scramble(t.a, t.b)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	vu, err := s.powerOfVerifier(u)
	if err != nil {
		return Key{}, err
	}
	secret, err := t.group.serverSecretOf(t.a, vu, s.eph.b)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	defer clear(secret)
	return macKey(secret), nil
}

// powerOfVerifier returns v^u. Where there are tables of verifiers' powers, that of
// g serves for an unknown ID: its proof is refused whatever comes out, and only
// the time must be the same.
func (s *Server) powerOfVerifier(u []byte) (*bigmod.Nat, error) {
	p := s.service.Params.Group.srp()
	powers := s.verifier.powers
	if s.service.Prepared && !s.known {
		powers = p.powers
	}
	if powers != nil {
		return powers.power(u, p.n), nil
	}
	v, err := p.element(s.verifier.V)
	if err != nil {
		return nil, err
	}
	defer wipeNat(v)
	return bigmod.NewNat().Exp(v, u, p.n), nil
}

// onProvision checks that the identity key is the one that the proof named and
// that its holder is at the other end of this TLS session.
func (s *Server) onProvision(now time.Time, f Frame) (ServerOutput, error) {
	var m provision
	if err := decode(f, &m); err != nil {
		return ServerOutput{}, err
	}
	pid := id.FromKey(m.IDKey)
	if !equal(pid[:], s.who.PID[:]) || !verifyEnrol(m.IDKey, m.Sig, &s.cfg.Binding, m.Request) {
		return ServerOutput{}, fmt.Errorf("%w: identity signature", ErrMalformed)
	}
	s.who.IDKey = m.IDKey
	granted, err := s.cfg.Backend.Provision(s.who, m.Request)
	return s.grant(now, granted, err, serverWantProvision), nil
}

// grant answers with what a hook has granted, or refused.
func (s *Server) grant(now time.Time, granted Granted, err error, from serverState) ServerOutput {
	if err != nil {
		return s.hookFailed(err)
	}
	if err := granted.check(now); err != nil {
		return s.hookFailed(err)
	}
	out := encode(TypeGrant, &grant{
		Grant: granted.Bytes, Ticket: newTicket(s.service, &s.who, &granted), Expires: unixMs(granted.Expires),
	})
	if len(out.Body) > limitGrant {
		return s.hookFailed(errors.New("admission: grant too long"))
	}
	s.become(serverWantList, from)
	return reply(out)
}

func (s *Server) onList(f Frame) (ServerOutput, error) {
	var m opaque
	if err := decode(f, &m); err != nil {
		return ServerOutput{}, err
	}
	list, err := s.cfg.Backend.List(s.who, m.Bytes)
	if err != nil {
		return s.hookFailed(err), nil
	}
	out := encode(TypeListReply, &opaque{Bytes: list})
	if len(out.Body) > limitListReply {
		return s.hookFailed(errors.New("admission: peer list too long")), nil
	}
	s.finish()
	return ServerOutput{Send: []Frame{out}, Done: true}, nil
}

// hookFailed sends the refusal that a hook returned, or CodeInternal. Two codes
// belong to this package and would make the peer drop a good secret or ticket.
func (s *Server) hookFailed(err error) ServerOutput {
	var r *Refusal
	if !errors.As(err, &r) || r.Code == 0 || r.Code == CodeWrongSecret || r.Code == CodeTicket {
		r = &Refusal{Code: CodeInternal}
	}
	return s.refuse(r, err)
}

// refuse ends the admission. A nil cause means that r says it all.
func (s *Server) refuse(r *Refusal, cause error) ServerOutput {
	if cause == nil {
		cause = r
	}
	s.finish()
	return ServerOutput{Send: []Frame{r.frame()}, Done: true, Refused: r.Code, Cause: cause}
}

func (s *Server) finish() {
	s.Wipe()
	s.state = serverDone
}

func (s *Server) become(next, from serverState) {
	if s.state != from {
		panic(fmt.Sprintf("admission: internal error: server %v -> %v", s.state, next))
	}
	s.state = next
}

func reply(f Frame) ServerOutput { return ServerOutput{Send: []Frame{f}} }
