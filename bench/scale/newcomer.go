//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/provision"
	"icvpn/internal/seal"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// gate is what all newcomers of a service know: its token and, once one of them
// has verified it, the chain of documents. A peer verifies the chain for itself;
// here hundreds share two cores with the super peer that is measured.
type gate struct {
	token service.Token

	mu    sync.Mutex
	seen  []byte // descriptor
	trust *service.Trust
	ring  *seal.Ring              // of the group key
	stmts map[id.ID]abe.Statement // of super peers
}

func newGate(token service.Token) *gate {
	return &gate{token: token, stmts: map[id.ID]abe.Statement{}}
}

// newcomer is a machine that is admitted by package admission's client and
// then does not run: it is in the directory, and its address is taken.
type newcomer struct {
	gate     *gate
	name     string
	key      ed25519.PrivateKey
	instance service.Instance
	asked    int64 // of the last claim, Unix milliseconds

	credential *service.Credential
	grant      provision.Grant
	session    *admission.Session
}

func (g *gate) newcomer(name string) *newcomer {
	n := &newcomer{gate: g, name: name}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic("scale: internal error: " + err.Error()) // the generator never fails
	}
	n.key = key
	rand.Read(n.instance[:])
	return n
}

// admit is admitted on a connection, which it closes, by ticket if it has one
// and renew is set.
func (n *newcomer) admit(ctx context.Context, c net.Conn, renew bool) error {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, admission.Timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	a := &attempt{newcomer: n, renew: renew && n.session != nil}
	settings := admission.ClientTLS(nil)
	if a.renew {
		settings = admission.TicketTLS(nil)
	}
	tc := tls.Client(c, settings)
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	return a.run(tc)
}

// attempt is one admission under way.
type attempt struct {
	*newcomer
	renew  bool
	server id.ID
	client *admission.Client
}

func (a *attempt) run(tc *tls.Conn) error {
	binding, err := admission.BindClient(tc.ConnectionState())
	if err != nil {
		return err
	}
	cfg := admission.ClientConfig{
		ServiceID: a.gate.token.Service, Identity: a.key, Binding: binding, SecretID: a.gate.token.SecretID, Secret: a.gate.token.Secret,
		CheckDescriptor: a.checkDescriptor,
	}
	if a.renew {
		cfg.Session = a.session
		cfg.Request = func() ([]byte, error) {
			return provision.Renewal{Request: a.request().Encode(), Holds: provision.AllParts}.Encode(), nil
		}
	}
	if a.client, err = admission.NewClient(cfg); err != nil {
		return err
	}
	defer a.client.Wipe()
	for next := []admission.Frame{a.client.Begin()}; next != nil; {
		if err := admission.WriteFrames(tc, next...); err != nil {
			return err
		}
		f, err := admission.ReadFrame(tc, a.client.Limit())
		if err != nil {
			return err
		}
		if next, err = a.step(f); err != nil {
			return err
		}
	}
	return nil
}

// step returns what to send, nothing when the newcomer is admitted.
func (a *attempt) step(f admission.Frame) ([]admission.Frame, error) {
	out, err := a.client.Step(time.Now(), f)
	if err != nil {
		return nil, err
	}
	next := out.Send
	switch out.Event {
	case admission.EventAccepted:
		if err := a.learn(out.Data); err != nil {
			return nil, err
		}
		request, err := a.sealed()
		if err != nil {
			return nil, err
		}
		p, err := a.client.Provision(request)
		return append(next, p), err
	case admission.EventGranted:
		session, ok := a.client.Session()
		if !ok {
			return nil, errors.New("granted without a session")
		}
		if err := a.granted(out.Data, session); err != nil || a.renew {
			return nil, err
		}
		l, err := a.client.List(nil)
		return append(next, l), err
	case admission.EventListed:
		return nil, nil
	}
	if len(next) == 0 {
		next = []admission.Frame{}
	}
	return next, nil
}

func (a *attempt) checkDescriptor(roots, descriptor []byte, key ed25519.PublicKey) (admission.Params, error) {
	trust, err := a.gate.open(roots, descriptor)
	if err != nil {
		return admission.Params{}, err
	}
	a.server = id.FromKey(key)
	if _, ok := trust.Descriptor.SuperPeer(a.server); !ok {
		return admission.Params{}, errors.New("not a super peer of this service")
	}
	return admission.Params{Group: admission.Group(trust.Descriptor.SRPGroup), KDF: admission.KDF(trust.Descriptor.KDF)}, nil
}

