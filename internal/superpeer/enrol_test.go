package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/provision"
	"icvpn/internal/service"
)

// pipes is a listener of in-memory connections from any address.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// pipeFrom gives a pipe the remote address of a TCP connection.
type pipeFrom struct {
	net.Conn
	remote net.Addr
}

func (p pipeFrom) RemoteAddr() net.Addr { return p.remote }

func (l *pipes) dial(from netip.Addr) net.Conn {
	near, far := net.Pipe()
	l.conns <- pipeFrom{far, net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 40000))}
	return near
}

// gate is a super peer whose acceptLoop runs, and nothing else of it.
type gate struct {
	*SuperPeer
	*pipes
	svc   *owner.Service
	name  string // the TLS server name of visitors
	warns atomic.Int64
}

// atTheGate runs f beside the acceptLoop of a super peer in simulated time.
func atTheGate(t *testing.T, f func(t *testing.T, g *gate)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{pipes: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}}
		g.SuperPeer, g.svc = newTestSuper(t, new(ledger.Memory), nil)
		g.cfg.TCP = g.pipes
		g.log = slog.New(countWarns{&g.warns})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.acceptLoop(ctx) }()
		f(t, g)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// countWarns is a log of which only the number of warnings is kept.
type countWarns struct{ n *atomic.Int64 }

func (countWarns) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (h countWarns) Handle(context.Context, slog.Record) error  { h.n.Add(1); return nil }
func (h countWarns) WithAttrs([]slog.Attr) slog.Handler         { return h }
func (h countWarns) WithGroup(string) slog.Handler              { return h }

// visitor is a machine at the gate.
type visitor struct {
	conn    *tls.Conn
	client  *admission.Client
	key     ed25519.PrivateKey
	svc     *owner.Service
	super   id.ID  // whom it talks to
	granted func() // if not nil: called when the session is there
}

// visit connects and does TLS.
func (g *gate) visit(from netip.Addr, change func(*admission.ClientConfig)) (*visitor, error) {
	settings := admission.ClientTLS(nil)
	settings.ServerName = g.name
	v := &visitor{conn: tls.Client(g.dial(from), settings), key: comer(g.svc, "web", 1).key, svc: g.svc}
	if err := v.conn.Handshake(); err != nil {
		return nil, err
	}
	binding, err := admission.BindClient(v.conn.ConnectionState())
	if err != nil {
		return nil, err
	}
	v.super = id.FromKey(binding.ServerKey)
	token := g.svc.Tokens[0].Token
	cfg := admission.ClientConfig{
		ServiceID: g.svc.ID, Identity: v.key, Binding: binding, SecretID: token.SecretID, Secret: token.Secret,
		CheckDescriptor: func(_, _ []byte, _ ed25519.PublicKey) (admission.Params, error) { return g.admission.Params, nil },
	}
	if change != nil {
		change(&cfg)
	}
	v.client, err = admission.NewClient(cfg)
	return v, err
}

// exchange sends a frame and gives the answer to the client's machine.
func (v *visitor) exchange(f admission.Frame) (admission.ClientOutput, error) {
	if err := admission.WriteFrame(v.conn, f); err != nil {
		return admission.ClientOutput{}, err
	}
	back, err := admission.ReadFrame(v.conn, v.client.Limit())
	if err != nil {
		return admission.ClientOutput{}, err
	}
	return v.client.Step(time.Now(), back)
}

// enter goes through the whole admission.
func (v *visitor) enter() error {
	defer v.conn.NetConn().Close() // no alert: in a pipe it waits for a reader
	next := v.client.Begin()
	for {
		out, err := v.exchange(next)
		if err != nil {
			return err
		}
		switch out.Event {
		case admission.EventAccepted:
			next, err = v.request(out.Data)
		case admission.EventGranted:
			if v.granted != nil {
				v.granted()
			}
			next, err = v.client.List(nil)
		case admission.EventListed:
			return nil
		default:
			next = out.Send[0]
		}
		if err != nil {
			return err
		}
	}
}

