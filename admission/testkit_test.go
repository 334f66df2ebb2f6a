package admission

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"icvpn/internal/id"
)

// testNow is the time of every machine in these tests.
var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var (
	testService  = id.Hash("test", []byte("service"))
	testSecret   = []byte("0123456789abcdef")
	testSecretID = "web-1"
	testParams   = Params{Group: Group2048, KDF: KDFNone}
)

func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// world is a super peer's Backend, with hooks to break it.
type world struct {
	service   Service
	verifiers map[string]Verifier
	used      map[TicketID]bool
	provision func(Authenticated, []byte) (Granted, error)
	list      func(Authenticated, []byte) ([]byte, error)
	granted   []Authenticated
	memos     [][]byte // of the tickets used
	ticketUse int
}

var _ Backend = (*world)(nil)

func newWorld(t testing.TB) *world {
	t.Helper()
	return worldOf(newVerifierOnce(t))
}

func newWorldWith(t testing.TB, params Params) *world {
	t.Helper()
	v, err := NewVerifier(testSecretID, testSecret, params)
	if err != nil {
		t.Fatal(err)
	}
	return worldOf(v)
}

func worldOf(v Verifier) *world {
	return &world{
		service: Service{
			ID: testService, Root: []byte("root"), Descriptor: []byte("descriptor"), Params: v.Params,
			FakeKey: Key{1}, TicketKeys: []Key{{2}}, Key: testServerKey, Issuer: testIssuer, Info: func() ([]byte, error) { return []byte("info"), nil },
		},
		verifiers: map[string]Verifier{testSecretID: v},
		used:      map[TicketID]bool{},
	}
}

// testIssuer knows one super peer.
func testIssuer(pid id.ID, _ time.Time) (ed25519.PublicKey, bool) {
	key := publicOf(testServerKey)
	return key, pid == id.FromKey(key)
}

var sharedVerifier = sync.OnceValues(func() (Verifier, error) {
	return NewVerifier(testSecretID, testSecret, testParams)
})

