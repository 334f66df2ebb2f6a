package admission

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"icvpn/internal/id"
)

// ClientConfig is what a peer brings along. It has no useful zero value.
type ClientConfig struct {
	// ServiceID names the service; the descriptor must fit it.
	ServiceID id.ID
	// Identity is the peer's identity key; its hash is the PID.
	Identity ed25519.PrivateKey
	// Binding is of the TLS session, from BindClient.
	Binding Binding
	// CheckDescriptor checks that root and descriptor belong to ServiceID, are
	// signed, current, and list serverKey as a super peer that may admit; it
	// returns the service's SRP parameters. The client sends nothing of its
	// own before this returned nil. Both slices are the callee's.
	CheckDescriptor func(root, descriptor []byte, serverKey ed25519.PublicKey) (Params, error)

	// SecretID and Secret are the enrolment secret of the token, borrowed
	// until the machine is done. May be empty when Session is set.
	SecretID string
	Secret   []byte
	// Session, if not nil and not expired, is used in place of the secret, over
	// TicketTLS. A super peer that refuses the ticket says CodeTicket; use the
	// secret then, on a new connection. Borrowed.
	Session *Session
	// Request returns what goes with the ticket, in the place of Provision. It is
	// called after CheckDescriptor. List says that List will be called after
	// EventGranted.
	Request func() ([]byte, error)
	List    bool
}

func (c *ClientConfig) validate() error {
	switch {
	case len(c.Identity) != ed25519.PrivateKeySize:
		return errors.New("admission: ClientConfig.Identity is no Ed25519 key")
	case len(c.Binding.ServerKey) != ed25519.PublicKeySize:
		return errors.New("admission: ClientConfig.Binding is not from BindClient")
	case c.CheckDescriptor == nil:
		return errors.New("admission: ClientConfig.CheckDescriptor is missing")
	case c.Secret == nil && c.Session == nil:
		return errors.New("admission: neither ClientConfig.Secret nor ClientConfig.Session is set")
	case c.Session != nil && c.Request == nil:
		return errors.New("admission: ClientConfig.Request is missing")
	case c.Secret != nil:
		return checkSecretID(c.SecretID)
	}
	return nil
}

// Event says what a Step brought, for the caller to act on.
type Event uint8

// The events of a client, in their order.
const (
	EventNone     Event = iota
	EventAccepted       // Data is the info of the super peer: call Provision next
	EventGranted        // Data is the grant; Session is ready: call List, or stop here
	EventListed         // Data is the list; done
)

// ClientOutput is what to do after a step: send first, then act on Event. Data
// is the caller's.
type ClientOutput struct {
	Send  []Frame
	Event Event
	Data  []byte
}

type clientState uint8

//	idle --Begin--> wantDescriptor --check--+--> wantChallenge --> wantAccept
//	                                        +--(session)-------------^  |  |
//	accepted <----------------------------------------------------------+  |
//	   +--Provision--> wantGrant --> granted --List--> wantList --> done   |
//	                       ^-----------------(session)---------------------+
//
// failed is reached from everywhere, by an error or a refusal, and never left.
const (
	clientIdle clientState = iota
	clientWantDescriptor
	clientWantChallenge
	clientWantAccept
	clientAccepted
	clientWantGrant
	clientGranted
	clientWantList
	clientDone
	clientFailed
)

var clientStateNames = [...]string{"idle", "wantDescriptor", "wantChallenge", "wantAccept", "accepted", "wantGrant", "granted", "wantList", "done", "failed"}

func (s clientState) String() string { return clientStateNames[s] }

// Client is a peer's side of one admission. Every error is final: close the
// connection; a *Refusal says why in words. It is not safe for concurrent use.
type Client struct {
	cfg    ClientConfig
	random io.Reader
	state  clientState

	pid        id.ID
	params     Params
	serverTime time.Time
	resuming   bool
	wantM2     []byte
	key        Key // K_c of this admission
	session    Session
}

// NewClient returns a machine that waits for Begin.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	pid := id.FromKey(cfg.Identity.Public().(ed25519.PublicKey))
	return &Client{cfg: cfg, random: rand.Reader, pid: pid}, nil
}

// Begin returns the first frame.
func (c *Client) Begin() Frame {
	c.become(clientWantDescriptor, clientIdle)
	return encode(TypeDescriptorRequest, &descriptorRequest{Version: version, Service: c.cfg.ServiceID[:]})
}

// Limit is what to pass to ReadFrame before the next Step.
func (c *Client) Limit() int {
	switch c.state {
	case clientWantDescriptor:
		return limitDescriptor
	case clientWantChallenge:
		return limitChallenge
	case clientWantAccept:
		return limitAccept
	case clientWantGrant:
		return limitGrant
	case clientWantList:
		return limitListReply
	}
	return limitRefused
}

// ServerTime is the super peer's clock as it stood in its Descriptor frame:
// zero before, and unproven until EventAccepted.
func (c *Client) ServerTime() time.Time { return c.serverTime }