func (v *visitor) request(data []byte) (admission.Frame, error) {
	info, err := provision.ParseInfo(data)
	if err != nil {
		return admission.Frame{}, err
	}
	trusted := func(p id.ID) (ed25519.PublicKey, bool) {
		for _, f := range v.svc.Supers {
			key, err := owner.ParseKey(f.Key)
			if err != nil {
				return nil, false
			}
			h, err := service.OpenHandOver(f.HandOver, key)
			if err != nil {
				return nil, false
			}
			if pub := ed25519.NewKeyFromSeed(h.Seed).Public().(ed25519.PublicKey); id.FromKey(pub) == p {
				return pub, true
			}
		}
		return nil, false
	}
	st, err := abe.VerifyStatement(info.Statement, v.svc.ID, trusted, time.Now())
	if err != nil {
		return admission.Frame{}, err
	}
	pub := v.key.Public().(ed25519.PublicKey)
	req := provision.Request{PID: id.FromKey(pub), Name: "web-1", Instance: service.Instance{1}}
	req.Claim = service.SignClaim(v.key, v.svc.ID, v.super, req.Instance, time.Now())
	sealed, err := discovery.Seal(st, "request", pub, req.Encode())
	if err != nil {
		return admission.Frame{}, err
	}
	return v.client.Provision(sealed)
}

// admit is a whole visit.
func (g *gate) admit(from netip.Addr, change func(*admission.ClientConfig)) error {
	v, err := g.visit(from, change)
	if err != nil {
		return err
	}
	return v.enter()
}

// host is a different address for each i, ten to a network.
func host(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i / 2560), byte(i / 10), byte(i % 10)})
}

var newcomerAt = netip.MustParseAddr("198.51.100.1")

func wrongSecret(c *admission.ClientConfig) { c.Secret = []byte("0123456789abcdef") }

func TestIdleConnectionsDoNotStopAdmission(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		for i := range 600 { // from 60 networks; 256 were enough once
			defer g.dial(host(i)).Close()
		}
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Error(err)
		}
	})
}

// TestConnectionsOfFewNetworksDoNotFillThePlaces: not even all that a dozen
// networks can open.
func TestConnectionsOfFewNetworksDoNotFillThePlaces(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		for n := range 12 {
			for i := range 200 {
				defer g.dial(netip.AddrFrom4([4]byte{10, 0, byte(n), byte(i)})).Close()
			}
		}
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Error(err)
		}
	})
}

// TestSilentPeersAreCut stops at each step before the proof, also in the middle
// of a frame.
func TestSilentPeersAreCut(t *testing.T) {
	half := func(v *visitor) {
		if _, err := v.conn.Write([]byte{0, 0, 0, 20, 1, 2}); err != nil {
			panic(err)
		}
	}
	begin := func(v *visitor) admission.Frame {
		out, err := v.exchange(v.client.Begin())
		if err != nil {
			panic(err)
		}
		return out.Send[0]
	}
	for name, c := range map[string]struct {
		until time.Duration
		steps func(*visitor)
	}{
		"after TLS":            {helloWait, func(*visitor) {}},
		"in the first frame":   {helloWait, half},
		"after the descriptor": {stepWait, func(v *visitor) { begin(v) }},
		"in the second frame":  {stepWait, func(v *visitor) { begin(v); half(v) }},
		"after the challenge": {stepWait, func(v *visitor) {
			if _, err := v.exchange(begin(v)); err != nil {
				panic(err)
			}
		}},
	} {
		atTheGate(t, func(t *testing.T, g *gate) {
			v, err := g.visit(newcomerAt, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.steps(v)
			start := time.Now()
			if _, err := v.conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: something was said", name)
			}
			if took := time.Since(start); took != c.until {
				t.Errorf("%s: cut after %v, want %v", name, took, c.until)
			}
		})
	}
}

func TestPeersWithoutTLSAreCut(t *testing.T) {
	for _, said := range [][]byte{nil, {22, 3, 1}, {22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}} {
		atTheGate(t, func(t *testing.T, g *gate) {
			c := g.dial(newcomerAt)
			if _, err := c.Write(said); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if _, err := io.Copy(io.Discard, c); err != nil || time.Since(start) != helloWait {
				t.Errorf("% x: cut after %v, %v", said, time.Since(start), err)
			}
			if n := g.admissions.results[resultTLS].Load(); n != 1 {
				t.Errorf("% x: %d failed handshakes counted", said, n)
			}
		})
	}
}