// open verifies the chain of documents, once.
func (g *gate) open(roots, descriptor []byte) (*service.Trust, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if bytes.Equal(g.seen, descriptor) {
		return g.trust, nil
	}
	var docs service.Documents
	if err := wire.Unmarshal(roots, &docs.Roots, service.MaxSigned); err != nil {
		return nil, err
	}
	if err := wire.Unmarshal(descriptor, &docs.Descriptor, service.MaxSigned); err != nil {
		return nil, err
	}
	trust, err := service.Open(docs, g.token.Service, g.token.MinSeq, time.Now())
	if err != nil {
		return nil, err
	}
	g.seen, g.trust = bytes.Clone(descriptor), trust
	return trust, nil
}

// learn takes the super peer's key for requests, once.
func (a *attempt) learn(data []byte) error {
	a.gate.mu.Lock()
	defer a.gate.mu.Unlock()
	if _, known := a.gate.stmts[a.server]; known {
		return nil
	}
	info, err := provision.ParseInfo(data)
	if err != nil {
		return err
	}
	trust := a.gate.trust
	st, err := abe.VerifyStatement(info.Statement, a.gate.token.Service, func(issuer id.ID) (ed25519.PublicKey, bool) { return trust.AuthorityKey(issuer, time.Now()) }, time.Now())
	if err == nil {
		a.gate.stmts[a.server] = st
	}
	return err
}

// request is what the super peer is asked for. Claims of one machine grow.
func (a *attempt) request() provision.Request {
	pid := id.FromKey(a.key.Public().(ed25519.PublicKey))
	a.asked = max(time.Now().UnixMilli(), a.asked+1)
	return provision.Request{
		PID: pid, Name: a.name, VM: a.name, Binary: "scale", Instance: a.instance,
		Claim: service.SignClaim(a.key, a.gate.token.Service, a.server, a.instance, time.UnixMilli(a.asked)),
	}
}

// sealed is the request of a newcomer, sealed to the super peer.
func (a *attempt) sealed() ([]byte, error) {
	a.gate.mu.Lock()
	st, known := a.gate.stmts[a.server]
	a.gate.mu.Unlock()
	if !known {
		return nil, errors.New("no key of this super peer for requests")
	}
	return discovery.Seal(st, "request", a.key.Public().(ed25519.PublicKey), a.request().Encode())
}

// granted reads what a newcomer is given, or what is new for one who is back.
func (a *attempt) granted(data []byte, session admission.Session) error {
	var g provision.Grant
	var err error
	if a.renew {
		var r provision.Renewed
		if r, err = provision.ParseRenewed(data); err == nil {
			g, err = r.Over(a.grant)
		}
	} else {
		g, err = provision.ParseGrant(data)
	}
	if err != nil {
		return err
	}
	return a.take(g, session)
}

// take verifies the credential as every member will.
func (a *attempt) take(g provision.Grant, session admission.Session) error {
	trust, err := a.gate.policy(g)
	if err != nil {
		return err
	}
	c, err := trust.VerifyCredential(time.Now(), g.Credential, g.Epoch)
	if err != nil {
		return err
	}
	if !c.Key.Equal(a.key.Public()) {
		return errors.New("the credential is for another key")
	}
	a.credential, a.session, a.grant = c, &session, g
	return nil
}

// policy adds the policy to the chain, once.
func (g *gate) policy(grant provision.Grant) (*service.Trust, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trust.Policy != nil {
		return g.trust, nil
	}
	t, err := g.trust.WithPolicy(grant.Policy, time.Now())
	if err == nil {
		g.trust = t
	}
	return t, err
}

// retryable says whether a newcomer tries again: the super peer is busy, or
// closed the connection at its door.
func retryable(err error) bool {
	var r *admission.Refusal
	if errors.As(err, &r) {
		return r.Code == admission.CodeBusy
	}
	return err != nil
}

// reason is a short name for what ended an attempt.
func reason(err error) string {
	var r *admission.Refusal
	switch {
	case errors.As(err, &r):
		return fmt.Sprint(r.Code)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET):
		return "connection closed"
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}
