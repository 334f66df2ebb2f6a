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
	"net"
	"sync"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/provision"
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

	credential *service.Credential
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
		cfg.Request = func() ([]byte, error) { return a.request(a.server) }
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
		request, err := a.request(a.server)
		if err != nil {
			return nil, err
		}
		p, err := a.client.Provision(request)
		return append(next, p), err
	case admission.EventGranted:
		if err := a.granted(out.Data); err != nil || a.renew {
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

// request is what the super peer is asked for, sealed to it.
func (a *attempt) request(server id.ID) ([]byte, error) {
	a.gate.mu.Lock()
	st, known := a.gate.stmts[server]
	a.gate.mu.Unlock()
	if !known {
		return nil, errors.New("no key of this super peer for requests")
	}
	pub := a.key.Public().(ed25519.PublicKey)
	req := provision.Request{PID: id.FromKey(pub), Name: a.name, VM: a.name, Binary: "scale", Instance: a.instance}
	return discovery.Seal(st, "request", pub, req.Encode())
}

// granted verifies the credential as every member will.
func (a *attempt) granted(data []byte) error {
	g, err := provision.ParseGrant(data)
	if err != nil {
		return err
	}
	a.gate.mu.Lock()
	if a.gate.trust.Policy == nil {
		if t, err := a.gate.trust.WithPolicy(g.Policy, time.Now()); err == nil {
			a.gate.trust = t
		}
	}
	trust := a.gate.trust
	a.gate.mu.Unlock()
	c, err := trust.VerifyCredential(time.Now(), g.Credential, g.Epoch)
	if err != nil {
		return err
	}
	if !c.Key.Equal(a.key.Public()) {
		return errors.New("the credential is for another key")
	}
	s, ok := a.client.Session()
	if !ok {
		return errors.New("granted without a session")
	}
	a.credential, a.session = c, &s
	return nil
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
	}
	return "closed"
}