// Continued says that the ticket was accepted in the place of a secret.
func (c *Client) Continued() bool { return c.resuming }

// Session returns the new session after EventGranted. It is the caller's.
func (c *Client) Session() (Session, bool) {
	s := c.session
	s.Ticket = append([]byte(nil), s.Ticket...)
	return s, c.state == clientGranted || c.state == clientWantList || c.state == clientDone
}

// Wipe overwrites the secrets that the machine made. Call it when the
// connection ends, however it ends.
func (c *Client) Wipe() {
	c.key.Wipe()
	clear(c.wantM2)
	c.session.Wipe()
	c.cfg.Binding.wipe()
	c.cfg.Secret, c.cfg.Session = nil, nil
	c.state = clientFailed
}

// Step takes the frame that came.
func (c *Client) Step(now time.Time, f Frame) (ClientOutput, error) {
	out, err := c.step(now, f)
	if err != nil {
		c.Wipe()
		return ClientOutput{}, err
	}
	return out, nil
}

func (c *Client) step(now time.Time, f Frame) (ClientOutput, error) {
	switch {
	case f.Type == TypeRefused:
		return ClientOutput{}, c.onRefused(f)
	case f.Type == TypeDescriptor && c.state == clientWantDescriptor:
		return c.onDescriptor(now, f)
	case f.Type == TypeChallenge && c.state == clientWantChallenge:
		return c.onChallenge(f)
	case f.Type == TypeAccept && c.state == clientWantAccept:
		return c.onAccept(f)
	case f.Type == TypeGrant && c.state == clientWantGrant:
		return c.onGrant(f)
	case f.Type == TypeListReply && c.state == clientWantList:
		return c.onListReply(f)
	}
	return ClientOutput{}, fmt.Errorf("%w: %v while %v", ErrOrder, f.Type, c.state)
}

// onDescriptor decides whether to talk to this super peer at all.
func (c *Client) onDescriptor(now time.Time, f Frame) (ClientOutput, error) {
	var m descriptor
	if err := decode(f, &m); err != nil {
		return ClientOutput{}, err
	}
	params, err := c.cfg.CheckDescriptor(m.Root, m.Descriptor, c.cfg.Binding.ServerKey)
	if err != nil {
		return ClientOutput{}, fmt.Errorf("admission: descriptor: %w", err)
	}
	if err := params.validate(); err != nil {
		return ClientOutput{}, err
	}
	c.params, c.serverTime = params, fromUnixMs(m.Clock)
	if s := c.cfg.Session; s != nil && !s.Expired(now) {
		return c.resume(s)
	}
	if c.cfg.Secret == nil {
		return ClientOutput{}, errors.New("admission: the session has expired and there is no enrolment secret to go on with")
	}
	if err := checkSecret(c.cfg.Secret, params.KDF); err != nil {
		return ClientOutput{}, err
	}
	c.become(clientWantChallenge, clientWantDescriptor)
	return send(encode(TypeStart, &start{SecretID: c.cfg.SecretID})), nil
}

// resume proves the old session key and the identity key, and computes the
// next session key.
func (c *Client) resume(s *Session) (ClientOutput, error) {
	request, err := c.cfg.Request()
	if err != nil {
		return ClientOutput{}, err
	}
	b := &c.cfg.Binding
	m := resume{Ticket: s.Ticket, IDKey: c.cfg.Identity.Public().(ed25519.PublicKey), Request: request, More: c.cfg.List}
	m.MAC = continueMAC(&s.Key, b, &m)
	m.Sig = continueSignature(c.cfg.Identity, b, &m, c.cfg.ServiceID, c.pid)
	f := encode(TypeContinue, &m)
	if len(f.Body) > limitContinue {
		return ClientOutput{}, fmt.Errorf("admission: request of %d bytes is too long to go with a ticket", len(request))
	}
	c.key = nextSessionKey(&s.Key, b, c.cfg.ServiceID, c.pid)
	c.wantM2 = continuedProof(&c.key, b, m.MAC)
	c.resuming = true
	c.become(clientWantAccept, clientWantDescriptor)
	return send(f), nil
}

