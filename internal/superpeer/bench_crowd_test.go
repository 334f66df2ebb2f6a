package superpeer

import (
	"bufio"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"icvpn/admission"
	"icvpn/internal/id"
	"icvpn/internal/owner"
	"icvpn/internal/port"
	"icvpn/internal/provision"
	"icvpn/internal/seal"
	"icvpn/internal/service"
)

const (
	crowdEnv = "ICVPN_BENCH_CROWD"
	// crowdBatch machines there are, and crowdAtOnce of them come at once.
	crowdBatch  = 64
	crowdAtOnce = 32
)

// crowd is a process of machines, the test binary again, so that their work is
// not in the super peer's figures. It is told what to do in lines.
type crowd struct {
	in  *json.Encoder
	out *bufio.Reader
}

func newCrowd(b *testing.B, svc *owner.Service) *crowd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrowd$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), crowdEnv+"=1", "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	c := &crowd{json.NewEncoder(in), bufio.NewReader(out)}
	if err := c.in.Encode(svc); err != nil {
		b.Fatal(err)
	}
	return c
}

// order is something that n machines do at an address.
type order struct {
	What, Addr string
	N          int
}

func (c *crowd) do(b *testing.B, what, addr string, n int) {
	b.Helper()
	if err := c.in.Encode(order{what, addr, n}); err != nil {
		b.Fatal(err)
	}
	line, err := c.out.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ok" {
		b.Fatalf("%s: %q, %v", what, line, err)
	}
}

// TestCrowd is the process of a crowd.
func TestCrowd(t *testing.T) {
	if os.Getenv(crowdEnv) == "" {
		t.Skip("part of the benchmarks")
	}
	in := json.NewDecoder(os.Stdin)
	svc := new(owner.Service)
	if err := in.Decode(svc); err != nil {
		t.Fatal(err)
	}
	first := handOver(t, svc, 0)
	ring := seal.NewRing(seal.Config{Service: svc.ID, IsAnswer: port.IsAnswer})
	if err := installEpoch(ring, first.Service); err != nil {
		t.Fatal(err)
	}
	var all [crowdBatch]*machine
	for i := range all {
		all[i] = &machine{svc: svc, key: comer(svc, "web", byte(i+1)).key, ring: ring, super: ed25519.NewKeyFromSeed(first.Seed).Public().(ed25519.PublicKey)}
	}
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return // the benchmark is over
		}
		var g errgroup.Group
		g.SetLimit(crowdAtOnce)
		for i := range o.N {
			g.Go(func() error { return all[i].do(o.What, o.Addr) })
		}
		if err := g.Wait(); err != nil {
			fmt.Println("failed:", err)
			return
		}
		fmt.Println("ok")
	}
}

// machine is one of a crowd.
type machine struct {
	svc     *owner.Service
	key     ed25519.PrivateKey
	session admission.Session
	ring    *seal.Ring
	super   ed25519.PublicKey // of the first super peer
}

func (m *machine) do(what, addr string) error {
	if what == "renew-brief" {
		return m.renewBriefly(addr)
	}
	config := admission.ClientTLS
	if what == "tls-ticket" || what == "renew" {
		config = admission.TicketTLS
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	tc := tls.Client(c, config(nil))
	if err := tc.Handshake(); err != nil || strings.HasPrefix(what, "tls-") {
		return err
	}
	v := &visitor{conn: tc, key: m.key, svc: m.svc}
	if err := m.client(v, what == "renew"); err != nil {
		return err
	}
	switch what {
	case "descriptor":
		_, err = v.exchange(v.client.Begin())
	case "enrol":
		v.granted = func() { m.session, _ = v.client.Session() }
		err = v.enter()
	default:
		err = m.renew(v)
	}
	return err
}

func (m *machine) client(v *visitor, ticket bool) (err error) {
	cfg := admission.ClientConfig{
		ServiceID: m.svc.ID, Identity: m.key, SecretID: m.svc.Tokens[0].Token.SecretID, Secret: m.svc.Tokens[0].Token.Secret,
		CheckDescriptor: func(_, _ []byte, _ ed25519.PublicKey) (admission.Params, error) {
			return admission.Params{Group: admission.DefaultGroup, KDF: admission.KDFNone}, nil
		},
	}
	if cfg.Binding, err = admission.BindClient(v.conn.ConnectionState()); err != nil {
		return err
	}
	v.super = id.FromKey(cfg.Binding.ServerKey)
	if ticket {
		cfg.Session = &m.session
		cfg.Request = func() ([]byte, error) {
			return provision.Renewal{Request: m.request(v.super), Holds: provision.AllParts}.Encode(), nil
		}
	}
	v.client, err = admission.NewClient(cfg)
	return err
}

// renew goes on to the grant.
func (m *machine) renew(v *visitor) error {
	next := []admission.Frame{v.client.Begin()}
	for {
		if err := admission.WriteFrames(v.conn, next...); len(next) > 0 && err != nil {
			return err
		}
		f, err := admission.ReadFrame(v.conn, v.client.Limit())
		if err != nil {
			return err
		}
		out, err := v.client.Step(time.Now(), f)
		if err != nil {
			return err
		}
		if next = out.Send; out.Event == admission.EventGranted {
			m.session, _ = v.client.Session()
			return nil
		}
	}
}

func (m *machine) request(super id.ID) []byte {
	req := provision.Request{PID: id.FromKey(m.key.Public().(ed25519.PublicKey)), Name: "web-1", Instance: service.Instance{1}}
	req.Claim = service.SignClaim(m.key, m.svc.ID, super, req.Instance, time.Now())
	return req.Encode()
}

// renewBriefly renews by datagram.
func (m *machine) renewBriefly(addr string) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	r := admission.NewRenewal(admission.RenewalConfig{
		Service: m.svc.ID, Identity: m.key.Public().(ed25519.PublicKey), Server: m.super, Session: &m.session,
		Request: func() ([]byte, error) {
			return provision.Brief{Request: m.request(id.FromKey(m.super)), Root: math.MaxInt64, Descriptor: math.MaxInt64}.Encode(), nil
		},
	})
	defer r.Wipe()
	next, pad := r.Ask(), seal.PadQuery
	for {
		d, err := m.ring.Seal(nil, time.Now(), seal.TypeRenewal, seal.Newest, next, pad)
		if err != nil {
			return err
		}
		if _, err := c.Write(d); err != nil {
			return err
		}
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		b := make([]byte, seal.MaxDatagram)
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		o, drop := m.ring.Open(time.Now(), b[:n], netip.MustParseAddr("127.0.0.1"))
		if drop != seal.Passed {
			return fmt.Errorf("answer dropped: %v", drop)
		}
		var granted *admission.Renewed
		if next, granted, err = r.Step(time.Now(), o.Payload); err != nil {
			return err
		}
		if granted != nil {
			m.session = granted.Session
			return nil
		}
		pad = seal.MaxPayload
	}
}
