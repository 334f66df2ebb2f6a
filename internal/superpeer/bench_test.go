package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/provision"
	"icvpn/internal/service"
)

// cpu is the processor time that a clock of the kernel has counted.
func cpu(b *testing.B, clock int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// serverCPU runs client b.N times and reports the processor time of the process
// without that of the client's thread: what a super peer spends on one, garbage
// collection of both sides included.
func serverCPU(b *testing.B, client func(i int)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ResetTimer()
	all, own := cpu(b, unix.CLOCK_PROCESS_CPUTIME_ID), cpu(b, unix.CLOCK_THREAD_CPUTIME_ID)
	for i := range b.N {
		client(i)
	}
	spent := cpu(b, unix.CLOCK_PROCESS_CPUTIME_ID) - all - (cpu(b, unix.CLOCK_THREAD_CPUTIME_ID) - own)
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/spent.Seconds(), "per-core-s")
	b.ReportMetric(float64(yardstick(b).Nanoseconds())/1e3, "verify-us") // 42 on the machine of docs/performance.md when idle
	b.ReportMetric(0, "ns/op")                                           // the client's share is in it
}

// yardstick is the processor time of one Ed25519 verification here and now, by
// which figures of a busy machine can be compared.
func yardstick(b *testing.B) time.Duration {
	const n = 200
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	sig := ed25519.Sign(key, nil)
	began := cpu(b, unix.CLOCK_THREAD_CPUTIME_ID)
	for range n {
		ed25519.Verify(pub, nil, sig)
	}
	return (cpu(b, unix.CLOCK_THREAD_CPUTIME_ID) - began) / n
}

// bench is a super peer on a loopback socket that bounds no rate, with one
// attribute key ready at a time: keys are made in idle time.
type bench struct {
	*gate
	slot *abe.Slot
	keys [64]ed25519.PrivateKey
}

func newBench(b *testing.B) *bench {
	b.Helper()
	svc, err := owner.Create(owner.Options{
		Name: "shop", Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"web", "app"}, SuperPeers: []string{"192.0.2.1:4500", "192.0.2.2:4500"},
		Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}}}, Now: time.Now(),
	})
	if err != nil {
		b.Fatal(err)
	}
	s := startTestSuper(b, svc, new(ledger.Memory), nil)
	s.door.strangers = admission.NewLimiter(admission.LimiterConfig{Rate: 1e6, Burst: 1e6, TotalRate: 1e6, TotalBurst: 1e6})
	s.door.regulars = s.door.strangers
	for i := range s.door.grants.table {
		s.door.grants.table[i] = rate.NewLimiter(rate.Inf, 1)
	}
	s.log = slog.New(slog.DiscardHandler)
	t := &bench{gate: &gate{SuperPeer: s, svc: svc}}
	if t.slot, err = s.authority.abe.NewSlot(nil, discovery.Attributes(s.authority.rules(), map[string]string{"role": "web"}), s.service.trust().Descriptor.Generation); err != nil {
		b.Fatal(err)
	}
	for i := range t.keys {
		t.keys[i] = comer(svc, "web", byte(i+1)).key
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.acceptLoop(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	return t
}

// tls connects and shakes hands as for a secret or for a ticket.
func (t *bench) tls(b *testing.B, config func([]ed25519.PublicKey) *tls.Config) *tls.Conn {
	c, err := net.Dial("tcp", t.cfg.TCP.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	tc := tls.Client(c, config(nil))
	if err := tc.Handshake(); err != nil {
		b.Fatal(err)
	}
	return tc
}

// client is the i-th machine on a connection.
func (t *bench) client(b *testing.B, i int, tc *tls.Conn) *visitor {
	v := &visitor{conn: tc, key: t.keys[i%len(t.keys)], svc: t.svc, super: t.PID()}
	binding, err := admission.BindClient(tc.ConnectionState())
	if err != nil {
		b.Fatal(err)
	}
	token := t.svc.Tokens[0].Token
	v.client, err = admission.NewClient(admission.ClientConfig{
		ServiceID: t.svc.ID, Identity: v.key, Binding: binding, SecretID: token.SecretID, Secret: token.Secret,
		CheckDescriptor: func(_, _ []byte, _ ed25519.PublicKey) (admission.Params, error) { return t.admission.Params, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// BenchmarkAdmission is a super peer's processor time for a newcomer, to the end
// of each step. g^b is made on the spot, as in a storm that has emptied the
// pool.
func BenchmarkAdmission(b *testing.B) {
	t := newBench(b)
	b.Run("to=tls", func(b *testing.B) {
		serverCPU(b, func(int) { t.tls(b, admission.ClientTLS).NetConn().Close() })
	})
	b.Run("to=descriptor", func(b *testing.B) {
		serverCPU(b, func(i int) {
			v := t.client(b, i, t.tls(b, admission.ClientTLS))
			if _, err := v.exchange(v.client.Begin()); err != nil {
				b.Fatal(err)
			}
			v.conn.NetConn().Close()
		})
	})
	b.Run("to=list", func(b *testing.B) {
		serverCPU(b, func(i int) {
			t.authority.slots.Add(t.slot, false)
			if err := t.client(b, i, t.tls(b, admission.ClientTLS)).enter(); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// BenchmarkRenewal is a super peer's processor time for a member that comes back
// with its ticket and has everything else still.
func BenchmarkRenewal(b *testing.B) {
	t := newBench(b)
	b.Run("to=tls", func(b *testing.B) {
		serverCPU(b, func(int) { t.tls(b, admission.TicketTLS).NetConn().Close() })
	})
	sessions := make([]admission.Session, len(t.keys))
	for i := range sessions {
		t.authority.slots.Add(t.slot, false)
		v := t.client(b, i, t.tls(b, admission.ClientTLS))
		v.granted = func() { sessions[i], _ = v.client.Session() }
		if err := v.enter(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("to=grant", func(b *testing.B) {
		serverCPU(b, func(i int) { t.renew(b, i%len(sessions), sessions) })
	})
}

func (t *bench) renew(b *testing.B, i int, sessions []admission.Session) {
	tc := t.tls(b, admission.TicketTLS)
	defer tc.NetConn().Close()
	binding, err := admission.BindClient(tc.ConnectionState())
	if err != nil {
		b.Fatal(err)
	}
	key := t.keys[i]
	c, err := admission.NewClient(admission.ClientConfig{
		ServiceID: t.svc.ID, Identity: key, Binding: binding, Session: &sessions[i],
		CheckDescriptor: func(_, _ []byte, _ ed25519.PublicKey) (admission.Params, error) { return t.admission.Params, nil },
		Request: func() ([]byte, error) {
			req := provision.Request{PID: id.FromKey(key.Public().(ed25519.PublicKey)), Name: "web-1", Instance: service.Instance{1}}
			req.Claim = service.SignClaim(key, t.svc.ID, t.PID(), req.Instance, time.Now())
			return provision.Renewal{Request: req.Encode(), Holds: provision.AllParts}.Encode(), nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	next := []admission.Frame{c.Begin()}
	for {
		if err := admission.WriteFrames(tc, next...); next != nil && err != nil {
			b.Fatal(err)
		}
		f, err := admission.ReadFrame(tc, c.Limit())
		if err != nil {
			b.Fatal(err)
		}
		out, err := c.Step(time.Now(), f)
		if err != nil {
			b.Fatal(err)
		}
		if next = out.Send; out.Event == admission.EventGranted {
			sessions[i], _ = c.Session()
			return
		}
	}
}