// newVerifierOnce saves an exponentiation in loops.
func newVerifierOnce(t testing.TB) Verifier {
	t.Helper()
	v, err := sharedVerifier()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (w *world) Service(service id.ID) (*Service, bool) { return &w.service, service == w.service.ID }

func (w *world) Verifier(_ id.ID, secretID string) (Verifier, bool) {
	v, ok := w.verifiers[secretID]
	return v, ok
}

func (w *world) Continue(who Authenticated, ticket *Ticket, request []byte) (Granted, error) {
	w.ticketUse++
	if w.used[ticket.ID] {
		return Granted{}, ErrTicketUsed
	}
	w.used[ticket.ID] = true
	w.memos = append(w.memos, ticket.Memo)
	return w.Provision(who, request)
}

func (w *world) Provision(who Authenticated, request []byte) (Granted, error) {
	if w.provision != nil {
		return w.provision(who, request)
	}
	w.granted = append(w.granted, who)
	return Granted{Bytes: []byte("grant"), Expires: testNow.Add(time.Hour), Memo: []byte("memo")}, nil
}

func (w *world) List(who Authenticated, request []byte) ([]byte, error) {
	if w.list != nil {
		return w.list(who, request)
	}
	return append([]byte("list for "), request...), nil
}

func testRequest() ([]byte, error) { return []byte("request"), nil }

var testServerKey = testKey("super peer")

// testBinding is what both ends of one TLS session would export.
func testBinding(name string) Binding {
	return Binding{
		ServerKey: publicOf(testServerKey),
		Exporter:  sha256.Sum256([]byte("exporter " + name)),
		Ratchet:   sha256.Sum256([]byte("ratchet " + name)),
		Hybrid:    true,
	}
}

func testClientConfig() ClientConfig {
	return ClientConfig{
		ServiceID: testService, Identity: testKey("peer"), Binding: testBinding("one"),
		CheckDescriptor: func(_, _ []byte, key ed25519.PublicKey) (Params, error) {
			if !key.Equal(publicOf(testServerKey)) {
				return Params{}, errors.New("key not listed")
			}
			return testParams, nil
		},
		SecretID: testSecretID, Secret: testSecret, Request: testRequest, List: true,
	}
}

func newTestClient(t testing.TB, cfg ClientConfig) *Client {
	t.Helper()
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newTestServer(t testing.TB, w *world, b Binding) *Server {
	t.Helper()
	s, err := NewServer(ServerConfig{Backend: w, Binding: b})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run is what an admission came to.
type run struct {
	frames    []Frame // in both directions, as sent
	info      []byte
	grant     []byte
	list      []byte
	session   Session
	clientErr error
	serverErr error
	cause     error // of the server's refusal
}

// play runs both machines against each other in memory. tamper, if not nil,
// may change the n-th frame on its way.
func play(t testing.TB, c *Client, s *Server, tamper func(n int, f Frame) Frame) (r run) {
	t.Helper()
	pass := func(f Frame) Frame {
		f.Body = append([]byte(nil), f.Body...)
		if tamper != nil {
			f = tamper(len(r.frames), f)
		}
		r.frames = append(r.frames, f)
		return f
	}
	toServer := []Frame{c.Begin()}
	for len(toServer) > 0 {
		var out ServerOutput
		out, r.serverErr = s.Step(testNow, pass(toServer[0]))
		toServer = nil
		if out.Cause != nil {
			r.cause = out.Cause
		}
		if r.serverErr != nil {
			return r
		}
		for _, f := range out.Send {
			var next *Frame
			next, r.clientErr = r.clientStep(c, pass(f))
			if r.clientErr != nil {
				return r
			}
			if next != nil {
				toServer = append(toServer, *next)
			}
		}
	}
	return r
}

// clientStep does what a conductor does with a client's output.
func (r *run) clientStep(c *Client, f Frame) (*Frame, error) {
	out, err := c.Step(testNow, f)
	if err != nil {
		return nil, err
	}
	switch out.Event {
	case EventAccepted:
		r.info = out.Data
		f, err := c.Provision([]byte("request"))
		return &f, err
	case EventGranted:
		r.grant = out.Data
		r.session, _ = c.Session()
		f, err := c.List([]byte("me"))
		return &f, err
	case EventListed:
		r.list = out.Data
		return nil, nil
	}
	if len(out.Send) == 1 {
		return &out.Send[0], nil
	}
	if f.Type == TypeAccept { // of a ticket: the grant follows
		return nil, nil
	}
	return nil, fmt.Errorf("client said nothing after %v", f.Type)
}

// refusedWith returns the code of a *Refusal in err, or 0.
func refusedWith(err error) Code {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return 0
}

// overTLS runs one admission over real TLS 1.3 on a loopback connection: dial
// is where the client connects, so that a man in the middle can stand there.
func overTLS(t testing.TB, w *world, cfg ClientConfig, pins []ed25519.PublicKey) (r run) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() { done <- serveOne(ln, w, testServerKey) }()
	r.clientErr = dialOnce(ln.Addr().String(), cfg, pins, &r)
	r.serverErr = <-done
	return r
}

// serveOne accepts one connection and serves it to its end.
func serveOne(ln net.Listener, w *world, key ed25519.PrivateKey) error {
	raw, err := ln.Accept()
	if err != nil {
		return err
	}
	conn := tls.Server(raw, ServerTLS(key, testNow))
	defer conn.Close()
	if err := conn.Handshake(); err != nil {
		return err
	}
	binding, err := BindServer(conn.ConnectionState(), publicOf(key))
	if err != nil {
		return err
	}
	s, err := NewServer(ServerConfig{Backend: w, Binding: binding})
	if err != nil {
		return err
	}
	defer s.Wipe()
	for {
		f, err := ReadFrame(conn, s.Limit())
		if err != nil {
			return err
		}
		out, err := s.Step(testNow, f)
		if err != nil {
			return err
		}
		for _, f := range out.Send {
			if err := WriteFrame(conn, f); err != nil {
				return err
			}
		}
		if out.Done {
			return out.Cause
		}
	}
}

// dialOnce is a peer's side of a connection, from TCP to the list.
func dialOnce(addr string, cfg ClientConfig, pins []ed25519.PublicKey, r *run) error {
	config := ClientTLS(pins)
	if cfg.Session != nil {
		config = TicketTLS(pins)
	}
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if cfg.Binding, err = BindClient(conn.ConnectionState()); err != nil {
		return err
	}
	c, err := NewClient(cfg)
	if err != nil {
		return err
	}
	defer c.Wipe()
	next := c.Begin()
	if err := WriteFrame(conn, next); err != nil {
		return err
	}
	for {
		f, err := ReadFrame(conn, c.Limit())
		if err != nil {
			return err
		}
		r.frames = append(r.frames, f)
		step, err := r.clientStep(c, f)
		if err != nil || r.list != nil {
			return err
		}
		if step == nil {
			continue
		}
		if err := WriteFrame(conn, *step); err != nil {
			return err
		}
	}
}