// onChallenge answers with A and M1.
func (c *Client) onChallenge(f Frame) (ClientOutput, error) {
	var m challenge
	if err := decode(f, &m); err != nil {
		return ClientOutput{}, err
	}
	p := c.params.Group.srp()
	if _, err := p.element(m.B); err != nil { // before 46 ms of argon2id
		return ClientOutput{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	a, err := newExponent(c.random)
	if err != nil {
		return ClientOutput{}, fmt.Errorf("admission: %w", err)
	}
	defer clear(a)
	t := transcript{
		binding: &c.cfg.Binding, group: p, secretID: c.cfg.SecretID, salt: m.Salt,
		a: p.public(p.power(a)), b: m.B, service: c.cfg.ServiceID, pid: c.pid,
	}
	kM, err := c.agree(&t, a)
	if err != nil {
		return ClientOutput{}, err
	}
	defer kM.Wipe()
	m1 := t.clientProof(&kM)
	c.wantM2, c.key = t.serverProof(&kM, m1), t.sessionKey(&kM)
	c.become(clientWantAccept, clientWantChallenge)
	return send(encode(TypeProof, &proof{A: t.a, PID: c.pid[:], M1: m1})), nil
}

// agree returns kM from the secret.
func (c *Client) agree(t *transcript, a []byte) (Key, error) {
	u, err := t.group.scramble(t.a, t.b)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	x := stretchedPrivate(t.group, c.params.KDF, t.salt, t.secretID, c.cfg.Secret)
	defer clear(x)
	s, err := t.group.clientSecret(t.b, x, a, u)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	defer clear(s)
	return macKey(s), nil
}

// onAccept checks that the super peer holds the verifier, or opened the ticket.
func (c *Client) onAccept(f Frame) (ClientOutput, error) {
	var m accept
	if err := decode(f, &m); err != nil {
		return ClientOutput{}, err
	}
	if !equal(m.M2, c.wantM2) {
		return ClientOutput{}, errors.New("admission: the super peer could not prove that it knows the verifier of our secret")
	}
	if c.resuming { // the request has gone with the ticket
		c.become(clientWantGrant, clientWantAccept)
		return ClientOutput{}, nil
	}
	c.become(clientAccepted, clientWantAccept)
	return ClientOutput{Event: EventAccepted, Data: m.Info}, nil
}

// Provision returns the frame that carries request, signed by the identity
// key. Call it after EventAccepted.
func (c *Client) Provision(request []byte) (Frame, error) {
	if c.state != clientAccepted {
		return Frame{}, fmt.Errorf("%w: Provision while %v", ErrOrder, c.state)
	}
	f := encode(TypeProvision, &provision{
		Request: request,
		IDKey:   c.cfg.Identity.Public().(ed25519.PublicKey),
		Sig:     enrolSignature(c.cfg.Identity, &c.cfg.Binding, request),
	})
	if len(f.Body) > limitProvision {
		return Frame{}, fmt.Errorf("admission: provisioning request of %d bytes is too long", len(request))
	}
	c.become(clientWantGrant, clientAccepted)
	return f, nil
}

func (c *Client) onGrant(f Frame) (ClientOutput, error) {
	var m grant
	if err := decode(f, &m); err != nil {
		return ClientOutput{}, err
	}
	if c.resuming {
		var err error
		if m.Grant, err = openGrant(&c.key, m.Grant); err != nil {
			return ClientOutput{}, fmt.Errorf("%w: grant: %w", ErrMalformed, err)
		}
	}
	c.session = Session{Key: c.key, Ticket: m.Ticket, Expires: fromUnixMs(m.Expires)}
	c.become(clientGranted, clientWantGrant)
	return ClientOutput{Event: EventGranted, Data: m.Grant}, nil
}

// List returns the frame that asks for the peers. Call it after EventGranted.
func (c *Client) List(request []byte) (Frame, error) {
	if c.state != clientGranted {
		return Frame{}, fmt.Errorf("%w: List while %v", ErrOrder, c.state)
	}
	f := encode(TypeList, &opaque{Bytes: request})
	if len(f.Body) > limitList {
		return Frame{}, fmt.Errorf("admission: list request of %d bytes is too long", len(request))
	}
	c.become(clientWantList, clientGranted)
	return f, nil
}

func (c *Client) onListReply(f Frame) (ClientOutput, error) {
	var m opaque
	if err := decode(f, &m); err != nil {
		return ClientOutput{}, err
	}
	c.become(clientDone, clientWantList)
	return ClientOutput{Event: EventListed, Data: m.Bytes}, nil
}

// onRefused returns the refusal as the error, if it is one that an honest super
// peer gives at this point: nobody but the holder of the verifier, and only
// after the proof, may make us give up the secret.
func (c *Client) onRefused(f Frame) error {
	var m refused
	if err := decode(f, &m); err != nil {
		return err
	}
	code := Code(m.Code)
	fits := code.early()
	switch c.state {
	case clientIdle, clientDone, clientFailed:
		fits = false
	case clientWantAccept:
		fits = fits || code == CodeWrongSecret && !c.resuming || code == CodeTicket && c.resuming
	case clientAccepted, clientWantGrant, clientGranted, clientWantList:
		fits = code != CodeWrongSecret && code != CodeTicket
	}
	if !fits {
		return fmt.Errorf("%w: refusal %v while %v", ErrOrder, code, c.state)
	}
	return &Refusal{Code: code, Detail: m.Detail, Other: m.Other}
}

func (c *Client) become(next, from clientState) {
	if c.state != from {
		panic(fmt.Sprintf("admission: internal error: client %v -> %v", c.state, next))
	}
	c.state = next
}

func send(f Frame) ClientOutput { return ClientOutput{Send: []Frame{f}} }