// TestPeersThatDoNotReadAreCut: an answer nobody takes in ends by the same
// deadline.
func TestPeersThatDoNotReadAreCut(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		v, err := g.visit(newcomerAt, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := admission.WriteFrame(v.conn, v.client.Begin()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for g.door.running() > 0 {
			sleep(t.Context(), time.Second)
		}
		if took := time.Since(start); took > stepWait+time.Second {
			t.Errorf("place given back after %v", took)
		}
	})
}

func TestFullHouseIsCounted(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		g.door.mu.Lock()
		g.door.places.taken = maxConnections
		g.door.mu.Unlock()
		if err := g.admit(newcomerAt, nil); err == nil {
			t.Error("admitted")
		}
		g.door.admitted(time.Now(), newcomerAt)
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Errorf("known source: %v", err)
		}
		if n := g.admissions.refused[admission.CodeBusy].Load(); n != 1 {
			t.Errorf("%d counted as busy", n)
		}
	})
}

func TestBusyIsToldFirstAndNamesAnotherSuperPeer(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		g.door.workers.waiting.Store(maxQueue)
		err := g.admit(newcomerAt, nil)
		var r *admission.Refusal
		if !errors.As(err, &r) || r.Code != admission.CodeBusy || r.Other != "192.0.2.2:4500" {
			t.Errorf("newcomer: %v", err)
		}
		g.door.admitted(time.Now(), newcomerAt)
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Errorf("known source: %v", err)
		}
	})
}

// TestStrangersLeaveAWorkerFree: with all of theirs at work, they are told so
// after a while; known sources go on.
func TestStrangersLeaveAWorkerFree(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		release := make(chan struct{})
		for range cap(g.door.workers.strangers) {
			go g.door.workers.do(t.Context(), true, func() { <-release })
		}
		synctest.Wait()
		wantCode(t, "stranger", g.admit(newcomerAt, nil), admission.CodeBusy)
		g.door.admitted(time.Now(), newcomerAt)
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Errorf("known source: %v", err)
		}
		close(release)
		synctest.Wait()
		if len(g.door.workers.all) != 0 || len(g.door.workers.strangers) != 0 || g.door.workers.waiting.Load() != 0 {
			t.Error("workers lost")
		}
	})
}

func TestAnAdmissionMakesItsSourceKnown(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		if err := g.admit(newcomerAt, wrongSecret); err == nil {
			t.Fatal("wrong secret admitted")
		}
		if g.door.known.has(time.Now(), newcomerAt) {
			t.Error("known by a wrong secret")
		}
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Fatal(err)
		}
		if !g.door.known.has(time.Now(), newcomerAt) {
			t.Error("not known after an admission")
		}
	})
}

// TestGuessesAreThrottledAtTheGate: the members' source goes on while strangers
// guess their secret.
func TestGuessesAreThrottledAtTheGate(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		g.door.throttle = admission.NewThrottle(admission.ThrottleConfig{Burst: 3})
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			want := admission.CodeWrongSecret
			if i >= 3 {
				want = admission.CodeBusy
			}
			wantCode(t, fmt.Sprint("guess ", i), g.admit(netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), wrongSecret), want)
		}
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Errorf("known source: %v", err)
		}
	})
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		for range 10 {
			wantCode(t, "guess", g.admit(newcomerAt, wrongSecret), admission.CodeWrongSecret)
		}
		if n := g.warns.Load(); n != 1 {
			t.Errorf("10 refusals wrote %d lines", n)
		}
	})
}

func TestOneMachineIsNotGrantedWithoutEnd(t *testing.T) {
	atTheGate(t, func(t *testing.T, g *gate) {
		for i := range grantBurst {
			if err := g.admit(newcomerAt, nil); err != nil {
				t.Fatalf("grant %d: %v", i, err)
			}
		}
		wantCode(t, "one more", g.admit(newcomerAt, nil), admission.CodeBusy)
		sleep(t.Context(), grantEvery)
		if err := g.admit(newcomerAt, nil); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}
