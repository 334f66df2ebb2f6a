package superpeer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/filter"
	"icvpn/internal/ledger"
	"icvpn/internal/owner"
	"icvpn/internal/port"
	"icvpn/internal/underlay"
)

// cpu is the processor time that a clock of the kernel has counted.
func cpu(b *testing.B, clock int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// serverCPU has the crowd do something b.N times and reports the processor time
// of this process: what a super peer spends on one, the kernel's work for it and
// garbage collection included.
func (t *bench) serverCPU(b *testing.B, what, addr string) {
	b.ResetTimer()
	var spent, unit time.Duration
	batches := 0
	for left := b.N; left > 0; left -= crowdBatch {
		n := min(left, crowdBatch)
		if what == "enrol" {
			t.ready(n)
		}
		t.renewer.Expire(time.Now().Add(time.Hour)) // each machine renews as often as it likes
		before := cpu(b, unix.CLOCK_PROCESS_CPUTIME_ID)
		t.crowd.do(b, what, addr, n)
		spent += cpu(b, unix.CLOCK_PROCESS_CPUTIME_ID) - before
		unit += yardstick(b)
		batches++
	}
	unit /= time.Duration(batches)
	each := spent / time.Duration(b.N)
	b.ReportMetric(float64(each.Nanoseconds())/1e3, "cpu-us/op")
	b.ReportMetric(1/each.Seconds(), "per-core-s")
	b.ReportMetric(float64(unit.Nanoseconds())/1e3, "verify-us") // 42 on the machine of docs/performance.md when idle
	b.ReportMetric(float64(each)/float64(unit), "verifies/op")
	b.ReportMetric(0, "ns/op") // the clients' share is in it
}

// ready puts attribute keys into the pool: they are made in idle time.
func (t *bench) ready(n int) {
	for range n {
		t.authority.slots.Add(t.slot, false)
	}
}

// yardstick is the processor time of one Ed25519 verification here and now:
// "verifies/op" compares figures of a busy machine.
func yardstick(b *testing.B) time.Duration {
	const n = 50
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

// bench is a super peer on a loopback socket that bounds no rate. Its clients are
// another process.
type bench struct {
	*gate
	slot  *abe.Slot
	crowd *crowd
	udp   string // where it takes datagrams
}

func newBench(b *testing.B, supers int) *bench {
	b.Helper()
	var endpoints []string
	for i := range supers {
		endpoints = append(endpoints, fmt.Sprintf("192.0.2.%d:4500", i+1))
	}
	svc, err := owner.Create(owner.Options{
		Name: "shop", Prefix4: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"web", "app"}, SuperPeers: endpoints,
		Rules: []filter.Rule{{From: filter.Selector{"role": "web"}, To: filter.Selector{"role": "app"}}}, Now: time.Now(),
	})
	if err != nil {
		b.Fatal(err)
	}
	udp, err := underlay.Listen(b.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		b.Fatal(err)
	}
	s := startTestSuperOn(b, udp, svc, new(ledger.Memory), nil)
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
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.acceptLoop(ctx) }()
	go func() { done <- s.port.Run(ctx, port.Handlers{Control: s.host.onControl}) }()
	go func() { done <- s.renewalsLoop(ctx) }()
	b.Cleanup(func() { cancel(); <-done; <-done; <-done })
	s.offers = port.NewBuckets(1e6, 1e6)
	t.udp = fmt.Sprintf("127.0.0.1:%d", s.port.Number())
	t.crowd = newCrowd(b, svc)
	return t
}

// bareTLS answers connections with a handshake and one record, and nothing else:
// the least that TLS costs.
func bareTLS(b *testing.B, key ed25519.PrivateKey) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	config := admission.ServerTLS(key, time.Now())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				tc := tls.Server(c, config)
				if tc.Handshake() == nil {
					_, _ = tc.Read(make([]byte, 64))
				}
				c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// BenchmarkAdmission is a super peer's processor time for a newcomer, to the end
// of each step. g^b is made on the spot, as in a storm that has emptied the
// pool. "bare" is a server that does nothing but TLS.
func BenchmarkAdmission(b *testing.B) {
	t := newBench(b, 2)
	addr, bare := t.cfg.TCP.Addr().String(), bareTLS(b, t.authority.key)
	b.Run("to=tls/bare", func(b *testing.B) { t.serverCPU(b, "tls-secret", bare) })
	b.Run("to=tls", func(b *testing.B) { t.serverCPU(b, "tls-secret", addr) })
	b.Run("to=descriptor", func(b *testing.B) { t.serverCPU(b, "descriptor", addr) })
	b.Run("to=list", func(b *testing.B) { t.serverCPU(b, "enrol", addr) })
}

// BenchmarkRenewal is a super peer's processor time for a member that comes back
// with its ticket and has everything else still.
func BenchmarkRenewal(b *testing.B) {
	t := newBench(b, 2)
	addr, bare := t.cfg.TCP.Addr().String(), bareTLS(b, t.authority.key)
	t.ready(crowdBatch)
	t.crowd.do(b, "enrol", addr, crowdBatch)
	b.Run("to=tls/bare", func(b *testing.B) { t.serverCPU(b, "tls-ticket", bare) })
	b.Run("to=tls", func(b *testing.B) { t.serverCPU(b, "tls-ticket", addr) })
	b.Run("to=grant", func(b *testing.B) { t.serverCPU(b, "renew", addr) })
	b.Run("by=datagram", func(b *testing.B) { t.serverCPU(b, "renew-brief", t.udp) })
}

// BenchmarkAmong is what an admission and a renewal cost one super peer of so
// many, with so many members there.
func BenchmarkAmong(b *testing.B) {
	for _, c := range []struct{ supers, members int }{{1, 0}, {2, 0}, {4, 0}, {8, 0}, {1, 1000}, {1, 5000}} {
		t := newBench(b, c.supers)
		for n := range c.members {
			admitMember(b, t.authority, t.svc, n)
		}
		addr, name := t.cfg.TCP.Addr().String(), fmt.Sprintf("supers=%d/members=%d/", c.supers, c.members)
		t.ready(crowdBatch)
		t.crowd.do(b, "enrol", addr, crowdBatch)
		b.Run(name+"admission", func(b *testing.B) { t.serverCPU(b, "enrol", addr) })
		b.Run(name+"renewal", func(b *testing.B) { t.serverCPU(b, "renew", addr) })
		b.Run(name+"renewal by datagram", func(b *testing.B) { t.serverCPU(b, "renew-brief", t.udp) })
	}
}
